"""The best heads of a task together: one probe for every n, on the n best side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyengine.errors import PyengineError
from pyengine.heads.bank import BankPlace, HeadBank
from pyengine.heads.bank_tasks import BankTask
from pyengine.heads.places import HEAD
from pyengine.heads.probe_choice import LOGISTIC, ProbeChoice
from pyengine.heads.probe_group import Job, run_job
from pyengine.heads.probe_settings import ProbeSettings
from pyengine.heads.results import HeadResults
from pyengine.heads.results_table import CONCATS, append, read
from pyengine.heads.trials import Trial
from pyengine.loading import resolve_device

ALL = "all"
ALL_LAYERS = -1  # the layer of rows on heads of several

Row = dict[str, Any]


def concat_heads(
    bank: HeadBank,
    results: HeadResults,
    task: str,
    ns: str | Sequence[int] = ALL,
    *,
    seeds: Sequence[int] = (123,),
    probe: str = LOGISTIC,
    settings: ProbeSettings | None = None,
    ranked_by: str | None = None,
    location: str = HEAD,
    device: str = "auto",
    out: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """Probe the n best heads of a task, side by side, for several n.

    Heads are ranked by their own probes on dev (mean over seeds; ties: lower layer, lower head), so
    that each n holds all heads of a smaller one. One probe is trained per n and seed: widths
    differ, and with them initial weights. With n = 1 it is the probe of the best head itself. Rows
    are saved after every probe; the same call takes up the rest. Scores need not rise with n.

    Args:
        bank: of `extract_heads`.
        results: of `probe_heads` on this bank.
        task: its name.
        ns: numbers of heads, or `all`: 1, 2, ... to all of them.
        seeds: one probe each.
        probe: `logistic`, `mlp`, `ridge` or `lda`.
        settings: of training; None: as `probe_heads`.
        ranked_by: the probe whose scores rank the heads; None: the same.
        location: whose heads, `head` or `cross`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        out: results folder; None: that of `results`.
        on_progress: called with (probes done, in all).

    Returns:
        The rows of these n and seeds, as `results_table.CONCATS` has them, ascending by n.

    Raises:
        PyengineError: if the results are not of this bank, lack the task, or have fewer heads.
    """
    folder = results.folder if out is None else Path(out)
    choice = ProbeChoice.of(probe, settings, seeds, False, str(resolve_device(device)))
    kind = bank.task(task).kind
    choice.check_kind(task, kind)
    ranking = _of_bank(results, bank).where(task=task, probe=ranked_by or choice.probe_of(kind))
    ranked = ranking.ranked(task, location=location)
    wanted = _numbers(ns, len(ranked), task)
    joined = _Joined.of(bank, location, ranked[: wanted[-1]])
    trials = [(n, seed) for n in wanted for seed in choice.seeds_of(kind)]
    found = list[pa.Table]()
    for n, seed in trials:
        rows = _known(folder, joined.best(n), task, choice, seed)
        if not rows.num_rows:
            rows = _probed(joined.best(n), task, choice, seed)
            append(folder, rows, CONCATS)
        found.append(rows)
        if on_progress is not None:
            on_progress(len(found), len(trials))
    return pa.concat_tables(found)


def _of_bank(results: HeadResults, bank: HeadBank) -> HeadResults:
    if bank.fingerprint not in results.table["bank"].to_pylist():
        raise PyengineError(
            f"the results in {results.folder} are not of the bank {bank.folder}; make some with: "
            f"pyengine heads probe {bank.folder} --out {results.folder}"
        )
    return results.where(bank=bank.fingerprint)


def _numbers(ns: str | Sequence[int], n_heads: int, task: str) -> list[int]:
    if isinstance(ns, str):
        if ns != ALL:
            raise PyengineError(f"n is {ALL!r} or some numbers, not {ns!r}")
        return list(range(1, n_heads + 1))
    wanted = sorted(set(ns))
    if not wanted or not 1 <= wanted[0] <= wanted[-1] <= n_heads:
        raise PyengineError(f"n must be from 1 to {n_heads}, the heads of {task}, not {list(ns)}")
    return wanted


@dataclass(frozen=True, eq=False)
class _Joined(HeadBank):
    """A bank whose only vectors are those of some heads, side by side; all else is as it was.

    Attributes:
        bank: the bank.
        joint: the heads as one place.
        heads: (layer, head), in order.
        x: float32 [n_sentences, at least as many heads, d_head], the heads first.
    """

    bank: HeadBank
    joint: BankPlace
    heads: list[tuple[int, int]]
    x: np.ndarray

    @classmethod
    def of(cls, bank: HeadBank, location: str, heads: list[tuple[int, int]]) -> "_Joined":
        """Read heads from a bank, place by place."""
        place = bank.place(location, heads[0][0])
        x = np.empty((bank.n_sentences, len(heads), place.width // place.n_parts), np.float32)
        for layer in {layer for layer, _ in heads}:
            mine = [i for i, head in enumerate(heads) if head[0] == layer]
            x[:, mine] = bank.vectors(location, layer)[:, [heads[i][1] for i in mine]]
        return cls._with(bank, location, heads, x)

    @classmethod
    def _with(
        cls, bank: HeadBank, location: str, heads: list[tuple[int, int]], x: np.ndarray
    ) -> "_Joined":
        places = [bank.place(location, layer) for layer, _ in heads]
        stack, pooling = (
            "+".join(sorted({getattr(place, name) for place in places}))
            for name in ("stack", "pooling")
        )
        joint = BankPlace(location, ALL_LAYERS, stack, 1, len(heads) * x.shape[2], pooling)
        same = (bank.folder, bank.files, bank.manifest, bank.record)
        return cls(*same, bank, joint, heads, x)

    def best(self, n: int) -> "_Joined":
        """Return the first n heads; they share memory."""
        return self._with(self.bank, self.joint.location, self.heads[:n], self.x)

    @cached_property
    def tasks(self) -> dict[str, BankTask]:
        """The bank's."""
        return self.bank.tasks

    def vectors(self, location: str, layer: int, sentences: np.ndarray | None = None) -> np.ndarray:
        """Return the heads side by side, [n, 1, width]."""
        x = self.x if sentences is None else self.x[sentences]
        return x[:, : len(self.heads)].reshape(len(x), 1, -1)

    @property
    def columns(self) -> Row:
        """What a row says of the heads."""
        heads = [{"layer": layer, "head": head} for layer, head in self.heads]
        return {"n": len(heads), "heads": heads}


def _probed(joined: _Joined, task: str, choice: ProbeChoice, seed: int) -> pa.Table:
    job = Job((Trial(task, joined.joint, whole=True),), seed)
    rows = run_job(joined, job, choice, lambda share: None).to_pylist()
    return pa.Table.from_pylist([row | joined.columns for row in rows], CONCATS.schema)


def _known(folder: Path, joined: _Joined, task: str, choice: ProbeChoice, seed: int) -> pa.Table:
    """Return the rows of the same heads, made alike, that are there already."""
    kind = joined.task(task).kind
    same = {
        "n": len(joined.heads),
        "task": task,
        "location": joined.joint.location,
        "bank": joined.fingerprint,
        "probe": choice.probe_of(kind),
        "settings": choice.record(kind),
        "seed": seed,
    }
    table = read(folder, CONCATS)
    for name, value in same.items():
        table = table.filter(pc.equal(table[name], value))
    heads = joined.columns["heads"]
    return table.filter(pa.array([row == heads for row in table["heads"].to_pylist()], pa.bool_()))
