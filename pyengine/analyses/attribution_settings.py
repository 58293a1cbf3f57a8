"""What decides the result of an attribution, checked."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyengine.answer_tokens import Target
from pyengine.checks import check_choice, check_count
from pyengine.cloze import Cloze, Prompt, clozes
from pyengine.errors import PyengineError
from pyengine.gradients.answer_head import OBJECTIVES
from pyengine.gradients.integration import BUDGETS, PathEngine
from pyengine.gradients.quadrature import RULES
from pyengine.models import Model

# One number per neuron from a single pass: no integral.
SINGLE_PASS = ("max_activation", "gradient_x_activation")
METHODS = ("adaptive", *RULES, *SINGLE_PASS)
VALUES = ("post", "pre")
BASELINES = ("zero", "mean")
CONDITIONINGS = ("teacher", "greedy")


@dataclass(frozen=True, eq=False)
class AttributionSettings:
    """The settings of `KnowledgeNeurons.attribute`, where they are described."""

    method: str = "adaptive"
    steps: int = 20
    objective: str = "probability"
    baseline: str | Tensor = "zero"
    value: str = "post"
    conditioning: str = "teacher"
    tolerance: float = 1e-3
    budget: int | None = None

    def check(self, model: Model) -> None:
        """Refuse settings that cannot be, before any work.

        Raises:
            PyengineError: naming the first of them.
        """
        check_choice("method", self.method, METHODS)
        check_choice("objective", self.objective, OBJECTIVES)
        check_choice("value", self.value, VALUES)
        check_choice("conditioning", self.conditioning, CONDITIONINGS)
        check_count("steps", self.steps)
        check_count("budget", self.budget)
        if not 0 < self.tolerance < 1:
            raise PyengineError(f"tolerance must be between 0 and 1, got {self.tolerance}")
        if self.conditioning == "greedy" and not model.family.causal:
            raise PyengineError("conditioning='greedy' is for causal models, as in the package")
        if isinstance(self.baseline, str):
            check_choice("baseline", self.baseline, BASELINES)
        elif tuple(self.baseline.shape) != (model.n_layers, model.d_ff):
            raise PyengineError(
                f"a baseline must be [{model.n_layers}, {model.d_ff}] (n_layers, d_ff), got "
                f"{list(self.baseline.shape)}"
            )

    def engine(self, model: Model) -> PathEngine:
        """Return what computes the gradients."""
        return PathEngine(
            model,
            objective=self.objective,
            value=self.value,
            baseline=None if _is_zero(self.baseline) else self.baseline,
            budget=self.budget or BUDGETS[model.device.type],
        )

    def clozes(self, model: Model, prompt: Prompt, target: Target) -> list[Cloze]:
        """Return what has to be predicted."""
        if self.conditioning == "greedy":
            from pyengine.analyses.greedy_clozes import greedy_clozes

            return greedy_clozes(model, prompt, target)
        return clozes(model, prompt, target)

    def record(self) -> dict[str, Any]:
        """Return the settings that decide the result, for people and manifests."""
        given = self.baseline if isinstance(self.baseline, str) else "given"
        names = ("method", "objective", "value", "conditioning")
        record: dict[str, Any] = {name: getattr(self, name) for name in names}
        record["baseline"] = given
        if self.method == "adaptive":
            record["tolerance"] = self.tolerance
        elif self.method in RULES:
            record["steps"] = self.steps
        return record


def _is_zero(baseline: str | Tensor) -> bool:
    return isinstance(baseline, str) and baseline == "zero"
