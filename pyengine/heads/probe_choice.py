"""Which probe is trained, and how: what a trial's rows say beside its place and its scores."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pyengine.checks import check_choice
from pyengine.errors import PyengineError
from pyengine.heads.probe_settings import RELATEDNESS, ProbeSettings
from pyengine.heads.screen import LDA, RIDGE, STRENGTHS
from pyengine.heads.task import SCORES, SIMILARITY

LOGISTIC, MLP, COSINE = "logistic", "mlp", "cosine"
PROBES = (LOGISTIC, MLP, RIDGE, LDA)
HIDDEN = 50  # of an MLP, if nothing is said


@dataclass(frozen=True)
class ProbeChoice:
    """What is the same for all trials of a call.

    Attributes:
        probe: `logistic`, `mlp`, `ridge` or `lda`.
        settings: of training; closed forms take `folds` alone.
        seeds: one probe each.
        control: also train each probe of classes on its control task.
        device: a CPU or GPU.
    """

    probe: str
    settings: ProbeSettings
    seeds: tuple[int, ...]
    control: bool
    device: str

    @classmethod
    def of(
        cls,
        probe: str,
        settings: ProbeSettings | None,
        seeds: Sequence[int],
        control: bool,
        device: str,
    ) -> "ProbeChoice":
        """Check a choice.

        Raises:
            PyengineError: for an unknown probe, no seeds, or settings of another probe.
        """
        check_choice("probe", probe, PROBES)
        if settings is None:
            settings = ProbeSettings(hidden=HIDDEN if probe == MLP else 0)
        if bool(settings.hidden) != (probe == MLP):
            raise PyengineError(
                f"the probe {probe} has hidden {'>= 1' if probe == MLP else '0'}, "
                f"not {settings.hidden}"
            )
        if not seeds:
            raise PyengineError("give at least one seed")
        return cls(probe, settings, tuple(dict.fromkeys(seeds)), control, device)

    def check_kind(self, name: str, kind: str) -> None:
        """Refuse a task that the probe cannot do.

        Raises:
            PyengineError: naming those that can.
        """
        if kind == SCORES and self.probe in (LDA, MLP):
            raise PyengineError(f"{name} has scores, not classes: use the probe logistic or ridge")

    def probe_of(self, kind: str) -> str:
        """Return what the results call the probe: unsupervised similarity has none to train."""
        return COSINE if kind == SIMILARITY else self.probe

    def seeds_of(self, kind: str) -> tuple[int, ...]:
        """Return the seeds of a task's trials: 0 where nothing is left to chance."""
        return (0,) if kind == SIMILARITY else self.seeds

    def record(self, kind: str) -> str:
        """Return what else decides a result, as JSON with sorted keys."""
        return json.dumps(self._record(kind), sort_keys=True)

    def _record(self, kind: str) -> dict[str, Any]:
        if kind == SIMILARITY:
            return {}
        if self.probe in STRENGTHS:
            return {"folds": self.settings.folds, "strengths": STRENGTHS[self.probe]}
        found = asdict(RELATEDNESS if kind == SCORES else self.settings)
        del found["seed"]  # has a column
        return found

    def seeded(self, seed: int) -> ProbeSettings:
        """Return the settings with a seed."""
        return replace(self.settings, seed=seed)
