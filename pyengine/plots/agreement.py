"""Figures 4, 5 and 6 of Geva et al. 2021: do values predict what follows their keys' triggers?"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from pyengine.plots import figure as common
from pyengine.plots.figure import BLUE, GREY, VERMILION, LayerAxis, percent, quartiles

if TYPE_CHECKING:
    from pyengine.analyses.agreement_result import Agreement

SIZE = (12.0, 5.0)
SHUFFLED: dict[str, Any] = {"color": VERMILION, "linestyle": "--", "marker": "s"}
CHANCE: dict[str, Any] = {"color": GREY, "linestyle": ":", "marker": ""}


def plot_agreement(agreement: "Agreement", path: str | Path) -> None:
    """Draw agreement per layer, target ranks per layer and agreement by probability.

    Beside each stand the two baselines: the same values compared with the triggers of other keys
    of their layer, and chance. Rates that span decades get a logarithmic axis that holds zero.

    Args:
        agreement: a result of `pyengine.key_value_agreement`.
        path: ends in `.png`, `.svg` or `.pdf`. The same result gives the same bytes.

    Raises:
        PyengineError: for another ending, or a path that cannot be written.
    """

    def paint(figure: Figure) -> None:
        axis = LayerAxis(agreement.manifest, agreement.layers["layer"].to_pylist())
        rates, ranks, by_probability = figure.subplots(1, 3)
        _rates(rates, agreement.layers, axis)
        _ranks(ranks, agreement, axis)
        _by_probability(by_probability, agreement.probability)
        _describe(figure, agreement)

    common.draw(path, SIZE, paint)


def _rates(axes: Axes, layers: pa.Table, axis: LayerAxis) -> None:
    measured, shuffled, chance = (
        _numbers(layers, f"agreement{baseline}") for baseline in ("", "_shuffled", "_chance")
    )
    axes.set_title("How often value and trigger agree")
    axis.line(axes, measured, "top token = target of the first trigger", BLUE, zorder=3)
    axis.line(axes, shuffled, "the same with another key's trigger", **SHUFFLED)
    axis.line(axes, chance, "chance: 1 / vocabulary", **CHANCE)
    _rate_axis(axes, np.concatenate([measured, shuffled, chance]))
    axes.set_ylabel("share of the layer's values")
    axis.dress(axes)
    axis.numbers(axes, measured, BLUE)
    common.legend_under(axes)


def _ranks(axes: Axes, agreement: "Agreement", axis: LayerAxis) -> None:
    layers = agreement.layers
    spread = _rank_quartiles(agreement.table, layers["layer"].to_pylist())
    axes.set_title("Where the value ranks the target")
    measured, shuffled, chance = (
        _numbers(layers, f"mean_rank{baseline}") for baseline in ("", "_shuffled", "_chance")
    )
    axis.line(axes, measured, "mean", BLUE, zorder=3)
    axis.band(axes, spread, "median, and quartiles", BLUE, linestyle="-.", marker="")
    axis.line(axes, shuffled, "mean with another key's trigger", **SHUFFLED)
    axis.line(axes, chance, "mean by chance", **CHANCE)
    lowest = float(np.nanmin([*spread.flat, *measured, *chance]))
    if lowest >= 1:
        common.plain_log(axes, common.COUNT_TICKS)
        axes.set_ylim(10 ** np.floor(np.log10(lowest)), float(chance.max()) * 3)
    else:
        axes.set_yscale("symlog", linthresh=1, linscale=0.3)
        axes.set_ylim(0, float(chance.max()) * 3)
        axes.yaxis.set_major_formatter(common.COUNT_TICKS)
    axes.set_ylabel("rank in the vocabulary (0 is the top)")
    axis.dress(axes)
    common.legend_under(axes)


def _rank_quartiles(table: pa.Table, layers: list[int]) -> np.ndarray:
    """Return [layers, 3]: quartiles of the first trigger's target rank; NaN where there is none."""
    ranks = pc.list_element(table["target_ranks"], 0).cast(pa.float64()).to_numpy()
    of_layer = table["layer"].to_numpy()
    return np.array([quartiles(ranks[of_layer == layer]) for layer in layers])


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """Return a column as float64, NaN for null."""
    values: np.ndarray = table[name].cast(pa.float64()).to_numpy()
    return values


def _by_probability(axes: Axes, bins: pa.Table) -> None:
    known = bins.filter(pc.is_valid(bins["agreement"])).to_pylist()
    if not known:
        return
    most = next((row for row in known if row["bin"] < 0), None)
    rows = [row for row in known if row["bin"] >= 0]
    places = [row["bin"] for row in rows]
    measured, shuffled = (
        _numbers(pa.table({name: [row[name] for row in rows]}), name)
        for name in ("agreement", "agreement_shuffled")
    )
    axes.set_title("Agreement by the value's confidence")
    axes.plot(places, measured, color=BLUE, marker="o", zorder=3, label="a tenth of the values")
    ticks = {row["bin"]: common.plain(row["to_prob"], 2) for row in rows}
    if most is not None:
        place = max(places) + 1.3
        ticks[place] = f"top {most['n_values']}"
        star: dict[str, Any] = {"marker": "*", "markersize": 11, "linestyle": "", "color": BLUE}
        axes.plot(place, most["agreement"], label=f"the {most['n_values']} most confident", **star)
        common.annotate(axes, place, most["agreement"], percent(most["agreement"]), BLUE)
    axes.plot(places, shuffled, label="the same with another key's trigger", **SHUFFLED)
    axes.axhline(known[0]["agreement_chance"], label="chance: 1 / vocabulary", **CHANCE)
    rates = [row[name] for row in known for name in ("agreement", "agreement_shuffled")]
    _rate_axis(axes, np.array([*rates, known[0]["agreement_chance"]], float))
    axes.set_xticks(list(ticks), list(ticks.values()), rotation=45, ha="right")
    axes.set_xlabel("probability of the value's top token, up to")
    axes.set_ylabel("share of the values in the bin")
    common.legend_under(axes, drop=-0.3)


def _rate_axis(axes: Axes, values: np.ndarray) -> None:
    """Scale an axis of shares: linear, or logarithmic above the smallest positive one."""
    values = values[~np.isnan(values)]
    highest = float(values.max(initial=0.0))
    if common.spans_decades(values):
        least = 10 ** np.floor(np.log10(values[values > 0].min()))
        axes.set_yscale("symlog", linthresh=least, linscale=0.5)
        axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=least))
        axes.set_ylim(-least / 10, min(highest * 4, 1.5))
    else:
        axes.set_ylim(0, max(highest * 1.2, 1e-6))
    axes.yaxis.set_major_formatter(common.PERCENT_TICKS)


def _describe(figure: Figure, agreement: "Agreement") -> None:
    model, question = agreement.manifest["model"], agreement.manifest["question"]
    targets = sorted(set(agreement.layers["target"].to_pylist()))
    notes = (
        f"{agreement.table.num_rows:,} values; target: the trigger's {' / '.join(targets)} token; "
        f"final norm {question.get('final_norm', 'off')}, head {question.get('head', 'full')}"
    )
    common.title(figure, f"What each value of {common.shortened(model['name'], 80)} writes")
    figure.supxlabel(notes, x=0.01, ha="left", fontsize=8, color=GREY)
