"""Curves over layers: what mapped states are worth, and where early exits lead."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from pyengine.plots import figure as common
from pyengine.plots.figure import BLACK, BLUE, GREEN, GREY, MOST_MARKERS, ORANGE, SKY, VERMILION

PURPLE = "#CC79A7"  # also Okabe and Ito's
# What a metric is measured in: parts of 1, nats, or ranks among all tokens.
SHARE, NATS, RANK = "share", "nats", "rank"
# Below this a curve of r² leaves the picture: the identity can be at -100.
LEAST_R2 = -0.25


class Style(NamedTuple):
    """How a mapping is drawn everywhere."""

    color: str
    linestyle: Any
    marker: str


KNOWN = {
    "id": Style(GREY, "-", "s"),
    "mat": Style(BLUE, "-", "o"),
    "affine": Style(ORANGE, "--", "^"),
    "tuned": Style(GREEN, "-.", "D"),
    "attn": Style(VERMILION, "-", "s"),
    "ffn": Style(GREEN, "--", "^"),
    "norm": Style(SKY, "-.", "D"),
    "cross": Style(PURPLE, ":", "v"),
}
CUTS = ((0, (4, 2)), (0, (1, 1.2)), (0, (4, 2, 1, 2)), (0, (7, 2)))
MORE = (Style(PURPLE, ":", "v"), Style(SKY, "--", "P"), Style(VERMILION, "-.", "X"))


def styles_of(names: Sequence[str]) -> dict[str, Style]:
    """Give each mapping a style: cut to a rank, the colour of what is cut; others in turn."""
    found, more = {}, cycle(MORE)
    cuts: dict[str, Any] = {}
    for name in names:
        kind, at, _ = name.partition("@")
        if at:
            dashes = next(cuts.setdefault(kind, cycle(CUTS)))
            found[name] = Style(KNOWN[kind].color, dashes, "")
        else:
            found[name] = KNOWN.get(name) or next(more)
    return found


def curve(axes: Axes, rows: pa.Table, metric: str, label: str, style: Style) -> None:
    """Draw a mean of one mapping over the layers, and its interval as a band."""
    x = rows["layer"].to_numpy()
    line(axes, x, column(rows, metric), label, style)
    low, high = (column(rows, metric + ending) for ending in ("_low", "_high"))
    axes.fill_between(x, low, high, color=style.color, alpha=0.15, linewidth=0)


def line(axes: Axes, x: np.ndarray, y: np.ndarray, label: str, style: Style) -> None:
    """Draw one line; of many layers without markers."""
    look = style._asdict() | {"markersize": 3.5, "linewidth": 1.4}
    if len(x) > MOST_MARKERS:
        look["marker"] = ""
    axes.plot(x, y, label=label, **look)


def metric_panel(
    axes: Axes, layers: pa.Table, metric: str, styles: dict[str, Style], measure: str
) -> None:
    """Draw a metric of several mappings; `measure` is `SHARE`, `NATS` or `RANK`."""
    for name, style in styles.items():
        curve(axes, layers.filter(pc.field("mapping") == name), metric, name, style)
    layer_axis(axes)
    if measure == SHARE:
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(common.PERCENT_TICKS)
        return
    axes.set_ylabel(measure if measure == NATS else "rank, mean (0: the top)")
    if measure == RANK:  # from none to tens of thousands
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_ylim(bottom=0)


def r2_panel(
    axes: Axes, r2: pa.Table, stack: str, last: int, metric: str, styles: dict[str, Style]
) -> None:
    """Draw r² of the maps to the last layer; mappings that are far below 0 everywhere are named."""
    below = []
    for name, style in styles.items():
        rows = r2.filter(
            (pc.field("stack") == stack)
            & (pc.field("mapping") == name)
            & (pc.field("target") == last)
            & pc.field("step").is_null()
        )
        values = column(rows, metric)
        line(axes, rows["source"].to_numpy(), values, name, style)
        below += [name] if (values < LEAST_R2).all() else []
    layer_axis(axes)
    axes.set_ylim(max(axes.dataLim.y0, LEAST_R2) - 0.03, 1.03)
    axes.axhline(0, color=BLACK, linewidth=0.6)
    axes.set_ylabel("r²")
    if below:
        where: Any = {"x": 0.99, "y": 0.02, "ha": "right", "transform": axes.transAxes}
        axes.text(s=f"below: {', '.join(below)}", fontsize=7, color=GREY, **where)


def step_panel(axes: Axes, r2: pa.Table, stack: str, mapping: str) -> None:
    """Draw r² over each kind of sub-module, block by block."""
    shown = {"attention": "attn", "cross": "cross", "ffn": "ffn", "norm": "norm"}
    rows = r2.filter(
        (pc.field("stack") == stack)
        & (pc.field("mapping") == mapping)
        & pc.is_in(pc.field("step"), pa.array([*shown]))
    )
    block = np.array([int(name[1:].split("_")[0]) for name in rows["name"].to_pylist()])
    steps, values = np.array(rows["step"].to_pylist()), column(rows, "r2")
    for step, style in shown.items():
        if not (of_step := steps == step).any():
            continue
        means = [values[of_step & (block == at)].mean() for at in range(block.max() + 1)]
        several = int(of_step.sum()) // len(means)
        label = step if several == 1 else f"{step} (mean of {several})"
        line(axes, np.arange(len(means)), np.array(means), label, KNOWN[style])
    layer_axis(axes)
    axes.set_xlabel("block")
    axes.set_ylim(max(axes.dataLim.y0, LEAST_R2) - 0.03, 1.03)
    axes.set_ylabel("r²")
    legend_below(axes)


def exit_panel(axes: Axes, exits: pa.Table, styles: dict[str, Style]) -> None:
    """Draw the share of the model's own tokens against the layers run: adaptive and fixed exits."""
    for name, style in styles.items():
        for rule, dashes in (("adaptive", "-"), ("fixed", ":")):
            rows = exits.filter((pc.field("mapping") == name) & (pc.field("rule") == rule))
            rows = rows.sort_by("mean_layer")
            look = style._replace(linestyle=dashes, marker=style.marker * (rule == "adaptive"))
            line(axes, column(rows, "mean_layer"), column(rows, "precision@1"), name, look)
    axes.axhline(0.95, color=BLACK, linewidth=0.8, linestyle=(0, (1, 2)))
    layer_axis(axes)
    axes.set_xlabel("layers run, mean")
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(common.PERCENT_TICKS)
    rules = [
        Line2D([], [], color=BLACK, linestyle="-", label="exit by the gap"),
        Line2D([], [], color=BLACK, linestyle=":", label="exit at a fixed layer"),
    ]
    legend_below(axes, handles=rules)


def legend_below(axes: Axes, **more: Any) -> None:
    """Put a legend under a panel, where it lies over nothing."""
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 2}
    axes.legend(**place, **more)


def layer_axis(axes: Axes) -> None:
    """Label a horizontal axis of layers."""
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_xlabel("layer")
    axes.grid(axis="x", visible=False)


def column(table: pa.Table, name: str) -> np.ndarray:
    """Return a column as float64, NaN for null."""
    values: np.ndarray = table[name].cast(pa.float64()).to_numpy()
    return values
