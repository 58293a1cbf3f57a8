"""Pictures: deterministic files, and lines that show what the tables say."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pytest
import synthetic_results
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyengine import PyengineError
from pyengine.plots import figure as common
from pyengine.plots import plot_agreement, plot_predictions
from pyengine.plots.figure import LayerAxis, percent

SIGNATURES = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
T5: dict[str, Any] = {"family": "t5", "stacks": ["encoder"] * 2 + ["decoder"] * 3, "n_layers": 5}

Results = dict[str, tuple[Any, Callable[[Any, Path], None]]]


@pytest.fixture(scope="module")
def results() -> Results:
    return {
        "agreement": (synthetic_results.agreement(), plot_agreement),
        "layer": (synthetic_results.predictions("layer"), plot_predictions),
        "value": (synthetic_results.predictions("value"), plot_predictions),
    }


def painted(monkeypatch: pytest.MonkeyPatch, plot: Callable[[Any, Path], None], result: Any) -> Any:
    """Return the panels of a picture, without writing it."""
    figure = Figure()
    monkeypatch.setattr(common, "draw", lambda path, size, paint: paint(figure))
    plot(result, Path("unused.png"))
    monkeypatch.undo()
    return figure.axes


def line(axes: Axes, label: str) -> np.ndarray:
    """Return the heights of a labelled line and of its parts in later stacks."""
    lines = axes.get_lines()
    first = next(i for i, found in enumerate(lines) if found.get_label() == label)
    color, style = lines[first].get_color(), lines[first].get_linestyle()
    same = [x for x in lines[first:] if (x.get_color(), x.get_linestyle()) == (color, style)]
    parts = [x for i, x in enumerate(same) if i == 0 or str(x.get_label()).startswith("_")]
    return np.concatenate([np.asarray(part.get_ydata(), float) for part in parts])


@pytest.mark.parametrize("what", ["agreement", "layer", "value"])
@pytest.mark.parametrize("ending", sorted(SIGNATURES))
def test_same_bytes_whatever_the_settings(
    results: Results, tmp_path: Path, what: str, ending: str
) -> None:
    result, plot = results[what]
    before = dict(matplotlib.rcParams)
    plot(result, tmp_path / f"a.{ending}")
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None, "savefig.dpi": 20}):
        plot(result, tmp_path / f"b.{ending}")
    first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in "ab")
    assert first == second
    assert first.startswith(SIGNATURES[ending])
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a.{ending}", f"b.{ending}"]


def test_commands_load_matplotlib_only_to_draw() -> None:
    code = "import sys, pyengine.cli; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_png_is_wide_enough_to_read(results: Results, tmp_path: Path) -> None:
    plot_agreement(results["agreement"][0], tmp_path / "a.png")
    width = int.from_bytes((tmp_path / "a.png").read_bytes()[16:20], "big")
    assert width >= 1200


@pytest.mark.parametrize("name", ["picture.jpg", "picture", "picture.png.txt"])
def test_an_unknown_ending_is_refused(results: Results, tmp_path: Path, name: str) -> None:
    for result, plot in results.values():
        with pytest.raises(PyengineError, match=r"known are: \.png, \.svg, \.pdf") as error:
            plot(result, tmp_path / name)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_agreement_lines_are_the_tables(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    found = results["agreement"][0]
    rates, ranks, confidence = painted(monkeypatch, plot_agreement, found)
    layers = found.layers.to_pydict()
    np.testing.assert_array_equal(
        line(rates, "top token = target of the first trigger"), layers["agreement"]
    )
    np.testing.assert_array_equal(
        line(rates, "the same with another key's trigger"), layers["agreement_shuffled"]
    )
    np.testing.assert_array_equal(line(ranks, "mean"), layers["mean_rank"])
    np.testing.assert_array_equal(line(ranks, "median, and quartiles"), layers["median_rank"])
    np.testing.assert_array_equal(line(ranks, "mean by chance"), layers["mean_rank_chance"])
    bins = found.probability.to_pydict()["agreement"]
    np.testing.assert_array_equal(line(confidence, "a tenth of the values"), bins[:10])
    np.testing.assert_array_equal(line(confidence, "the 100 most confident"), bins[10:])
    # The first layer agrees nowhere: zero has a place on the axis that is logarithmic above it.
    assert rates.get_yscale() == "symlog"
    assert rates.get_ylim()[0] < 0 == layers["agreement"][0]


def test_prediction_lines_are_the_tables(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    found = results["layer"][0]
    active, unmatched, final, probability, kinds, _ = painted(monkeypatch, plot_predictions, found)
    rows = found.table.to_pylist()
    d_ff = found.manifest["model"]["d_ff"]
    by_layer = [[row for row in rows if row["layer"] == layer] for layer in range(4)]

    def of(value: Callable[[dict[str, Any]], float]) -> list[np.ndarray]:
        return [np.array([value(row) for row in layer]) for layer in by_layer]

    np.testing.assert_allclose(
        line(active, "coefficient > 0: median, and quartiles"),
        [np.median(part) for part in of(lambda row: row["n_active"] / d_ff)],
    )
    np.testing.assert_allclose(
        line(unmatched, "what the layer predicts"),
        [part.mean() for part in of(lambda row: row["n_matching_layer"] == 0)],
    )
    np.testing.assert_allclose(
        line(final, "what the residual predicts"),
        [part.mean() for part in of(lambda row: row["residual_final_rank"] == 0)],
    )
    np.testing.assert_allclose(
        line(probability, "median, and quartiles"),
        [np.median(part) for part in of(lambda row: row["residual_final_prob"])],
    )
    for bars in kinds.containers:
        kind = bars.get_label()
        share = [np.mean([row["kind"] == kind for row in layer]) for layer in by_layer]
        np.testing.assert_allclose([patch.get_height() for patch in bars], share)


def test_value_mode_shows_what_memories_predict(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = results["value"][0]
    panels = painted(monkeypatch, plot_predictions, found)
    last = [row for row in found.table.to_pylist() if row["layer"] == 3]
    share = np.mean([row["n_matching_final"] / max(row["n_active"], 1) for row in last])
    assert line(panels[1], "the final token")[-1] == pytest.approx(share)
    relative = [np.array(row["top_contributions"]) / row["residual_norm"] for row in last]
    np.testing.assert_allclose(line(panels[4], "layer 3"), np.median(relative, axis=0))


def test_encoder_and_decoder_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    for made, plot in (
        (synthetic_results.agreement(**T5), plot_agreement),
        (synthetic_results.predictions("layer", **T5), plot_predictions),
    ):
        first = painted(monkeypatch, plot, made)[0]
        assert "encoder, then decoder" in first.get_xlabel()
        assert [text.get_text() for text in first.get_xticklabels()] == ["0", "1", "2", "3", "4"]
        for drawn in first.get_lines():
            x = np.asarray(drawn.get_xdata(), float)
            inside = (x <= 1).all() or (x >= 3).all() or (x == x[0]).all()
            assert inside, "a line runs from the encoder into the decoder"


@pytest.mark.parametrize(("n_layers", "ticks"), [(1, 1), (2, 2), (13, 13), (14, 7), (48, 12)])
def test_layer_ticks_stay_readable(n_layers: int, ticks: int) -> None:
    figure = Figure()
    axes = figure.subplots()
    axis = LayerAxis(synthetic_results.manifest("agreement", n_layers=n_layers), range(n_layers))
    axis.line(axes, np.zeros(n_layers), "zero", "black")
    axis.dress(axes)
    assert len(axes.get_xticks()) == ticks


def test_a_layer_without_targets_leaves_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    found = synthetic_results.agreement()
    layers = found.layers.to_pylist()
    for name in ("agreement", "agreement_shuffled", "mean_rank", "mean_rank_shuffled"):
        layers[2][name] = None
    gap = replace(found, layers=pa.Table.from_pylist(layers, found.layers.schema))
    rates = painted(monkeypatch, plot_agreement, gap)[0]
    drawn = line(rates, "top token = target of the first trigger")
    assert np.isnan(drawn).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0 %"),
        (0.000003, "< 0.001 %"),
        (0.000123, "0.012 %"),
        (0.0123, "1.2 %"),
        (0.08, "8 %"),
        (0.5, "50 %"),
        (0.999, "100 %"),
        (1.0, "100 %"),
    ],
)
def test_percent(value: float, shown: str) -> None:
    assert percent(value) == shown
