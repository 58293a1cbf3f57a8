"""Early exits as tables: what each threshold costs in layers and keeps in agreement.

Precision@k is the share of samples whose prediction is among the model's own k best tokens.
Intervals are the middle 95 % of bootstrap resamples of sentences.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from pyengine.checks import check_choice
from pyengine.shortcuts.bootstrap import Bootstrap
from pyengine.shortcuts.early_exit import LAMBDAS, Ledger, Outcome

ADAPTIVE, FIXED = RULES = ("adaptive", "fixed")
PRECISIONS = (1, 5, 10)
AGREEMENT = 0.95


@dataclass(frozen=True)
class Saving:
    """The fewest layers at which predictions agree often enough with the model's own.

    Attributes:
        mean_layer: over the samples; NaN where no exit agrees so often.
        saved: 1 - mean_layer / L.
        low, high: of `saved`; NaN without bootstrap, or where no exit suffices in a resample.
    """

    mean_layer: float
    saved: float
    low: float
    high: float


class Frontier:
    """Mean layers and agreement of adaptive exits for some λ, and of fixed exits.

    Args:
        ledger: of one mapping, its samples sorted by unit.
        lambdas: any; see `pyengine.shortcuts.early_exit`.
        bootstrap: resamples of sentences for intervals; 0: no intervals.
        seed: of the resamples.
    """

    def __init__(
        self,
        ledger: Ledger,
        lambdas: Iterable[float] = LAMBDAS,
        *,
        bootstrap: int = 0,
        seed: int = 0,
    ) -> None:
        self.ledger, self.lambdas = ledger, tuple(lambdas)
        self._bootstrap = Bootstrap(ledger.units.numpy(), bootstrap, seed)
        fixed = range(ledger.n_layers + 1)
        self._exits = {
            ADAPTIVE: _Exits([ledger.adaptive(lam) for lam in self.lambdas], self._bootstrap),
            FIXED: _Exits([ledger.fixed(layer) for layer in fixed], self._bootstrap),
        }

    def table(self) -> pa.Table:
        """Return one row per λ, then one per fixed layer.

        Columns: rule (`adaptive` or `fixed`), lambda (null of a fixed exit), layer (null of an
        adaptive one), mean_layer, layers_saved, precision@1, @5, @10, surprisal (nats); and of
        mean_layer and precision@1 the ends of the interval, `_low` and `_high`, null without
        bootstrap.
        """
        parts = []
        for rule, exits in self._exits.items():
            adaptive, n = rule == ADAPTIVE, len(exits.outcomes)
            named = {
                "rule": pa.array([rule] * n, pa.string()),
                "lambda": pa.array(self.lambdas if adaptive else [None] * n, pa.float64()),
                "layer": pa.array([None] * n if adaptive else range(n), pa.int32()),
            }
            parts.append(pa.table(named | self._columns(exits)))
        return pa.concat_tables(parts)

    def saving(self, rule: str = ADAPTIVE, agreement: float = AGREEMENT) -> Saving:
        """Return the fewest mean layers of the exits in the table with precision@1 >= `agreement`.

        Args:
            rule: `adaptive` or `fixed`.
            agreement: of the samples; for the interval, of each resample.
        """
        check_choice("rule", rule, RULES)
        exits, n_layers = self._exits[rule], self.ledger.n_layers
        fewest = _fewest(exits.layers[None], exits.precision[None], agreement)
        resampled = 1 - _fewest(*exits.resampled, agreement) / n_layers
        low, high = self._bootstrap.intervals(resampled[:, None])[:, 0]
        saved = 1 - fewest[0] / n_layers
        return Saving(float(fewest[0]), float(saved), float(low), float(high))

    def samples(self) -> pa.Table:
        """Return one row per λ and sample, adaptive exits only.

        Columns: lambda, unit, position, layers (blocks run), top_tokens (the best tokens there,
        best first; null where a logit was NaN), surprisal (nats).
        """
        pairs = zip(self.lambdas, self._exits[ADAPTIVE].outcomes, strict=True)
        return pa.concat_tables([self._samples(lam, outcome) for lam, outcome in pairs])

    def _columns(self, exits: "_Exits") -> dict[str, pa.Array]:
        found = {
            "mean_layer": exits.layers,
            "layers_saved": 1 - exits.layers / self.ledger.n_layers,
        }
        for k in PRECISIONS:
            hits = [float(outcome.hits(k).double().mean()) for outcome in exits.outcomes]
            found[f"precision@{k}"] = np.array(hits)
        surprisal = [float(outcome.surprisal.double().mean()) for outcome in exits.outcomes]
        found["surprisal"] = np.array(surprisal)
        for name, means in zip(("mean_layer", "precision@1"), exits.resampled, strict=True):
            low, high = self._bootstrap.intervals(means)
            found |= {f"{name}_low": low, f"{name}_high": high}
        return {name: pa.array(column, from_pandas=True) for name, column in found.items()}

    def _samples(self, lam: float, outcome: Outcome) -> pa.Table:
        n, k = outcome.top.shape
        flat = outcome.top.flatten().numpy()
        tokens = pa.array(flat, pa.int32(), mask=flat < 0)
        offsets = pa.array(np.arange(0, (n + 1) * k, k), pa.int32())
        return pa.table(
            {
                "lambda": pa.array(np.full(n, lam)),
                "unit": pa.array(self.ledger.units.numpy()),
                "position": pa.array(self.ledger.positions.numpy(), pa.int32()),
                "layers": pa.array(outcome.layers.numpy(), pa.int32()),
                "top_tokens": pa.ListArray.from_arrays(offsets, tokens),
                "surprisal": pa.array(outcome.surprisal.numpy(), pa.float32(), from_pandas=True),
            }
        )


class _Exits:
    """Outcomes, one a setting; mean layers and precision@1, float64 [n], and their resamples."""

    def __init__(self, outcomes: Sequence[Outcome], bootstrap: Bootstrap) -> None:
        self.outcomes = outcomes
        layers = torch.stack([outcome.layers for outcome in outcomes], 1).double().numpy()
        hits = torch.stack([outcome.hits() for outcome in outcomes], 1).double().numpy()
        self.layers, self.precision = layers.mean(0), hits.mean(0)
        self.resampled = bootstrap.means(layers), bootstrap.means(hits)


def _fewest(layers: np.ndarray, precision: np.ndarray, agreement: float) -> np.ndarray:
    """Return of each row the least of `layers` where `precision` suffices; NaN where it never does.

    Args:
        layers, precision: [rows, exits].
        agreement: what suffices.
    """
    fewest = np.where(precision >= agreement, layers, np.inf).min(1)
    return np.where(np.isinf(fewest), np.nan, fewest)
