"""What a fit will take, for `pyengine.estimates`: the pass on parts of its sample, the solving."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyengine.batch_bound import batch_shapes, n_special
from pyengine.extraction.run import Extractor
from pyengine.memory_plan import arguments_of
from pyengine.models import Model
from pyengine.samples import Sample as Part
from pyengine.samples import spread_units
from pyengine.scale.work import Work
from pyengine.shortcuts.fit_memory import settings_of
from pyengine.shortcuts.fit_run import extractor_of, manifest_of, sample_of, stack_fits
from pyengine.shortcuts.fit_settings import FitSettings
from pyengine.shortcuts.sample import TRAIN, VALIDATION, Sample
from pyengine.shortcuts.solve_estimate import solving_seconds
from pyengine.store import TokenStore


@dataclass(frozen=True, eq=False)
class PassOver:
    """The pass of a fit over a part of its sample, into the reducers of all of it."""

    settings: FitSettings
    sample: Sample
    manifest: dict[str, Any]

    def run(self, model: Model, out: Path, task: int, n_tasks: int) -> None:
        """Run it; nothing is written."""
        extractor = self.extractor(model)
        with torch.autocast(model.device.type, enabled=False):
            extractor.run()
        extractor.found(complete=True)

    def extractor(self, model: Model) -> Extractor:
        """Return the pass itself."""
        return extractor_of(model, self.settings, self.sample, self.manifest, (0, 1))


class FitParts:
    """The units that a fit draws, and parts of them; see `pyengine.samples.Parts`.

    Raises:
        PyengineError: where the fit itself would refuse its settings, or draws too much.
    """

    unit = "tokens"
    n_units: int | None

    def __init__(self, work: Work, model: Model) -> None:
        assert isinstance(work.corpus, TokenStore)
        self._corpus, self._device = work.corpus, model.device.type
        self._settings = settings_of(model, arguments_of(work, model))
        self._sample = sample_of(model, self._settings, work.corpus)
        self._manifest = manifest_of(model, self._settings, work.corpus, self._sample)
        self._special = n_special(model, work.corpus, self._settings.bos)
        store = self._sample.store
        self.size, self.n_units, self.cost = store.n_tokens, store.n_units, self._computed(store)

    def sample(self, size: int) -> Part:
        """Cut out units of about so many tokens."""
        drawn = self._sample
        if size < drawn.store.n_tokens:
            few, at = spread_units(drawn.store, size)
            drawn = _some(drawn, few, at)
        task = PassOver(self._settings, drawn, self._manifest)
        return Part(task, drawn.store.n_tokens, self._computed(drawn.store))

    def notes(self) -> dict[str, str]:
        """Say what was drawn, what solves and why, and about how long that takes."""
        corpus = self._corpus
        whole = f"{corpus.n_tokens:,} tokens in {corpus.n_units:,} units"
        found = {"corpus": f"{whole}, of which {self.size:,} tokens in {self.n_units:,} are read"}
        seconds, n_maps, why = 0.0, 0, self._manifest["why"]
        for stack, fit in stack_fits(self._manifest).items():
            train, held = (self._sample.n_rows(stack, role) for role in (TRAIN, VALIDATION))
            n_points = len(fit.points.names)
            found[stack] = f"{train:,} training and {held:,} validation rows of {n_points} points"
            found[f"{stack}, solver"] = f"{fit.solver}: {why[stack]}"
            seconds += solving_seconds(fit, train)
            n_maps += len(fit.pairs)
        found["solving"] = f"about {_rounded(seconds)} s more, on the CPU: {n_maps:,} pairs"
        return found

    def _computed(self, store: TokenStore) -> int:
        names = ("batch_tokens", "block_tokens")
        sizes = {name: getattr(self._settings, name) for name in names}
        return sum(rows * width for rows, width in batch_shapes(store, self._special, **sizes))


def _some(sample: Sample, store: TokenStore, at: np.ndarray) -> Sample:
    """Return the sample of some of its units, whose tokens are in a store."""
    positions = {stack: of_units[at] for stack, of_units in sample.positions.items()}
    return replace(
        sample, store=store, units=sample.units[at], roles=sample.roles[at], positions=positions
    )


def _rounded(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:,.0f}"
