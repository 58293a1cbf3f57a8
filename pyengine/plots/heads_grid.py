"""Layer × head: the scores of a task's heads as they are, and sorted inside each layer."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from pyengine.plots import figure as common
from pyengine.plots.figure import BLACK, GREY, VERMILION
from pyengine.plots.heads_scores import UNITS, TaskScores, layer_label, model_name, ticks

if TYPE_CHECKING:
    from pathlib import Path

    from pyengine.heads.results import HeadResults

CELL = (0.31, 0.235)  # inches
LEAST = (3.2, 2.0)  # inches: of a panel
AROUND = (1.5, 2.3)
MOST_TICKS = 26
# From here on, black is read more easily on a colour than white.
LIGHT = 0.55
BAR_GAP = 0.32  # inches
NEAR = 0.05  # points: baselines that are one


def plot_head_scores(
    results: "HeadResults",
    task: str,
    path: "str | Path",
    location: str = "head",
    part: str = "dev",
) -> None:
    """Draw the scores of a task's heads as two heat maps, layer 0 at the bottom.

    Left by the heads' numbers, with the scores in the cells; right the heads of each layer sorted,
    the best first, with their numbers in the cells. The best head (chosen on dev) has a
    frame; a collapsed probe a cross in its corner. On the scale stand the scores of always naming
    the largest class, and of chance. A line parts an encoder from the decoder above it.

    Args:
        results: of one model, bank and probe.
        task: its name.
        path: ends in `.png`, `.svg` or `.pdf`. The same results give the same bytes.
        location: `head`, or `cross`.
        part: `dev` or `test`; of a task without a dev set it is `test`.

    Raises:
        PyengineError: where there are no such results, for another ending, or a path that cannot
            be written.
    """
    found = TaskScores.of(results, task, location, part)
    values = found.values[found.layers]
    panel = [
        max(least, cell * n)
        for cell, least, n in zip(CELL, LEAST, reversed(values.shape), strict=True)
    ]

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        scale = _Scale(found)
        image = _as_they_are(left, found, scale)
        _sorted(right, found, scale)
        for axes in (left, right):
            _layers(axes, found)
        _bar(figure, image, [left, right], found)
        kind = "cross-attention heads" if location == "cross" else "heads"
        common.title(figure, f"{task}: the {kind} of {model_name(results)}")
        figure.supxlabel(_notes(found), x=0.01, ha="left", fontsize=8, color=GREY)

    common.draw(path, (2 * panel[0] + AROUND[0], panel[1] + AROUND[1]), paint)


class _Scale:
    """The colours of a task's scores: from the lowest, or the largest class's, to the best."""

    def __init__(self, found: TaskScores) -> None:
        self.low = float(np.nanmin([np.nanmin(found.values), found.majority]))
        self.high = max(float(np.nanmax(found.values)), self.low + 1e-9)

    def draw(self, axes: Axes, values: np.ndarray) -> AxesImage:
        style: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest", "origin": "lower"}
        axes.set_facecolor("#EEEEEE")  # where there is no score
        axes.grid(visible=False)
        colors = colormaps["viridis"]
        return axes.imshow(values, cmap=colors, vmin=self.low, vmax=self.high, **style)

    def ink(self, value: float) -> str:
        """Return what is read easily on the colour of a score."""
        return "black" if (value - self.low) / (self.high - self.low) > LIGHT else "white"


def _as_they_are(axes: Axes, found: TaskScores, scale: _Scale) -> AxesImage:
    values = found.values[found.layers]
    image = scale.draw(axes, values)
    for (row, head), value in np.ndenumerate(values):
        _write(axes, head, row, value, found.shown(value), scale)
    for row, head in np.argwhere(found.collapsed[found.layers]):
        color = scale.ink(values[row, head])
        axes.plot(head + 0.38, row + 0.3, marker="x", color=color, markersize=3)
    places = ticks(range(values.shape[1]), MOST_TICKS)
    axes.set_xticks(places, [str(place) for place in places])
    axes.set_xlabel("head")
    axes.set_title(f"{found.part} {UNITS[found.metric]}")
    layer, head = found.best
    _frame(axes, head, int(np.searchsorted(found.layers, layer)))
    return image


def _sorted(axes: Axes, found: TaskScores, scale: _Scale) -> None:
    values = found.values[found.layers]
    heads = np.argsort(-values, axis=1, kind="stable")  # NaN last
    values = np.take_along_axis(values, heads, 1)
    scale.draw(axes, values)
    for (row, place), value in np.ndenumerate(values):
        _write(axes, place, row, value, str(heads[row, place]), scale)
    places = ticks(range(values.shape[1]), MOST_TICKS)
    axes.set_xticks(places, [str(place + 1) for place in places])
    axes.set_xlabel("rank of the head in its layer")
    axes.set_title("sorted in each layer; in the cells: heads")
    layer, head = found.best
    row = int(np.searchsorted(found.layers, layer))
    _frame(axes, int(np.flatnonzero(heads[row] == head)[0]), row)


def _write(axes: Axes, x: float, y: float, value: float, text: str, scale: _Scale) -> None:
    if not np.isnan(value):
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 5.8}
        axes.text(x, y, text, color=scale.ink(value), **style)


def _frame(axes: Axes, x: int, y: int) -> None:
    for color, width in (("black", 3.4), ("white", 1.6)):
        style: dict[str, Any] = {"facecolor": "none", "edgecolor": color, "linewidth": width}
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, clip_on=False, zorder=4, **style))


def _layers(axes: Axes, found: TaskScores) -> None:
    places = ticks(found.layers.tolist(), MOST_TICKS)
    axes.set_yticks(places, [str(found.layers[place]) for place in places])
    axes.set_ylabel(layer_label(found.decoder))
    if found.decoder is not None:
        border = float(np.searchsorted(found.layers, found.decoder)) - 0.5
        for color, width in (("black", 2.6), ("white", 1.2)):
            axes.axhline(border, color=color, linewidth=width)
    axes.tick_params(length=2)


def _bar(figure: Figure, image: AxesImage, panels: list[Axes], found: TaskScores) -> None:
    """Put the scale under the panels, with what a head has to beat above it."""
    pad = BAR_GAP / figure.get_figheight()
    bar = figure.colorbar(image, ax=panels, location="bottom", aspect=45, shrink=0.75, pad=pad)
    bar.outline.set_visible(False)
    bar.set_label(UNITS[found.metric])
    marks = {"largest class": found.majority, "chance": found.chance}
    if abs(found.majority - found.chance) < NEAR:
        marks = {"largest class, chance": found.majority}
    low, high = image.get_clim()
    # No line crosses the text of a lower one: texts stand on the side where there is more room.
    at_left = found.baseline < (low + high) / 2
    ordered = sorted(marks.items(), key=lambda mark: mark[1], reverse=at_left)
    across = bar.ax.get_xaxis_transform()
    for level, (name, value) in enumerate(ordered):
        if np.isnan(value):
            continue
        top, below = 1.2 + 0.9 * level, value < low
        line: dict[str, Any] = {"color": VERMILION, "linewidth": 1.6, "clip_on": False}
        if not below:
            bar.ax.plot([value, value], [0, top + 0.6], transform=across, **line)
        style: dict[str, Any] = {"fontsize": 7.5, "color": BLACK, "va": "bottom"}
        style["ha"] = "left" if value < (low + high) / 2 else "right"
        text = f"{'◂' if below else ''} {name} {found.shown(value)} "
        bar.ax.text(max(value, low), top, text, transform=across, **style)


def _notes(found: TaskScores) -> str:
    layer, head = found.best
    notes = (
        f"{found.described}; framed: the best on {_chosen_on(found)}, layer {layer}, head {head}"
    )
    return notes + ("; cross: collapsed" if found.collapsed.any() else "")


def _chosen_on(found: TaskScores) -> str:
    return "test (there is no dev set)" if np.isnan(found.rows["dev"][0].as_py()) else "dev"
