"""What decides the result of `fact_neurons`, checked."""

import math
from dataclasses import dataclass, replace
from typing import Any

from pyengine.analyses.attribution_settings import AttributionSettings
from pyengine.checks import check_count
from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.neurons import selector

AUTO = "auto"

# A block is what a kill costs: about a minute for a model of BERT's size.
BLOCK_FACTS = {"cpu": 4, "cuda": 64}
# Clozes that are answered in one forward pass.
BATCH_CLOZES = {"cpu": 64, "cuda": 512}


@dataclass(frozen=True)
class FactSettings:
    """What decides the result. The attributes are the arguments of `fact_neurons`; None where a
    default is still to be filled in by `resolved`."""

    method: str = "adaptive"
    steps: int = 20
    adaptive: float | None = None
    threshold: float | None = None
    percentile: float | None = None
    share: float | str = 0.5
    factor: float = 2.0
    objective: str = "probability"
    value: str = "post"
    seed: int = 0
    block_facts: int | None = None
    batch_clozes: int | None = None

    def resolved(self, model: Model) -> "FactSettings":
        """Check the settings and fill in the defaults for a model.

        Raises:
            PyengineError: naming the first setting that cannot be.
        """
        cut = selector(self.threshold, self.adaptive, self.percentile)
        full = replace(self, adaptive=cut["adaptive"])
        if self.block_facts is None and self.share != AUTO:
            full = replace(full, block_facts=BLOCK_FACTS[model.device.type])
        full = replace(full, batch_clozes=BATCH_CLOZES[model.device.type])
        full._check(model)
        return full

    @property
    def selector(self) -> dict[str, float | None]:
        """How the neurons of one prompt are chosen."""
        names = ("threshold", "adaptive", "percentile")
        return {name: getattr(self, name) for name in names}

    @property
    def attribution(self) -> AttributionSettings:
        """How the neurons of one prompt are scored."""
        names = ("method", "steps", "objective", "value")
        return AttributionSettings(**{name: getattr(self, name) for name in names})

    def question(self) -> dict[str, Any]:
        """The settings that define the result mathematically."""
        own = {name: getattr(self, name) for name in ("share", "factor", "seed")}
        return self.attribution.record() | self.selector | own

    def numerics(self) -> dict[str, Any]:
        """The settings that only move the last bits."""
        return {name: getattr(self, name) for name in ("block_facts", "batch_clozes")}

    def _check(self, model: Model) -> None:
        self.attribution.check(model)
        check_count("block_facts", self.block_facts)
        if self.share == AUTO and self.block_facts is not None:
            raise PyengineError(
                "share='auto' looks at whole relations, which are then the blocks; leave out "
                "block_facts"
            )
        if self.share != AUTO and not (_is_number(self.share) and 0 <= float(self.share) < 1):
            raise PyengineError(f"share must be from 0 to below 1, or 'auto', got {self.share!r}")
        if not (_is_number(self.factor) and math.isfinite(self.factor)):
            raise PyengineError(f"factor must be a number, got {self.factor!r}")
        if not 0 <= self.seed < 2**64:
            raise PyengineError(f"seed must be from 0 to 2**64 - 1, got {self.seed}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
