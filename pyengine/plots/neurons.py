"""Figures 3 and 4 of Dai et al. 2022, and in which layers the knowledge neurons are."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyengine.checks import check_choice
from pyengine.errors import PyengineError
from pyengine.plots import figure as common
from pyengine.plots.change_bars import AGGREGATES, draw_changes
from pyengine.plots.figure import BLUE, GREY, LayerAxis

KINDS = ("suppress", "enhance", "layers")
TITLES = {
    "suppress": "Suppressing a fact's neurons",
    "enhance": "Enhancing a fact's neurons",
    "layers": "Layers of the neurons",
}

# Inches: a relation's two bars with their numbers, what is around them, a picture's least height.
ROW, AROUND, LEAST_HEIGHT = 0.3, 1.7, 4.6
WIDTHS = {"suppress": 6.6, "enhance": 6.6, "layers": 5.2}
MOST_RELATIONS = 60


class NeuronResult(Protocol):
    """What is drawn: a `FactNeurons`, or what published files hold of one, else None."""

    @property
    def relations(self) -> pa.Table | None: ...

    @property
    def layers(self) -> pa.Table | None: ...

    @property
    def manifest(self) -> dict[str, Any]: ...


def plot_neurons(
    found: NeuronResult,
    path: str | Path,
    kinds: Sequence[str] | None = None,
    aggregate: str | None = None,
) -> None:
    """Draw what suppressing and enhancing a fact's neurons does, by relation, and their layers.

    Beside the fact's own prompts stand those of a fact of another relation, under the same neurons.
    Of more than 60 relations, those with the most facts are drawn.

    Args:
        found: a result of `pyengine.fact_neurons`.
        path: ends in `.png`, `.svg` or `.pdf`. The same result gives the same bytes.
        kinds: panels: `suppress` (Figure 3), `enhance` (Figure 4), `layers`; None: all that the
            result holds.
        aggregate: `ratio_of_means` (Dai et al.: mean change / mean probability; default) or
            `mean_of_ratios` (the knowledge-neurons package; default where there is no other).

    Raises:
        PyengineError: for an unknown kind or aggregate, or one that the result does not hold,
            another ending, or a path that cannot be written.
    """
    chosen = _panels(found, kinds)
    aggregate = _aggregate(found.relations, aggregate)
    rows = [] if found.relations is None else _shown(found.relations)
    height = LEAST_HEIGHT
    if {*chosen} & {"suppress", "enhance"}:
        height = max(height, AROUND + ROW * (len(rows) + 1))

    def paint(figure: Figure) -> None:
        ratios = [WIDTHS[kind] for kind in chosen]
        panels = figure.subplots(1, len(chosen), width_ratios=ratios, squeeze=False)[0]
        for axes, kind in zip(panels, chosen, strict=True):
            if kind == "layers":
                _layers(axes, found, height)
            else:
                draw_changes(axes, rows, f"{kind}_{aggregate}", named=axes is panels[0])
                axes.set_title(TITLES[kind], pad=24)
        name = found.manifest["model"]["name"]
        common.title(figure, f"Knowledge neurons of {common.shortened(Path(name).name or name)}")
        notes = textwrap.fill(_notes(found, rows), int(16 * sum(ratios)))
        figure.supxlabel(notes, x=0.01, ha="left", fontsize=8, color=GREY)

    common.draw(path, (sum(WIDTHS[kind] for kind in chosen), height), paint)


def _panels(found: NeuronResult, kinds: Sequence[str] | None) -> list[str]:
    tables = {"suppress": found.relations, "enhance": found.relations, "layers": found.layers}
    held = [kind for kind in KINDS if tables[kind] is not None]
    for kind in kinds or ():
        check_choice("kind", kind, KINDS)
        if kind not in held:
            raise PyengineError(f"nothing here shows {kind}; it shows {', '.join(held)}")
    return [*dict.fromkeys(kinds or held)]


def _aggregate(relations: pa.Table | None, name: str | None) -> str:
    first, second = AGGREGATES
    only_second = relations is not None and relations[f"own_suppress_{first}"].null_count == len(
        relations
    )
    if name is None:
        return second if only_second else first
    check_choice("aggregate", name, tuple(AGGREGATES))
    if name == first and only_second:
        raise PyengineError("published results hold no probabilities, only means of ratios")
    return name


def _shown(relations: pa.Table) -> list[dict[str, Any]]:
    """Return the relations to draw in the order of the table, at most so many, and `all` last."""
    *rows, whole = relations.to_pylist()
    most = sorted(rows, key=lambda row: -row["n_facts"])[:MOST_RELATIONS]
    kept = {row["relation"] for row in most}
    return [*(row for row in rows if row["relation"] in kept), whole]


def _layers(axes: Axes, found: NeuronResult, height: float) -> None:
    assert found.layers is not None
    axis = LayerAxis(found.manifest, found.layers["layer"].to_pylist())
    share = np.nan_to_num(found.layers["share"].cast(pa.float64()).to_numpy())
    axes.bar(axis.x, share, color=BLUE, width=0.8)
    axes.set_title(TITLES["layers"])
    axes.set_ylabel("share of the facts' neurons")
    axes.yaxis.set_major_formatter(common.PERCENT_TICKS)
    axes.set_ylim(0, max(float(share.max()), 1e-6) * 1.12)
    axis.dress(axes)
    axis.numbers(axes, share, BLUE)
    # In a tall picture the panel keeps its shape at the top.
    axes.set_box_aspect(min(0.75, height / WIDTHS["layers"]))
    axes.set_anchor("N")


def _notes(found: NeuronResult, rows: list[dict[str, Any]]) -> str:
    notes = []
    if rows:
        whole = rows[-1]
        notes.append(f"{whole['n_facts']:,} facts, {whole['n_prompts']:,} prompts")
        notes.append(f"{whole['n_neurons'] or 0:.3g} neurons per fact")
    if found.layers is not None:
        notes.append(f"{pc.sum(found.layers['n_neurons']).as_py() or 0:,} neurons in all")
    if found.relations is not None and len(rows) < len(found.relations):
        notes.append(
            f"drawn: the {len(rows) - 1} of {len(found.relations) - 1} relations with the most "
            "facts"
        )
    return "; ".join(notes) + _settings(found.manifest.get("question", {}))


def _settings(question: dict[str, Any]) -> str:
    """Say how a run's neurons were found and enhanced; nothing of published files."""
    if not question:
        return ""
    share = question["share"]
    agree = "a tuned share" if share == "auto" else f"more than {common.percent(share)}"
    return (
        f"; found by {question['method']} attribution of the {question['objective']} in {agree} of "
        f"a fact's prompts; enhanced × {question['factor']:g}"
    )
