"""All heads of the trained small models on TREC and SST-2 as they were published: three checks.

No head that is not flagged as collapsed is further below the majority class than four standard
deviations of its accuracy; the best heads together, as many as are as wide as the model, are no
worse on dev than the best one; and SST-2 once more, from the same bank and seed, gives files of the
same bytes. All heads together are shown without a target: more heads need not be better.
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import pyengine
from benchmarks._heads_common import Scale
from benchmarks._values_common import Found, Line, cost, duration, verdict
from pyengine.heads.bank import HeadBank
from pyengine.heads.concat import concat_heads
from pyengine.heads.extract import extract_heads
from pyengine.heads.places import CROSS, HEAD
from pyengine.heads.probe_heads import probe_heads
from pyengine.heads.results import HeadResults
from pyengine.heads.results_table import CONCATS, PROBES
from pyengine.heads.task_names import read_task

TRAINED = Path(__file__).parents[1] / "tests" / "models"
MODELS: dict[str, str | Path] = {
    "GPT-2": "demo",
    "BERT": TRAINED / "bert",
    "GPT-Neo": TRAINED / "gpt_neo",
    "T5": TRAINED / "t5",
}
TASKS, AGAIN = ("TREC", "SST2"), "SST2"
SIGMAS = 4


def measure(scale: Scale) -> Found:
    """Extract, probe and concatenate, model by model."""
    lines, figures = list[Line](), dict[str, Any]()
    for name in ["GPT-2"] if scale.tiny else MODELS:
        with tempfile.TemporaryDirectory() as folder:
            spent, (own, figures[name]) = cost(partial(_of_model, name, scale.data, Path(folder)))
        lines += [Line(f"{name}: vectors, all probes", duration(spent.cpu_s)), *own]
        figures[name] |= spent._asdict()
    return lines, figures


def inputs(data: str) -> list[Path]:
    """Return the files of the tasks, for the record."""
    named = ("TREC*", "train_5500.label", "stsa.binary.*", "sentiment-*")
    return sorted({path for name in named for path in Path(data).rglob(name) if path.is_file()})


def _of_model(name: str, data: str | None, folder: Path) -> Found:
    model = pyengine.load(MODELS[name])
    locations = (HEAD, CROSS) if model.config.is_encoder_decoder else (HEAD,)
    tasks = [read_task(task, data) for task in TASKS]
    bank = extract_heads(model, tasks, out=folder / "bank", locations=locations)
    lines, figures = list[Line](), dict[str, Any]()
    for task in TASKS:
        results = _probed(bank, task, folder / task)
        own, figures[task] = judged(results, task)
        lines += own
    _probed(bank, AGAIN, folder / "again")
    same = all(
        (folder / AGAIN / file.name).read_bytes() == (folder / "again" / file.name).read_bytes()
        for file in (PROBES, CONCATS)
    )
    said = "equal bytes" if same else "other bytes"
    lines.append(Line(f"  {AGAIN} again", said, "", "", "equal bytes", verdict(same)))
    return lines, figures | {"repeated": same}


def _probed(bank: HeadBank, task: str, out: Path) -> HeadResults:
    """Probe every head, then as many of the best as are as wide as the model, and all of them."""
    results = probe_heads(bank, [task], out=out)
    place = bank.places[0]
    n_heads = len(results.ranked(task))
    concat_heads(bank, results, task, [min(place.n_parts, n_heads), n_heads])
    return HeadResults.open(out)


def judged(results: HeadResults, task: str) -> Found:
    """Judge the probes of a task, and the best heads together."""
    rows = results.table.to_pylist()
    lowest = min((deviations(row) for row in rows if not row["collapsed"]), default=np.inf)
    layer, head = results.ranked(task, 1)[0]
    best = {part: float(results.scores(task, part=part)[layer, head]) for part in ("dev", "test")}
    together = [{name: row[name] for name in ("n", "dev", "test")} for row in _concats(results)]
    n_collapsed = sum(row["collapsed"] for row in rows)
    majority = rows[0]["majority"]
    lines = [
        Line(
            f"  {task}, {len(rows)} heads, {n_collapsed} of them collapsed: lowest on test",
            f"{min(row['test'] for row in rows):.2f} %",
            f"majority {majority:.2f} %",
            f"{lowest:+.1f} deviations",
            f">= -{SIGMAS}",
            verdict(lowest >= -SIGMAS),
        )
    ]
    for row, judge in zip(together, (True, False), strict=True):
        lines.append(
            Line(
                f"  {task}, {row['n']} heads together: dev (test)",
                f"{row['dev']:.2f} ({row['test']:.2f}) %",
                f"best head {best['dev']:.2f} ({best['test']:.2f}) %",
                *(("", ">= best head on dev", verdict(row["dev"] >= best["dev"])) if judge else ()),
            )
        )
    found = {"heads": len(rows), "collapsed": n_collapsed, "majority": majority}
    found |= {"deviations": lowest, "layer": layer, "head": head, "best": best}
    return lines, found | {"together": together}


def deviations(row: dict[str, Any]) -> float:
    """Return how far an accuracy is from the majority's, in standard deviations of that."""
    share = row["majority"] / 100
    return float((row["test"] / 100 - share) / np.sqrt(share * (1 - share) / row["n_test"]))


def _concats(results: HeadResults) -> Sequence[dict[str, Any]]:
    return sorted(results.concats.to_pylist(), key=lambda row: int(row["n"]))
