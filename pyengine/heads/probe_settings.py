"""How a probe is trained: SentEval's settings, with transformer_anatomy's values."""

from dataclasses import dataclass, replace
from typing import Any

from pyengine.checks import check_choice, check_count
from pyengine.errors import PyengineError
from pyengine.heads.task import SNLI

OPTIMIZERS = {"rmsprop": 0.01, "adam": 0.001}  # with SentEval's learning rates

# What SentEval does otherwise for two of its tasks, whatever the settings.
OF_TASKS: dict[str, dict[str, Any]] = {
    SNLI: {"regularisers": (1e-9,), "epoch_size": 1, "max_epochs": 15, "pairs_too": True},
    "WordContent": {"hidden": 0},
}


@dataclass(frozen=True)
class ProbeSettings:
    """What decides the result of a probe, beside its data.

    Attributes:
        regularisers: weight decays to choose from, on weights and bias.
        hidden: width of an MLP's hidden layer; 0: logistic regression.
        dropout: of the MLP.
        optimizer: `rmsprop` or `adam`, each with SentEval's learning rate.
        batch_size: examples per step.
        epoch_size: epochs between two looks at the dev set.
        tenacity: training ends at the (tenacity + 1)-th look without a new best, counted from the
            beginning, never reset.
        max_epochs: training also ends at the first look after more epochs than these.
        folds: of cross-validation.
        pairs_too: a pair (u, v) is read as [u, v, u · v, |u − v|]; False: as [|u − v|, u · v].
        seed: of the initial weights and the minibatches.
    """

    regularisers: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2)
    hidden: int = 0
    dropout: float = 0.0
    optimizer: str = "rmsprop"
    batch_size: int = 256
    epoch_size: int = 2
    tenacity: int = 3
    max_epochs: int = 200
    folds: int = 5
    pairs_too: bool = False
    seed: int = 123

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, [*OPTIMIZERS])
        for name in ("batch_size", "epoch_size", "max_epochs"):
            check_count(name, getattr(self, name))
        if not self.regularisers or min(self.regularisers) < 0:
            raise PyengineError(f"regularisers must be some numbers >= 0, got {self.regularisers}")
        if self.hidden < 0 or self.tenacity < 0 or not 0 <= self.dropout < 1:
            raise PyengineError("hidden and tenacity must be at least 0, dropout in [0, 1)")
        if self.folds < 2:
            raise PyengineError(f"folds must be at least 2, got {self.folds}")

    @property
    def learning_rate(self) -> float:
        return OPTIMIZERS[self.optimizer]

    def of_task(self, name: str) -> "ProbeSettings":
        """Return them as SentEval has them for a task: see `OF_TASKS`."""
        return replace(self, **OF_TASKS.get(name, {}))


# What SentEval's own README calls comparable with published results.
SENTEVAL = ProbeSettings(optimizer="adam", batch_size=64, epoch_size=4, tenacity=5, folds=10)

# The one way in which SentEval regresses onto scores (SICK-R, STS-B).
RELATEDNESS = ProbeSettings(
    regularisers=(0.0,), optimizer="adam", batch_size=64, epoch_size=50, max_epochs=1000
)
