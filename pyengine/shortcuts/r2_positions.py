"""r² of maps to the last layer by the token's position, where all tokens were taken.

The first token of a unit is unlike the others in many models: its states are far longer.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import torch
from torch import Tensor

from pyengine.shortcuts.lens import Maps
from pyengine.shortcuts.r2 import r_squared

if TYPE_CHECKING:
    from pyengine.shortcuts.result import Shortcuts

SCHEMA = pa.schema(
    [
        ("stack", pa.string()),
        ("source", pa.int32()),
        ("mapping", pa.string()),
        ("from", pa.int32()),
        ("to", pa.int32()),
        ("n", pa.int64()),
        ("r2", pa.float64()),
        ("residual_r2", pa.float64()),
    ]
)


def position_table(
    shortcuts: "Shortcuts", stack: str, mappings: Mapping[str, Maps], device: torch.device
) -> pa.Table:
    """Score the maps to the last layer on the rows of some positions each.

    Returns:
        One row per layer, range of positions (below 0, 0, 1, 2 to 3, 4 to 7, …) and mapping: stack,
        source, mapping, from and to (the first and last position there is), n rows, r2 and
        residual_r2 about the means of these rows.
    """
    held, last = shortcuts.validation(stack), shortcuts.n_layers(stack)
    rows = []
    for source in range(last):
        maps = {name: of_layer(source).to(device) for name, of_layer in mappings.items()}
        for taken in ranges(held.positions):
            x, y = (held.states[taken, point].to(device) for point in (source, last))
            positions = held.positions[taken]
            of = {"from": int(positions.min()), "to": int(positions.max()), "n": len(positions)}
            for mapping, (r2, residual) in r_squared(x, y, maps).items():
                named = {"stack": stack, "source": source, "mapping": mapping}
                rows.append(named | of | {"r2": r2, "residual_r2": residual})
    return pa.Table.from_pylist(rows, SCHEMA)


def ranges(positions: Tensor) -> list[Tensor]:
    """Group rows by the binary digits of their position; special tokens before a unit together.

    Returns:
        int64 indices of the rows of each group, ascending by position; no group is empty.
    """
    digits = positions.clamp(min=1).double().log2().floor().long() + 1
    group = torch.where(positions > 0, digits, positions.clamp(min=-1))
    return [torch.nonzero(group == each)[:, 0] for each in group.unique().tolist()]
