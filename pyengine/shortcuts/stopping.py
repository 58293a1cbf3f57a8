"""Really stopping: each state, once it is computed, is asked whether to, and what it predicts."""

import copy
from typing import TYPE_CHECKING

from torch import Tensor

from pyengine.models import Model
from pyengine.shortcuts.early_exit import ExitRule
from pyengine.shortcuts.lens import Kind, Lens, own_stack
from pyengine.shortcuts.linear_map import MAT
from pyengine.shortcuts.validation_batches import first_column

if TYPE_CHECKING:
    from pyengine.shortcuts.result import Shortcuts


class Stopping:
    """The rule of early exit for one λ, on the states of one stack.

    Args:
        model: the model.
        shortcuts: fitted on it.
        early_exit: λ; see `pyengine.shortcuts.early_exit`.
        kind: how states are read, as `Lens` takes it.
        stack: whose states; None: the only one, or the decoder.
        mean_length: N; None: of the fit's validation rows.

    Attributes:
        stack: its name.
        n_layers: L.

    Raises:
        PyengineError: as `Lens` does, and for maps of one's own that lack a layer from 1 to L - 1.
    """

    def __init__(
        self,
        model: Model,
        shortcuts: "Shortcuts",
        early_exit: float,
        *,
        kind: Kind = MAT,
        stack: str | None = None,
        mean_length: float | None = None,
    ) -> None:
        self.stack = stack or own_stack(shortcuts)
        self.n_layers = shortcuts.n_layers(self.stack)
        lens = Lens(model, shortcuts, kind, stack=self.stack)
        held = {layer: lens.maps(layer).to(model.device) for layer in range(1, self.n_layers)}
        self._lens = Lens(model, shortcuts, held, stack=self.stack)
        if mean_length is None:
            mean_length = _mean_length(model, shortcuts, self.stack)
        self._rule = ExitRule(early_exit, mean_length)

    def at(self, early_exit: float) -> "Stopping":
        """Return the same for another λ."""
        other = copy.copy(self)
        other._rule = ExitRule(early_exit, self._rule.mean_length)
        return other

    def token(self, h: Tensor, layer: int, position: int) -> int | None:
        """Return the token that is predicted if the rule says to stop, else None.

        Args:
            h: [1, d_model], x_layer.
            layer: 1 to L; at L it always stops, and the model itself is read.
            position: of the token in what the model reads, from 0.
        """
        bar = float(self._rule.threshold(layer, position))
        if layer < self.n_layers and bar >= 1:
            return None  # no gap can be wider: nothing has to be read
        logits = self._lens.logits(h, layer)[0]
        if layer < self.n_layers and not _gap(logits) > bar:
            return None
        return int((logits == logits.max()).int().argmax())  # the lowest of equals


def _gap(logits: Tensor) -> float:
    """Return the probability of the most probable token less that of the next."""
    first, second = (logits.topk(2).values.double() - logits.logsumexp(0).double()).exp().tolist()
    return float(first - second)


def _mean_length(model: Model, shortcuts: "Shortcuts", stack: str) -> float:
    before = first_column(model, shortcuts, stack)
    return float((shortcuts.validation(stack).positions + before + 1).double().mean())
