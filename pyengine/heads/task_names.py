"""From a task's name, or a file, to the task."""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

from pyengine.errors import PyengineError
from pyengine.heads.pair_tasks import (
    STS,
    read_mrpc,
    read_sick,
    read_snli,
    read_sts,
    read_sts_benchmark,
)
from pyengine.heads.senteval_downstream import TWO_FILES, read_sst, read_trec, read_two_files
from pyengine.heads.senteval_probing import PROBING, read_senteval_probing
from pyengine.heads.task import Task
from pyengine.heads.task_files import is_task_file, read_task_file

# By name: what reads a task of SentEval, given its name and the folder of the data.
TASKS: Mapping[str, Callable[[str, str | Path | None], Task]] = {
    **dict.fromkeys(PROBING, read_senteval_probing),
    "TREC": read_trec,
    "SST2": read_sst,
    "SST5": read_sst,
    **dict.fromkeys(TWO_FILES, read_two_files),
    "MRPC": read_mrpc,
    "SICK-E": read_sick,
    "SICK-R": read_sick,
    "SNLI": read_snli,
    "STS-B": read_sts_benchmark,
    **dict.fromkeys(STS, read_sts),
}

# What else they are called.
ALIASES = {
    **{alias: name for name, aliases in PROBING.items() for alias in aliases},
    "SICKEntailment": "SICK-E",
    "SICKRelatedness": "SICK-R",
    "STSBenchmark": "STS-B",
}
CAPTIONS = ("COCO", "ImageCaptionRetrieval")


def read_task(name: str | Path, data: str | Path | None = None) -> Task:
    """Read a task of SentEval by name, or a task from a file.

    Args:
        name: one of `TASKS` or `ALIASES`, in any case; or a file, as `read_task_file` reads it.
        data: the folder of SentEval's data; not needed for a file.

    Returns:
        The task, its examples in the order of the files.

    Raises:
        PyengineError: for an unknown name, a missing file, or one that cannot be read.
    """
    if isinstance(name, Path) or is_task_file(name):
        return read_task_file(name)
    known = canonical_name(name)
    if known is None:
        raise PyengineError(_unknown(name))
    return TASKS[known](known, data)


def canonical_name(name: str) -> str | None:
    """Return what results call a task of SentEval, given any of its names; None if unknown."""
    return _NAMES.get(_plain(name))


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


_NAMES = {_plain(alias): name for alias, name in ({name: name for name in TASKS} | ALIASES).items()}


def _unknown(name: str) -> str:
    if _plain(name) in map(_plain, CAPTIONS):
        return f"{name} is image-caption retrieval, which is left out: it needs vectors of images"
    close = difflib.get_close_matches(_plain(name), _NAMES, 1)
    hint = f"; did you mean {_NAMES[close[0]]}?" if close else ";"
    return (
        f"unknown task {name!r}{hint} known are: {', '.join(TASKS)}; or a .txt, .tsv, .jsonl file"
    )
