"""Which layers of a result belong together: T5 numbers its decoder's layers after its encoder's."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any


def split_by_stack(manifest: Mapping[str, Any], layers: Sequence[int]) -> dict[str, list[int]]:
    """Group layers by the stack they belong to, in order.

    Args:
        manifest: of a run; its model section names the stack of every layer.
        layers: ascending.

    Returns:
        `{"encoder": [...], "decoder": [...]}`; one entry where the model has one stack.
    """
    stacks = manifest["model"]["stacks"]
    grouped = groupby(layers, key=lambda layer: str(stacks[layer]))
    return {name: list(group) for name, group in grouped}
