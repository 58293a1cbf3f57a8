"""Heat maps of pairs of layers: r² of maps, and how maps transfer to other layers."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

# Even to the eye, and told apart with any kind of colour vision.
COLORS = "viridis"
MOST_WRITTEN = 8  # rows whose cells have room for their number
LIGHT = 0.55  # from here on, black is read more easily than white


def r2_grid(
    axes: Axes, table: pa.Table, stack: str, mapping: str, last: int, metric: str = "r2"
) -> None:
    """Draw r² of a mapping between all pairs of layers: rows from, columns to.

    The diagonal is 1, of `residual_r2` empty: from a layer to itself nothing changes. So is what
    is below it. Colours are those of r² cut to 0 … 1.
    """
    chosen = table.filter(
        (pc.field("stack") == stack) & (pc.field("mapping") == mapping) & pc.field("step").is_null()
    )
    cells = np.full((last + 1, last + 1), np.nan)
    if metric == "r2":
        np.fill_diagonal(cells, 1)
    source, target = (chosen[name].to_numpy() for name in ("source", "target"))
    cells[source, target] = chosen[metric].cast(pa.float64()).to_numpy()
    grid(axes, cells, "to layer", "from layer")


def transfer_grid(axes: Axes, table: pa.Table, mapping: str) -> None:
    """Draw precision@1 of the map of each layer (rows) on the states of each layer (columns)."""
    chosen = table.filter(pc.field("mapping") == mapping)
    rows, columns = (chosen[name].to_numpy() for name in ("map_layer", "state_layer"))
    cells = np.full((rows.max() + 1, columns.max() + 1), np.nan)
    cells[rows, columns] = chosen["precision@1"].to_numpy()
    grid(axes, cells, "state of layer", "map of layer")


def grid(axes: Axes, cells: np.ndarray, across: str, down: str) -> None:
    """Draw shares as colours with a scale beside them; few of them also as numbers."""
    style: dict[str, Any] = {"vmin": 0, "vmax": 1, "cmap": COLORS, "interpolation": "nearest"}
    image = axes.imshow(np.clip(cells, 0, 1), aspect="auto", **style)
    axes.grid(visible=False)
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(10, integer=True))
    axes.figure.colorbar(image, ax=axes, pad=0.02, shrink=0.9).outline.set_visible(False)
    if max(cells.shape) > MOST_WRITTEN:
        return
    for (row, column), value in np.ndenumerate(cells):
        if not np.isnan(value):
            text = f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
            look: dict[str, Any] = {"fontsize": 7, "color": "black" if value > LIGHT else "white"}
            axes.text(column, row, text, ha="center", va="center", **look)
