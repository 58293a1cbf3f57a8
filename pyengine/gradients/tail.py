"""What all tails have in common. A tail is what follows the layers of a stack: rows join it at the
layer whose output was replaced, and run on to the output head together."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

# What joins at a layer: the cloze of each row, int64 [S], and z, [S, d_model].
Join = tuple[Tensor, Tensor]


class TailRun(NamedTuple):
    """Rows that ran from their layers to the end of their stack.

    Attributes:
        items: int64 [R], the cloze of each row, in order of joining.
        stream: [R, d_model], what the output head reads at the answer (an encoder on its own: all
            positions of its last block, [R, T, d_model]).
        passed: for each layer after the first, z of the rows that joined before it, on the way to
            `stream`: [rows, d_model], or [rows, T, d_model] where every position has one.
    """

    items: Tensor
    stream: Tensor
    passed: list[Tensor]


class Tail(Protocol):
    """What follows the layers of a stack."""

    def run(self, joins: Sequence[Join]) -> TailRun:
        """Run rows from their layers on.

        Args:
            joins: for each layer of the stack, the rows that start with its output; z requires a
                gradient.
        """
        ...

    def cost(self, block: int) -> int:
        """Return positions × layers that a row joining after a block computes."""
        ...
