"""Figures 7 to 11 of Geva et al. 2021: how a layer's prediction is put together."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from pyengine.plots import figure as common
from pyengine.plots.figure import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    LayerAxis,
    percent,
)
from pyengine.plots.layer_rows import LayerRows

if TYPE_CHECKING:
    from pyengine.analyses.prediction_result import Predictions

SIZE = (12.0, 8.4)
# Bottom to top in the stacked picture, with hatches for those who see no colours.
KINDS = {
    "residual": (SKY, ""),
    "agreement": (BLUE, "//"),
    "composition": (ORANGE, ""),
    "ffn": (VERMILION, "\\\\"),
}

# In a stacked bar, from this share on there is room for its number.
LEAST_NUMBERED = 0.06
READ_THROUGH = {"full": "model's output head", "embedding": "bare output embedding"}


def plot_predictions(predictions: "Predictions", path: str | Path) -> None:
    """Draw how predictions come about over the layers.

    Layer mode: the share of active memories (Figure 7), how often a prediction is that of no
    single active memory (8), how often the residual already predicts the final token (9), that
    token's probability in it (10), and where predictions come from (11). Value mode: active
    memories, what they predict, and how the contributions fall off.

    Args:
        predictions: a result of `pyengine.ffn_predictions`.
        path: ends in `.png`, `.svg` or `.pdf`. The same result gives the same bytes.

    Raises:
        PyengineError: for another ending, or a path that cannot be written.
    """
    rows = LayerRows(predictions)
    axis = LayerAxis(predictions.manifest, rows.layers)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(2, 3)
        for axes, panel in zip(grid.flat, PANELS[predictions.mode], strict=False):
            panel(axes, axis, rows)
        _describe(grid.flat[-1], predictions)
        name = common.shortened(predictions.manifest["model"]["name"], 80)
        common.title(figure, f"What the layers of {name} predict")

    common.draw(path, SIZE, paint)


def _share_panel(axes: Axes, axis: LayerAxis, title: str, label: str) -> None:
    axes.set_title(title)
    axes.set_ylabel(label)
    axes.yaxis.set_major_formatter(common.PERCENT_TICKS)
    axis.dress(axes)


def _active(axes: Axes, axis: LayerAxis, rows: LayerRows) -> None:
    quartiles = rows.quartiles(rows.column("n_active") / rows.d_ff)
    negative = rows.summary["mean_negative"] / rows.d_ff
    axis.band(axes, quartiles, "coefficient > 0: median, and quartiles", BLUE)
    if np.nan_to_num(negative).any():
        axis.line(axes, negative, "coefficient < 0, not counted: mean", GREY, linestyle="--")
    else:
        axis.numbers(axes, quartiles[:, 1], BLUE)
    _share_panel(axes, axis, "Active memories", f"share of the layer's {rows.d_ff:,} memories")
    common.from_zero(axes)


def _no_memory(axes: Axes, axis: LayerAxis, rows: LayerRows) -> None:
    layer, ffn = (rows.summary[f"no_match_{name}"] for name in ("layer", "ffn"))
    axis.line(axes, layer, "what the layer predicts", BLUE)
    axis.line(axes, ffn, "what the FFN predicts", VERMILION, linestyle="--", marker="s")
    axis.numbers(axes, layer, BLUE)
    _share_panel(axes, axis, "Predictions of no active memory", "share of the examples")
    common.from_zero(axes, 1)


def _final_found(axes: Axes, axis: LayerAxis, rows: LayerRows) -> None:
    residual = rows.summary["residual_predicts_final"]
    axis.line(axes, residual, "what the residual predicts", BLUE)
    if "ffn_predicts_final" in rows.summary:
        ffn = rows.summary["ffn_predicts_final"]
        axis.line(axes, ffn, "what the FFN predicts", VERMILION, linestyle="--", marker="s")
    axis.numbers(axes, residual, BLUE)
    _share_panel(axes, axis, "Predictions of the final token", "share of the examples")
    common.from_zero(axes, 1)


def _final_probability(axes: Axes, axis: LayerAxis, rows: LayerRows) -> None:
    quartiles = rows.quartiles(rows.column("residual_final_prob"))
    axis.band(axes, quartiles, "median, and quartiles", BLUE)
    axis.numbers(axes, quartiles[:, 1], BLUE)
    _share_panel(axes, axis, "Final token's probability in the residual", "probability")
    common.from_zero(axes, 1)


def _kinds(axes: Axes, axis: LayerAxis, rows: LayerRows) -> None:
    base = np.zeros(len(rows.layers))
    for name, (color, hatch) in KINDS.items():
        share = np.nan_to_num(rows.summary[name])
        style: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": "white"}
        axes.bar(
            axis.x,
            share,
            1 if axis.crowded else 0.85,
            bottom=base,
            label=name,
            linewidth=0,
            **style,
        )
        if not axis.crowded:
            for x, low, height in zip(axis.x, base, share, strict=True):
                if height >= LEAST_NUMBERED:
                    common.number_in(axes, x, low + height / 2, percent(height))
        base += share
    _share_panel(axes, axis, "Where the prediction comes from", "share of the examples")
    axes.set_ylim(0, 1)
    common.legend_under(axes, columns=2)


def _predicted_tokens(axes: Axes, axis: LayerAxis, rows: LayerRows) -> None:
    active = np.maximum(rows.column("n_active"), 1)
    for name, label, color, style, marker in (
        ("final", "the final token", BLUE, "-", "o"),
        ("ffn", "what the FFN predicts", VERMILION, "--", "s"),
        ("gold", "the gold token", GREEN, "-.", "^"),
    ):
        share = rows.mean(rows.column(f"n_matching_{name}") / active)
        axis.line(axes, share, label, color, linestyle=style, marker=marker)
    _share_panel(axes, axis, "Active memories that predict …", "mean share of the active memories")
    common.from_zero(axes)


def _variety(axes: Axes, axis: LayerAxis, rows: LayerRows) -> None:
    shares = rows.column("n_distinct") / np.maximum(rows.column("n_active"), 1)
    quartiles = rows.quartiles(shares)
    axis.band(axes, quartiles, "median, and quartiles", BLUE)
    axis.numbers(axes, quartiles[:, 1], BLUE)
    _share_panel(axes, axis, "Variety of the active memories", "distinct predictions per memory")
    common.from_zero(axes, 1)


def _contributions(axes: Axes, _: LayerAxis, rows: LayerRows) -> None:
    norms = np.maximum(rows.column("residual_norm"), 1e-30)
    relative = rows.lists("top_contributions") / norms[:, None]
    ranks = np.arange(1, relative.shape[1] + 1)
    shown = sorted({int(at) for at in np.linspace(0, len(rows.layers) - 1, 4)})
    styles = ((SKY, "-"), (GREEN, "--"), (ORANGE, "-."), (VERMILION, ":"))
    for at, (color, style) in zip(shown, styles, strict=False):
        known = relative[rows.of_layer[at]]
        known = known[~np.isnan(known).any(axis=1)]
        if len(known):
            label = f"layer {rows.layers[at]}"
            middle = np.median(known, axis=0)
            axes.plot(ranks, middle, color=color, linestyle=style, marker="o", label=label)
    axes.set_title("The largest contributions")
    axes.set_xlabel("place of the memory by |coefficient| · ‖value‖")
    axes.set_ylabel("median, as a share of the residual's norm")
    axes.set_xticks(ranks[:: 1 + len(ranks) // 11])
    if common.spans_decades(relative) and np.nanmin(relative) > 0:
        common.plain_log(axes, common.PERCENT_TICKS)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(common.PERCENT_TICKS)
    common.legend_under(axes, columns=2)


PANELS: dict[str, tuple[Callable[[Axes, LayerAxis, LayerRows], None], ...]] = {
    "layer": (_active, _no_memory, _final_found, _final_probability, _kinds),
    "value": (_active, _predicted_tokens, _final_found, _variety, _contributions),
}


def _describe(axes: Axes, predictions: "Predictions") -> None:
    manifest = predictions.manifest
    question, corpus = manifest["question"], manifest["corpus"]
    norm = "after the final norm" if question["final_norm"] == "on" else "without the final norm"
    notes = [
        f"Examples: {predictions.examples.num_rows:,} in {corpus['n_units']:,} units of",
        common.shortened(corpus["source"]),
        f"(position: {question['position']})",
        "",
        f"Vectors are read {norm},",
        f"through the {READ_THROUGH[question['head']]}.",
        "A memory is a coefficient times its value,",
        "read through the bare embedding.",
        "Final token: the model's own prediction.",
    ]
    if predictions.mode == "layer":
        notes += [
            "",
            "residual: the layer predicts the residual's token",
            "ffn: the layer predicts the FFN's token",
            "agreement: all three predict the same one",
            "composition: the layer predicts neither's",
        ]
    axes.axis("off")
    axes.text(0, 1, "\n".join(notes), va="top", fontsize=8.5, color="#333333", linespacing=1.5)
