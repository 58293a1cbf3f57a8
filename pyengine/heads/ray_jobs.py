"""Jobs of probes on a Ray cluster whose nodes see the folder of the bank."""

import platform
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import torch

from pyengine.errors import PyengineError
from pyengine.heads.bank import HeadBank
from pyengine.heads.probe_choice import ProbeChoice
from pyengine.heads.probe_group import Job, run_job
from pyengine.run import open_run
from pyengine.scale.on_ray import connected
from pyengine.scale.ray_pool import Need, Pool


class Prober:
    """An actor that opens the bank once and then does jobs.

    Args:
        folder: of the bank.
        fingerprint: of the driver's bank.
        jobs: all of them.
        choice: the probe.
        threads: CPU threads.
    """

    def __init__(
        self, folder: Path, fingerprint: str, jobs: list[Job], choice: ProbeChoice, threads: int
    ) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._jobs, self._choice, self._threads = jobs, choice, threads
        self._bank: HeadBank

    def begin(self) -> None:
        """Open the bank.

        Raises:
            PyengineError: if this node does not see it, or sees another.
        """
        torch.set_num_threads(self._threads)
        try:
            self._bank = open_run(self._folder)
        except PyengineError as error:
            raise PyengineError(
                f"{error}; every node must see the bank, and {platform.node()} does not"
            ) from error
        if self._bank.fingerprint != self._fingerprint:
            raise PyengineError(f"{platform.node()} has another bank in {self._folder}")

    def carry_out(self, task: int, n_tasks: int) -> pa.Table:
        """Do a job; return its rows."""
        return run_job(self._bank, self._jobs[task], self._choice, lambda share: None)


def run_on_ray(
    address: str,
    bank: HeadBank,
    jobs: list[Job],
    choice: ProbeChoice,
    count: Callable[[int], None],
) -> Iterator[pa.Table]:
    """Have a cluster's workers do jobs; those that are lost with a worker are done again.

    Args:
        address: as `pyengine.scale_out` has it.
        bank: the vectors.
        jobs: in any order.
        choice: its device decides whether a worker takes a GPU or as many CPUs as this process has
            threads.
        count: called with the number of probes of each job that is done.

    Yields:
        Rows of results, as jobs are done.

    Raises:
        PyengineError: if the cluster cannot be reached or has no room for a worker, what a worker
            raises, or a job that was lost too often.
    """
    if not jobs:
        return
    threads = torch.get_num_threads()
    need = Need("CPU", threads) if choice.device == "cpu" else Need("GPU", 1)
    with connected(address):
        if not need.room():
            raise PyengineError(f"no node of the Ray cluster has {need.amount} {need.resource}")
        actor: Any = ray.remote(Prober)
        given = (bank.folder.resolve(), bank.fingerprint, jobs, choice, threads)
        start = partial(actor.options(**need.options).remote, *given)
        with Pool(start, need, len(jobs), lambda at_work: None) as pool:
            for task, rows in pool.results(range(len(jobs))):
                if task is not None:
                    yield rows
                    count(jobs[task].n_parts)
