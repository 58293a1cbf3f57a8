"""Bars of what happens to the correct answers' probability, by relation."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from pyengine.plots import figure as common
from pyengine.plots.figure import BLACK, BLUE, GREY, ORANGE
from pyengine.relation_names import relation_name

AGGREGATES = {
    "ratio_of_means": "correct answer's probability: change of the mean",
    "mean_of_ratios": "correct answer's probability: mean of the prompts' changes",
}

BAR = 0.38
LONGEST_NAME = 30
# Beyond ±100 % the axis of changes is logarithmic, where one is beyond +300 %.
LINEAR, LINEAR_ALL = 1.0, 3.0
# Changes that are all smaller than this are drawn small.
LEAST = 0.05
SYMLOG_TICKS = (-1, -0.5, 0, 0.5, *(digit * 10**power for power in range(6) for digit in (1, 3)))
DARK_ORANGE = "#8A5A00"  # for text

_NUMBER: dict[str, Any] = {"va": "center", "textcoords": "offset points", "annotation_clip": False}


def draw_changes(axes: Axes, rows: list[dict[str, Any]], column: str, named: bool) -> None:
    """Draw two bars per relation, from the top down; the last row, over all, stands apart.

    Args:
        axes: to draw on.
        rows: of `FactNeurons.relations`.
        column: `MODE_AGGREGATE`: the columns' names without `own_` and `unrelated_`.
        named: write the relations' names.
    """
    places = np.arange(len(rows), dtype=float)
    places[-1] += 0.6
    own, unrelated = (
        np.array([row[f"{kind}_{column}"] for row in rows], float) for kind in ("own", "unrelated")
    )
    _scale(axes, np.concatenate([own, unrelated]))
    series = (
        (own, -BAR / 2, BLUE, BLUE, "the fact's own prompts", None),
        (unrelated, BAR / 2, ORANGE, DARK_ORANGE, "prompts of another relation", "////"),
    )
    for values, shift, color, text_color, label, hatch in series:
        known = not np.isnan(values).all()
        style: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": "white"}
        label = label if known else f"{label}: not known"
        axes.barh(places + shift, values, BAR, label=label, linewidth=0, **style)
        for place, value in zip(places + shift, values, strict=True) if known else ():
            _number(axes, place, value, text_color)
    axes.axvline(0, color=BLACK, linewidth=1)
    axes.axhline(places[-1] - 0.8, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set_yticks(places, [_label(row) if named else "" for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2
    )
    logarithmic = "\n(logarithmic beyond +100 %)" if axes.get_xscale() == "symlog" else ""
    axes.set_xlabel(AGGREGATES[column.partition("_")[2]] + logarithmic)


def _label(row: dict[str, Any]) -> str:
    name = "all relations" if row["relation"] == "all" else relation_name(row["relation"])
    return f"{textwrap.shorten(name, LONGEST_NAME, placeholder='…')} ({row['n_facts']:,})"


def _scale(axes: Axes, values: np.ndarray) -> None:
    """Scale the axis of changes, zero always on it, with room for the numbers at both ends."""
    known = values[~np.isnan(values)]
    low, high = min(known.min(initial=0.0), 0.0), max(known.max(initial=0.0), 0.0)
    if max(-low, high) < LEAST:
        low, high = -LEAST, LEAST
    if high > LINEAR_ALL:
        axes.set_xscale("symlog", linthresh=LINEAR, linscale=0.6)
        axes.set_xlim(min(low * 1.6, -0.4), high * 5)
        left, right = axes.get_xlim()
        axes.set_xticks([tick for tick in SYMLOG_TICKS if left <= tick <= right])
        axes.minorticks_off()
    else:
        room = 0.16 * (high - low)
        axes.set_xlim(low - room, high + room)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: change(value)))


def _number(axes: Axes, place: float, value: float, color: str) -> None:
    """Write a change beyond the end of its bar."""
    left = value < 0
    style = _NUMBER | {"fontsize": 6.5, "color": color, "ha": "right" if left else "left"}
    text, at = ("–", 0.0) if np.isnan(value) else (change(value), value)
    axes.annotate(text, (at, place), (-3 if left else 3, 0), **style)


def change(value: float) -> str:
    """Write -0.293 as `−29 %`: a sign, two digits that count, none below a hundredth of a percent.

    A change that rounds to nothing is `0 %`.
    """
    size = abs(100 * value)
    if size < 0.005:
        return "0 %"
    shown = f"{size:,.0f}" if size >= 10 else common.plain(round(size, 2), 2)
    return f"{'−' if value < 0 else '+'}{shown} %"
