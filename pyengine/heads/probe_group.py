"""One job: some trials that are trained side by side with one seed, and their rows."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from pyengine.errors import PyengineError
from pyengine.heads.bank import HeadBank
from pyengine.heads.bank_tasks import BankExamples, BankTask
from pyengine.heads.baselines import chance, majority
from pyengine.heads.outcomes import Outcome, Report, Side, outcomes
from pyengine.heads.probe_choice import ProbeChoice
from pyengine.heads.results_table import SCHEMA, short_name
from pyengine.heads.task import INNER_K_FOLD, UNSUPERVISED
from pyengine.heads.trials import Trial


class Job(NamedTuple):
    """Trials of one task and width, and their seed."""

    trials: tuple[Trial, ...]
    seed: int

    @property
    def n_parts(self) -> int:
        return sum(trial.n_parts for trial in self.trials)


def run_job(bank: HeadBank, job: Job, choice: ProbeChoice, report: Report) -> pa.Table:
    """Probe the heads of a job.

    Returns:
        Rows of results, `results_table.SCHEMA`.

    Raises:
        PyengineError: where vectors are not finite, or the task has too few examples.
    """
    task = bank.task(job.trials[0].task)
    found = outcomes(_side(bank, task, job.trials, choice.device), choice, job.seed, report)
    rows = [
        {**at, **_numbers(outcome, i), "metric": outcome.metric, "seed": job.seed}
        for outcome in found
        for i, at in enumerate(_places(job.trials))
    ]
    same = _same(bank, task, choice)
    return pa.Table.from_pylist([{**same, **row} for row in rows], SCHEMA)


def _side(bank: HeadBank, task: BankTask, trials: tuple[Trial, ...], device: str) -> Side:
    """Read the vectors of the task's own sentences."""
    used, rows = np.unique(
        np.concatenate([part.rows.ravel() for part in task.parts.values()]), return_inverse=True
    )
    if used[-1] >= bank.n_sentences:
        raise PyengineError(f"{bank.folder} is one shard of a bank: merge the shards first")
    x = np.concatenate(
        [
            bank.vectors(trial.place.location, trial.place.layer, used).reshape(
                len(used), trial.n_parts, trial.width
            )
            for trial in trials
        ],
        axis=1,
    )
    ends = np.cumsum([part.rows.size for part in task.parts.values()])[:-1]
    parts = {
        name: BankExamples(own.reshape(part.rows.shape), part.targets)
        for (name, part), own in zip(task.parts.items(), np.split(rows.ravel(), ends), strict=True)
    }
    names = [
        trial.place.name if head < 0 else f"{trial.place.name}.{head}"
        for trial in trials
        for head in trial.heads
    ]
    _check_finite(x, names)
    texts = bank.texts()
    own_texts = [texts[row] for row in used]
    return Side(torch.from_numpy(x).to(device), replace(task, parts=parts), own_texts, names)


def _check_finite(x: np.ndarray, names: list[str]) -> None:
    bad = np.flatnonzero(~np.isfinite(x).all((0, 2)))
    if len(bad):
        raise PyengineError(
            f"the vectors of {names[bad[0]]} hold NaN or infinities: leave it out, or extract them "
            "again in float32"
        )


def _places(trials: tuple[Trial, ...]) -> list[dict[str, Any]]:
    return [
        {
            "location": trial.place.location,
            "stack": trial.place.stack,
            "layer": trial.place.layer,
            "head": head,
            "width": trial.width,
            "pooling": trial.place.pooling,
        }
        for trial in trials
        for head in trial.heads
    ]


def _numbers(outcome: Outcome, i: int) -> dict[str, Any]:
    names = ("regulariser", "dev", "test", "epochs", "collapsed", "control")
    found = {name: getattr(outcome, name)[i].item() for name in names}
    return {**found, "selectivity": round(found["test"] - found["control"], 2)}


def _same(bank: HeadBank, task: BankTask, choice: ProbeChoice) -> dict[str, Any]:
    return {
        "model": short_name(bank.manifest["model"]["name"]),
        "task": task.name,
        "probe": choice.probe_of(task.kind),
        "majority": majority(task),
        "chance": chance(task),
        **_sizes(task),
        "n_classes": task.n_classes,
        "bank": bank.fingerprint,
        "settings": choice.record(task.kind),
    }


def _sizes(task: BankTask) -> dict[str, int]:
    """Return the numbers of examples; with nested folds all are both train and test."""
    sizes = {name: len(part) for name, part in task.parts.items()}
    if task.protocol == UNSUPERVISED:
        sizes = {"test": len(task)}
    if task.protocol == INNER_K_FOLD:
        sizes = {"train": len(task), "test": len(task)}
    return {f"n_{name}": sizes.get(name, 0) for name in ("train", "dev", "test")}
