"""Probes for every head of a bank; what is in the results already is not done again."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyengine.checks import check_shard
from pyengine.errors import PyengineError
from pyengine.heads.bank import HeadBank
from pyengine.heads.probe_choice import ProbeChoice
from pyengine.heads.probe_group import Job, run_job
from pyengine.heads.probe_settings import ProbeSettings
from pyengine.heads.results import HeadResults
from pyengine.heads.results_table import append, read
from pyengine.heads.task import CLASSES
from pyengine.heads.trials import Trial, grouped, trials_of
from pyengine.loading import resolve_device
from pyengine.scale.schedule import NO_RAY

# Called with (probes done, in all).
Progress = Callable[[int, int], None]


def probe_heads(
    bank: HeadBank,
    tasks: Sequence[str] | None = None,
    *,
    out: str | Path,
    probe: str = "logistic",
    locations: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    whole: bool = False,
    seeds: Sequence[int] = (123,),
    settings: ProbeSettings | None = None,
    control: bool = False,
    device: str = "auto",
    shard: tuple[int, int] = (0, 1),
    ray: str | None = None,
    on_progress: Progress | None = None,
) -> HeadResults:
    """Train and test a probe for every head of a bank, and add the scores to a results folder.

    Heads of one width are trained side by side, which moves no more than the last bits of their
    products. Rows are saved after every group of them, so that an interruption costs one group at
    most; the same call takes up the rest, and a repeated one leaves the bytes as they are. Any
    number of processes may add to one folder at the same time.

    The unsupervised similarity tasks take no probe: cosines of the two vectors are correlated with
    the scores, once, whatever the probe and the seeds.

    Args:
        bank: of `extract_heads`.
        tasks: names; None: all of the bank.
        out: the results folder.
        probe: `logistic` or `mlp`, trained as SentEval does; `ridge` or `lda`, in closed form from
            one pass of sums, the fast alternative.
        locations: `head`, `block`, ...; None: all of the bank.
        layers: through all stacks; None: all.
        whole: of places with heads also probe all heads of a layer together, as head -1.
        seeds: one probe each; of initial weights, minibatches, folds and control tasks.
        settings: of training; None: transformer_anatomy's, an MLP with 50 hidden units.
        control: also train each probe of classes on a control task, see `control.control_targets`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        shard: (i, n): every n-th trial, from the i-th on. Of a trial all seeds are done.
        ray: address of a Ray cluster whose nodes see the bank's folder, as `scale_out` has it;
            None: this process.
        on_progress: called with (probes done, in all); what was there already counts as done.

    Returns:
        All results in the folder, also of others.

    Raises:
        PyengineError: for what the bank does not have, a probe that a task cannot have, vectors
            that are not finite, a folder that cannot be written, or Ray that is missing.
    """
    choice = ProbeChoice.of(probe, settings, seeds, control, _device(device, ray))
    for name in bank.tasks if tasks is None else tasks:
        choice.check_kind(name, bank.task(name).kind)
    check_shard(*shard)
    mine = trials_of(bank, tasks, locations, layers, whole)[shard[0] :: shard[1]]
    jobs = [*_jobs(bank, mine, choice)]
    done = _Done(read(out), bank, choice)
    left = [job for job in map(done.rest, jobs) if job.trials]
    meter = _Meter(sum(job.n_parts for job in jobs), on_progress)
    meter.add(meter.total - sum(job.n_parts for job in left))
    run = _here if ray is None else partial(_on_ray, ray)
    for rows in run(bank, left, choice, meter):
        append(out, rows)
    return HeadResults.of(out)


def _jobs(bank: HeadBank, trials: list[Trial], choice: ProbeChoice) -> Iterator[Job]:
    for group in grouped(trials, bank, choice.device.partition(":")[0]):
        for seed in choice.seeds_of(bank.task(group[0].task).kind):
            yield Job(tuple(group), seed)


def _here(
    bank: HeadBank, jobs: list[Job], choice: ProbeChoice, meter: "_Meter"
) -> Iterator[pa.Table]:
    for job in jobs:
        yield run_job(bank, job, choice, partial(meter.within, job))
        meter.add(job.n_parts)


def _on_ray(
    address: str, bank: HeadBank, jobs: list[Job], choice: ProbeChoice, meter: "_Meter"
) -> Iterator[pa.Table]:
    try:
        from pyengine.heads.ray_jobs import run_on_ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise PyengineError(NO_RAY) from error
    return run_on_ray(address, bank, jobs, choice, meter.add)


def _device(asked: str, ray: str | None) -> str:
    """Return where to compute; with Ray `cpu` and `cuda` are the workers' to have."""
    remote = ray is not None and asked in ("cpu", "cuda")
    return asked if remote else str(resolve_device(asked))


class _Done:
    """What is in the results already."""

    def __init__(self, table: pa.Table, bank: HeadBank, choice: ProbeChoice) -> None:
        self._bank, self._choice = bank, choice
        self._table = table.filter(pc.equal(table["bank"], bank.fingerprint))
        self._seen: dict[str, set[tuple]] = {}

    def rest(self, job: Job) -> Job:
        """Return a job without the trials that are there."""
        seen = self._of(job.trials[0].task)
        left = [
            trial
            for trial in job.trials
            if any(
                (trial.place.location, trial.place.layer, head, job.seed) not in seen
                for head in trial.heads
            )
        ]
        return Job(tuple(left), job.seed)

    def _of(self, task: str) -> set[tuple]:
        """Return (location, layer, head, seed) of a task's rows that were made alike."""
        if task not in self._seen:
            kind = self._bank.task(task).kind
            alike = {
                "task": task,
                "probe": self._choice.probe_of(kind),
                "settings": self._choice.record(kind),
            }
            table = self._table
            for name, value in alike.items():
                table = table.filter(pc.equal(table[name], value))
            if self._choice.control and kind == CLASSES:
                table = table.filter(pa.array(~np.isnan(table["control"].to_numpy())))
            columns = ("location", "layer", "head", "seed")
            self._seen[task] = set(zip(*(table[name].to_pylist() for name in columns), strict=True))
        return self._seen[task]


class _Meter:
    """Tells how many probes are done."""

    def __init__(self, total: int, on_progress: Progress | None) -> None:
        self.total, self._done, self._on_progress = total, 0, on_progress

    def add(self, n: int) -> None:
        """Count probes that are done."""
        self._done += n
        self._tell(0)

    def within(self, job: Job, share: float) -> None:
        """Tell of a job of which a share is done."""
        self._tell(int(share * job.n_parts))

    def _tell(self, more: int) -> None:
        if self._on_progress is not None:
            self._on_progress(self._done + more, self.total)
