"""Who carries out a piece of work: this process, torchrun's ranks, or the workers of Ray."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyengine.errors import PyengineError

if TYPE_CHECKING:
    from pyengine.scale.work import Ready, Report, Work

# What torchrun gives every process it starts.
_OF_A_RANK = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

NO_RAY = (
    "Ray is not installed: pip install 'pyengine[ray]' (in a checkout: pip install -e '.[ray]')"
)


def in_ranks() -> bool:
    """Whether torchrun, or what speaks its language, started this process."""
    return all(name in os.environ for name in _OF_A_RANK)


@dataclass(frozen=True)
class Schedule:
    """Who carries out a piece of work.

    Attributes:
        shard: (i, n), of this process alone; (0, 1) is all.
        ray: address of a Ray cluster, as in `scale_out`; None: torchrun's ranks where there are
            any, else this process.
        tasks: into how many tasks ranks and Ray cut the work; None: by its size.
        allow_mixed: let Ray's workers differ in device or versions.

    Raises:
        PyengineError: if they exclude each other.
    """

    shard: tuple[int, int] = (0, 1)
    ray: str | None = None
    tasks: int | None = None
    allow_mixed: bool = False

    def __post_init__(self) -> None:
        if self.ray is not None and in_ranks():
            raise PyengineError("torchrun and Ray exclude each other: start without torchrun")
        if self.shard[1] > 1 and not self.alone:
            raise PyengineError("ranks and Ray take shards themselves: leave the shard out")
        if self.tasks is not None and self.alone:
            raise PyengineError("only ranks and Ray cut the work into tasks: leave tasks out")
        if self.tasks is not None and self.tasks < 2:
            raise PyengineError(f"tasks must be at least 2, got {self.tasks}")
        if self.allow_mixed and self.ray is None:
            raise PyengineError("only Ray's workers may be mixed: leave allow-mixed out")

    @property
    def alone(self) -> bool:
        """Whether this process does the work alone."""
        return self.ray is None and not in_ranks()

    def check(self, out: Path) -> None:
        """Refuse, alone, an unfinished run that was begun otherwise; ranks and Ray find out later.

        Raises:
            PyengineError: naming how it was begun.
        """
        if self.alone:
            from pyengine.scale.tasks import check_alone

            check_alone(out, self.shard[1])

    def carry_out(
        self,
        work: "Work",
        out: Path,
        *,
        everywhere: bool = True,
        on_tokenized: "Report | None" = None,
        on_ready: "Ready | None" = None,
        on_progress: "Report | None" = None,
    ) -> Any:
        """Carry out a piece of work, or take it up again.

        Args:
            work: the work.
            out: the run directory.
            everywhere: whether every rank opens the result; else only rank 0 does.
            on_tokenized, on_progress: as in `scale_out`.
            on_ready: of ranks and Ray, called before the first task with what a worker will hold,
                and of activations the room that all tasks left take.

        Returns:
            The result; None on the other ranks unless `everywhere`.

        Raises:
            PyengineError: as `scale_out` does.
        """
        self.check(out)
        if self.alone:
            model = work.load()
            return work.whole(
                model, out, shard=self.shard, on_tokenized=on_tokenized, on_progress=on_progress
            )
        if self.ray is not None:
            return self._on_ray(
                work, out, on_tokenized=on_tokenized, on_ready=on_ready, on_progress=on_progress
            )
        from pyengine.scale.ranks import run_on_ranks

        return run_on_ranks(
            work,
            out,
            n_tasks=self.tasks,
            everywhere=everywhere,
            on_tokenized=on_tokenized,
            on_ready=on_ready,
            on_progress=on_progress,
        )

    def _on_ray(self, work: "Work", out: Path, **told: Any) -> Any:
        try:
            from pyengine.scale.on_ray import run_on_ray
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise PyengineError(NO_RAY) from error
        return run_on_ray(
            work,
            out,
            address=self.ray,
            n_tasks=self.tasks,
            allow_mixed=self.allow_mixed,
            **told,
        )
