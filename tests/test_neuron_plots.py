"""Figures 3 and 4 of Dai et al.: bars that are the table, whatever is in it."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pytest
import synthetic_neurons
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyengine import PyengineError
from pyengine.analyses.fact_neuron_result import FactNeurons
from pyengine.cli.neurons_sources import Published
from pyengine.plots import figure as common
from pyengine.plots import plot_neurons
from pyengine.plots.change_bars import change

T5: dict[str, Any] = {"family": "t5", "stacks": ["encoder"] * 2 + ["decoder"] * 2}
OWN, OTHER = "the fact's own prompts", "prompts of another relation"


def painted(monkeypatch: pytest.MonkeyPatch, found: Any, **more: Any) -> tuple[Figure, list[Axes]]:
    """Return a picture and its panels, laid out as in the file, without writing it."""
    kept: list[Figure] = []

    def draw(_path: Path, size: tuple[float, float], paint: Any) -> None:
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        figure.draw_without_rendering()
        kept.append(figure)

    monkeypatch.setattr(common, "draw", draw)
    plot_neurons(found, Path("unused.png"), **more)
    monkeypatch.undo()
    return kept[0], kept[0].axes


def bars(axes: Axes, label: str) -> list[float]:
    (container,) = [c for c in axes.containers if str(c.get_label()).startswith(label)]
    return [patch.get_width() for patch in container]


def with_relations(found: FactNeurons, relations: pa.Table) -> Published:
    return Published(relations, found.layers, found.manifest)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_same_bytes_whatever_the_settings(tmp_path: Path, ending: str) -> None:
    found = synthetic_neurons.found()
    plot_neurons(found, tmp_path / f"a.{ending}")
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None, "savefig.dpi": 20}):
        plot_neurons(found, tmp_path / f"b.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


@pytest.mark.parametrize("aggregate", ["ratio_of_means", "mean_of_ratios"])
def test_bars_are_the_table(monkeypatch: pytest.MonkeyPatch, aggregate: str) -> None:
    found = synthetic_neurons.found(5)
    _, (suppress, enhance, layers) = painted(monkeypatch, found, aggregate=aggregate)
    table = found.relations.to_pydict()
    for axes, mode in ((suppress, "suppress"), (enhance, "enhance")):
        np.testing.assert_array_equal(bars(axes, OWN), table[f"own_{mode}_{aggregate}"])
        np.testing.assert_array_equal(bars(axes, OTHER), table[f"unrelated_{mode}_{aggregate}"])
        shown = {text.get_text() for text in axes.texts}
        assert {change(value) for value in table[f"own_{mode}_{aggregate}"]} <= shown
        assert any(line.get_xdata() == [0, 0] for line in axes.get_lines()), "no zero line"
        low, high = axes.get_xlim()
        assert low < min(table[f"own_{mode}_{aggregate}"]) and high > 0 > low
    (heights,) = layers.containers
    assert [bar.get_height() for bar in heights] == found.layers["share"].to_pylist()
    names = [label.get_text() for label in suppress.get_yticklabels()]
    assert names == [
        "P17 country (3)",
        "P19 place of birth (3)",
        "P20 place of death (3)",
        "P27 citizenship (3)",
        "P30 continent (3)",
        "all relations (15)",
    ]
    assert not any(label.get_text() for label in enhance.get_yticklabels())


def test_relations_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of 39 relations do not overlap, nor do the numbers of neighbouring bars."""
    figure, (axes,) = painted(monkeypatch, synthetic_neurons.found(39), kinds=["suppress"])
    for texts in (axes.get_yticklabels(), axes.texts):
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        pairs = [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
        assert not pairs, f"{len(pairs)} overlap"
    assert figure.get_size_inches()[1] < 20


def test_many_relations_are_cut_to_those_with_most_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = synthetic_neurons.found(80)
    rows = found.relations.to_pylist()
    rows[70]["n_facts"] = 1000
    relations = pa.Table.from_pylist(rows, found.relations.schema)
    figure, (axes,) = painted(monkeypatch, with_relations(found, relations), kinds=["enhance"])
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert len(names) == 61 and any("(1,000)" in name for name in names[:-1])
    assert "the 60 of 80 relations with the most facts" in " ".join(figure.get_supxlabel().split())


def test_large_changes_get_an_axis_that_is_logarithmic_beyond_100_percent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = synthetic_neurons.found(3)
    rows = found.relations.to_pylist()
    rows[0]["own_enhance_mean_of_ratios"] = 21.04
    relations = pa.Table.from_pylist(rows, found.relations.schema)
    published = with_relations(found, relations)
    _, (small, large) = painted(
        monkeypatch, published, kinds=["suppress", "enhance"], aggregate="mean_of_ratios"
    )
    assert (small.get_xscale(), large.get_xscale()) == ("linear", "symlog")
    assert "+2,104 %" in {text.get_text() for text in large.texts}
    assert large.get_xlim()[1] > 21.04 and "logarithmic beyond +100 %" in large.get_xlabel()


def test_what_published_results_lack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = synthetic_neurons.found(3)
    rows = found.relations.to_pylist()
    for row in rows:
        row |= {name: None for name in row if name.endswith("ratio_of_means")}
        row["unrelated_enhance_mean_of_ratios"] = None
    published = with_relations(found, pa.Table.from_pylist(rows, found.relations.schema))
    _, (suppress, enhance, _) = painted(monkeypatch, published)
    assert bars(suppress, OWN) == found.relations["own_suppress_mean_of_ratios"].to_pylist()
    assert enhance.containers[1].get_label() == f"{OTHER}: not known"
    with pytest.raises(PyengineError, match="no probabilities, only means of ratios"):
        plot_neurons(published, tmp_path / "p.png", aggregate="ratio_of_means")
    only_layers = replace(published, relations=None)
    assert len(painted(monkeypatch, only_layers)[1]) == 1
    with pytest.raises(PyengineError, match="nothing here shows suppress; it shows layers"):
        plot_neurons(only_layers, tmp_path / "p.png", ["suppress"])


def test_an_unknown_change_is_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    found = synthetic_neurons.found(3)
    rows = found.relations.to_pylist()
    rows[1]["own_suppress_ratio_of_means"] = None
    relations = pa.Table.from_pylist(rows, found.relations.schema)
    _, (axes,) = painted(monkeypatch, with_relations(found, relations), kinds=["suppress"])
    assert [text.get_text() for text in axes.texts].count("–") == 1


def test_a_title_without_a_long_path_and_stacks_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    found = synthetic_neurons.found(2, **T5)
    found.manifest["model"]["name"] = f"/{'long/' * 30}folder/t5-small"
    figure, (*_, layers) = painted(monkeypatch, found)
    assert figure.get_suptitle() == "Knowledge neurons of t5-small"
    assert "encoder, then decoder" in layers.get_xlabel()
    assert "more than 50 % of a fact's prompts; enhanced × 2" in " ".join(
        figure.get_supxlabel().split()
    )


def test_tiny_changes_look_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    found = synthetic_neurons.found(2)
    rows = found.relations.to_pylist()
    for row in rows:
        row["own_suppress_ratio_of_means"] = row["unrelated_suppress_ratio_of_means"] = -0.001
    relations = pa.Table.from_pylist(rows, found.relations.schema)
    _, (axes,) = painted(monkeypatch, with_relations(found, relations), kinds=["suppress"])
    assert axes.get_xlim()[0] <= -0.05


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-0.2903, "−29 %"),
        (0.3117, "+31 %"),
        (21.04, "+2,104 %"),
        (-0.0147, "−1.5 %"),
        (0.00127, "+0.13 %"),
        (-0.00001, "0 %"),
        (-0.0996, "−10 %"),
        (0.0, "0 %"),
        (-1.0, "−100 %"),
    ],
)
def test_change(value: float, shown: str) -> None:
    assert change(value) == shown


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"kinds": ["bars"]}, "unknown kind 'bars'"),
        ({"aggregate": "median"}, "unknown aggregate 'median'"),
    ],
)
def test_bad_settings(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(PyengineError, match=words):
        plot_neurons(synthetic_neurons.found(), tmp_path / "p.png", **more)
    with pytest.raises(PyengineError, match=r"known are: \.png, \.svg, \.pdf"):
        plot_neurons(synthetic_neurons.found(), tmp_path / "p.jpg")
    assert not list(tmp_path.iterdir())
