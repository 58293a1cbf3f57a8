"""Tasks of one's own: TSV with a header, JSON lines, or SentEval's probing format."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pyengine.errors import PyengineError
from pyengine.heads.senteval_probing import read_probing, sorted_labels
from pyengine.heads.task import (
    CLASSES,
    INNER_K_FOLD,
    K_FOLD,
    PARTS,
    SCORES,
    SIMILARITY,
    SPLIT,
    UNSUPERVISED,
    Task,
)
from pyengine.heads.task_lines import (
    Row,
    class_examples,
    filled_lines,
    score_examples,
    split_fields,
)
from pyengine.lines import COMPRESSED, check_files, check_text

# What columns may be called.
COLUMNS = {
    "split": ("split", "partition", "part"),
    "label": ("label",),
    "score": ("score",),
    "first": ("text", "text1", "sentence", "sentence1"),
    "second": ("text2", "sentence2"),
}
SPLITS = {
    **dict.fromkeys(("tr", "train"), "train"),
    **dict.fromkeys(("va", "val", "valid", "validation", "dev"), "dev"),
    **dict.fromkeys(("te", "test"), "test"),
    "all": "all",
}
Record = tuple[int, dict[str, str]]


def is_task_file(name: str) -> bool:
    """Whether a name is that of a file by its ending."""
    return _ending(Path(name)) in READERS


def read_task_file(path: str | Path) -> Task:
    """Read a task from a file; its name is the file's without endings.

    `.txt`: SentEval's probing format. `.tsv`: a header, then tabs between columns, without quotes.
    `.jsonl`: an object per line. Each also `.gz` or `.zst`. Columns (fields) are `split` (train,
    dev, test; all, or no such column, for nested cross-validation), `label` or `score`, `text`, and
    for pairs `text2`. Classes are numbered as train's labels sorted as strings; scores are at least
    0, the highest being the whole number above them. Pairs with scores that are all of `test` are
    for the cosine alone.

    Raises:
        PyengineError: if the file is missing or cannot be read, with the line.
    """
    (path,) = check_files(path)
    name = path.name.removesuffix(path.suffix) if path.suffix in COMPRESSED else path.name
    reader = READERS.get(_ending(path))
    if reader is None:
        raise PyengineError(f"{path}: a task is a file {', '.join(READERS)}")
    return reader(path, Path(name).stem)


def _read_tsv(path: Path, name: str) -> Task:
    return _task(path, name, _tsv_records(path))


def _read_jsonl(path: Path, name: str) -> Task:
    return _task(path, name, _json_records(path))


READERS = {".txt": read_probing, ".tsv": _read_tsv, ".jsonl": _read_jsonl}


def _ending(path: Path) -> str:
    return (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix


def _tsv_records(path: Path) -> Iterator[Record]:
    lines = filled_lines(path)
    header = [name.strip() for name in next(lines, (1, ""))[1].split("\t")]
    for number, line in lines:
        fields = split_fields(path, number, line, len(header))
        if len(fields) > len(header):
            raise PyengineError(f"{path}:{number}: {len(fields)} fields, but {len(header)} columns")
        yield number, dict(zip(header, fields, strict=True))


def _json_records(path: Path) -> Iterator[Record]:
    for number, line in filled_lines(path):
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise PyengineError(f"{where}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise PyengineError(f"{where}: a JSON object is needed, not {type(record).__name__}")
        yield (
            number,
            {key: _as_text(value, where) for key, value in record.items() if value is not None},
        )


def _as_text(value: Any, where: str) -> str:
    return check_text(value, where) if isinstance(value, str) else json.dumps(value)


def _task(path: Path, name: str, records: Iterator[Record]) -> Task:
    parts: dict[str, list[Row]] = defaultdict(list)
    kinds = set()
    for number, record in records:
        kind, row = _row(path, number, record)
        split = _get(record, "split") or "all"
        if split not in SPLITS:
            raise PyengineError(f"{row.where}: the split {split!r} is none of {', '.join(SPLITS)}")
        parts[SPLITS[split]].append(row)
        kinds.add((kind, row.second is not None))
    if len(kinds) != 1:
        some = "has no examples" if not kinds else "mixes labels and scores, or pairs and sentences"
        raise PyengineError(f"{path} {some}")
    ((kind, paired),) = kinds
    if kind == "label":
        return _class_task(path, name, parts)
    return _score_task(path, name, parts, paired)


def _row(path: Path, number: int, record: Mapping[str, str]) -> tuple[str, Row]:
    """Return what the target is, `label` or `score`, and the row."""
    found = {key: _get(record, key) for key in ("label", "score", "first")}
    kind = "score" if found["label"] is None else "label"
    for key in (kind, "first"):
        if found[key] is None:
            wanted = "label or score" if key == kind else " or ".join(COLUMNS[key])
            raise PyengineError(f"{path}:{number}: no {wanted} among {', '.join(record)}")
    target, first = found[kind] or "", found["first"] or ""
    return kind, Row(path, number, target.strip(), first, _get(record, "second"))


def _get(record: Mapping[str, str], key: str) -> str | None:
    return next((record[name] for name in COLUMNS[key] if name in record), None)


def _class_task(path: Path, name: str, parts: dict[str, list[Row]]) -> Task:
    protocol = _protocol(path, parts, (SPLIT, K_FOLD, INNER_K_FOLD))
    labels = sorted_labels(parts[PARTS[protocol][0]])
    examples = {part: class_examples(parts[part], labels) for part in PARTS[protocol]}
    return Task(name, CLASSES, protocol, labels, examples)


def _score_task(path: Path, name: str, parts: dict[str, list[Row]], paired: bool) -> Task:
    examples = {part: score_examples(rows) for part, rows in parts.items()}
    if paired and [*parts] == ["test"]:
        return Task(name, SIMILARITY, UNSUPERVISED, (), examples)
    _protocol(path, parts, (SPLIT,))
    lowest = min(part.targets.min() for part in examples.values())
    highest = max(part.targets.max() for part in examples.values())
    if lowest < 0 or highest <= 1:
        raise PyengineError(
            f"{path}: scores from {lowest:g} to {highest:g}; scale them to 0 … n, n at least 2"
        )
    ordered = {part: examples[part] for part in PARTS[SPLIT]}
    return Task(name, SCORES, SPLIT, (), ordered, n_scores=math.ceil(highest))


def _protocol(path: Path, parts: Mapping[str, Any], known: tuple[str, ...]) -> str:
    """Return the protocol that these parts are for."""
    for protocol in known:
        if set(PARTS[protocol]) == set(parts):
            return protocol
    wanted = " or ".join("+".join(PARTS[protocol]) for protocol in known)
    raise PyengineError(f"{path} has the parts {'+'.join(parts)}; it needs {wanted}")
