"""Pictures of heads: deterministic files that show what the results say."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pytest
from command_line import Run, assert_one_line
from heads_results_helpers import (
    N_HEADS,
    N_LAYERS,
    concat_rows,
    head_rows,
    layer_rows,
    results_folder,
    row,
    table,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pyengine import PyengineError
from pyengine.heads.results import HeadResults
from pyengine.heads.results_table import CONCATS
from pyengine.plots import figure as common
from pyengine.plots.heads import plot_heads, plot_n_curves
from pyengine.plots.heads_grid import plot_head_scores
from pyengine.plots.heads_scores import TaskScores, decoder_start, ticks

SIGNATURES = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
PICTURES = ["scores-SST2", "scores-TREC", "n-curves", "depth", "focus", "similarity"]


def results(*more: dict[str, Any], concats: bool = True) -> HeadResults:
    rows = [*head_rows(), *layer_rows(), *more]
    own = concat_rows() if concats else []
    return HeadResults(table(rows), table(own, CONCATS), Path("results"))


def painted(monkeypatch: pytest.MonkeyPatch, draw: Any) -> Figure:
    """Return the last picture that `draw()` makes, without writing it."""
    figures: list[Figure] = []

    def catch(path: Path, size: tuple[float, float], paint: Any) -> None:
        figures.append(Figure(figsize=size, layout="constrained"))
        paint(figures[-1])

    monkeypatch.setattr(common, "draw", catch)
    draw()
    monkeypatch.undo()
    return figures[-1]


def cells(axes: Axes) -> Any:
    (image,) = axes.get_images()
    found: Any = image.get_array()
    return np.ma.filled(found, np.nan)


def line(axes: Axes, label: str) -> np.ndarray:
    (found,) = (line for line in axes.get_lines() if line.get_label() == label)
    return np.asarray(found.get_ydata(), float)


@pytest.mark.parametrize("ending", sorted(SIGNATURES))
def test_same_bytes_whatever_the_settings(tmp_path: Path, ending: str) -> None:
    found, before = results(), dict(matplotlib.rcParams)
    one, other = (tmp_path / f"{name}.{ending}" for name in "ab")
    plot_head_scores(found, "TREC", one)
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None, "savefig.dpi": 20}):
        plot_head_scores(found, "TREC", other)
    assert one.read_bytes() == other.read_bytes()
    assert one.read_bytes().startswith(SIGNATURES[ending])


def test_every_picture_is_written_the_same_twice(tmp_path: Path) -> None:
    first, second = (plot_heads(results(), tmp_path / name) for name in "ab")
    assert [path.stem for path in first] == PICTURES
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_heat_maps_show_the_scores_and_frame_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    found = results()
    scores = found.scores("TREC")
    figure = painted(monkeypatch, lambda: plot_head_scores(found, "TREC", "x.png"))
    left, right, bar = figure.axes
    np.testing.assert_array_equal(cells(left), scores)
    np.testing.assert_array_equal(cells(right), -np.sort(-scores, axis=1))
    order = np.argsort(-scores, axis=1)
    texts = [text.get_text() for text in right.texts]
    assert texts == [str(head) for head in order.ravel()]
    assert [text.get_text() for text in left.texts] == [f"{value:.1f}" for value in scores.ravel()]
    (layer, head), *_ = found.ranked("TREC")
    frames = [patch for patch in left.patches if isinstance(patch, Rectangle)]
    assert {frame.get_xy() for frame in frames} == {(head - 0.5, layer - 0.5)}
    assert left.get_images()[0].origin == "lower"  # layer 0 at the bottom
    marks = [text.get_text().strip() for text in bar.texts]
    assert marks == ["largest class 20.0", "◂ chance 16.7"]
    assert left.get_images()[0].get_clim() == (20.0, scores.max())


def test_ring_is_chosen_on_dev_whatever_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    found = results()
    figure = painted(monkeypatch, lambda: plot_head_scores(found, "TREC", "x.png", part="test"))
    np.testing.assert_array_equal(cells(figure.axes[0]), found.scores("TREC", part="test"))
    (layer, head), *_ = found.ranked("TREC")
    assert figure.axes[0].patches[0].get_xy() == (head - 0.5, layer - 0.5)  # type: ignore[attr-defined]


def test_layers_that_were_not_probed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(layer=layer, head=head, dev=10.0 + head) for layer in (3, 7) for head in (0, 2)]
    found = HeadResults(table(rows), table([], CONCATS), Path("results"))
    left = painted(monkeypatch, lambda: plot_head_scores(found, "TREC", "x.png")).axes[0]
    np.testing.assert_array_equal(cells(left), [[10, np.nan, 12]] * 2)
    assert [label.get_text() for label in left.get_yticklabels()] == ["3", "7"]


def test_collapsed_heads_and_correlations(monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"task": "STS", "metric": "pearson", "majority": np.nan, "chance": np.nan}
    rows = [row(head=head, dev=np.nan, test=0.1 * head, **more) for head in range(4)]
    rows += [row(head=head, dev=20.0 + head, collapsed=head == 0) for head in range(4)]
    found = HeadResults(table(rows), table([], CONCATS), Path("results"))
    shown = TaskScores.of(found, "STS")
    assert (shown.part, shown.metric, shown.baseline, shown.points) == ("test", "pearson", 0, 100)
    assert shown.best == (0, 3) and shown.shown(-0.001) == "0.00" and shown.shown(-0.5) == "−0.50"
    crosses = [
        line
        for line in painted(monkeypatch, lambda: plot_head_scores(found, "TREC", "x.png"))
        .axes[0]
        .get_lines()
        if line.get_marker() == "x"
    ]
    assert [round(float(cross.get_xdata()[0])) for cross in crosses] == [0]  # type: ignore[index,arg-type]
    bar = painted(monkeypatch, lambda: plot_head_scores(found, "STS", "x.png")).axes[2]
    assert not bar.texts


def test_n_curves_hold_what_they_are_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    found = results()
    axes = painted(monkeypatch, lambda: plot_n_curves(found, "x.png")).axes
    trec = next(panel for panel in axes if panel.get_title() == "TREC")
    assert line(trec, "n best heads, dev").tolist() == [71, 72, 74, 82]
    assert line(trec, "n best heads, test").tolist() == [70, 71, 73, 81]
    assert set(line(trec, "last layer, test")) == {found.last_layer("TREC").test}
    assert set(line(trec, "best layer, test")) == {found.best_layer("TREC").test}
    best = found.scores("TREC", part="test")[found.ranked("TREC", 1)[0]]
    assert set(line(trec, "best head, test")) == {best}
    (wide,) = (x for x in trec.get_lines() if x.get_label() == "as wide as the model")
    assert set(np.asarray(wide.get_xdata())) == {N_HEADS}


def test_n_curves_are_means_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        row(n=1, heads=[], seed=seed, dev=dev, test=dev) for seed, dev in ((1, 60.0), (2, 64.0))
    ]
    found = HeadResults(table(head_rows(("TREC",))), table(rows, CONCATS), Path("results"))
    (axes,) = painted(monkeypatch, lambda: plot_n_curves(found, "x.png")).axes
    assert line(axes, "n best heads, dev").tolist() == [62]
    bands = np.concatenate([np.asarray(p.vertices)[:, 1] for p in axes.collections[0].get_paths()])
    assert (bands.min(), bands.max()) == (60, 64)
    with pytest.raises(PyengineError, match="no heads were concatenated"):
        plot_n_curves(results(concats=False), "x.png")


def test_a_line_parts_the_decoder_from_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    above = {"layer": 5, "stack": "decoder", "pooling": "last"}
    found = results(*(row(location="cross", head=head, **above) for head in range(N_HEADS)))
    assert decoder_start(results().table) is None and decoder_start(found.table) == 5
    cross = painted(monkeypatch, lambda: plot_head_scores(found, "TREC", "x.png", "cross")).axes[0]
    assert cells(cross).shape == (1, N_HEADS) and cross.get_ylabel() == "layer"
    found = results(*(row(head=head, **above) for head in range(N_HEADS)))
    left = painted(monkeypatch, lambda: plot_head_scores(found, "TREC", "x.png")).axes[0]
    borders = [line for line in left.get_lines() if line.get_marker() != "x"]
    assert {float(np.asarray(line.get_ydata())[0]) for line in borders} == {N_LAYERS - 0.5}
    assert left.get_ylabel() == "layer  (decoder from 5 on)"
    assert "first (encoder), last (decoder)" in TaskScores.of(found, "TREC").described


def test_tasks_without_heads_are_left_out(tmp_path: Path) -> None:
    found = results(*layer_rows(("MR",)))
    drawn = plot_heads(found, tmp_path)
    assert [path.stem for path in drawn] == PICTURES
    with pytest.raises(PyengineError, match="no results with location 'head'"):
        plot_heads(found, tmp_path, tasks=["MR"])


def test_ticks_have_room() -> None:
    assert ticks(range(12), 26) == [*range(12)]
    assert ticks(range(48), 26) == [*range(0, 48, 2)]


def test_results_that_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(PyengineError, match="unknown format 'gif'"):
        plot_heads(results(), tmp_path, format="gif")
    with pytest.raises(PyengineError, match="MRPC"):
        plot_heads(results(), tmp_path, tasks=["MRPC"])
    with pytest.raises(PyengineError, match="several probes"):
        plot_heads(results(*head_rows(probe="ridge")), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_single_task_of_equal_heads_is_drawn(tmp_path: Path) -> None:
    rows = [row(layer=layer, head=head) for layer in range(N_LAYERS) for head in range(2)]
    found = HeadResults(table(rows), pa.Table.from_pylist([], CONCATS.schema), tmp_path)
    names = [path.stem for path in plot_heads(found, tmp_path / "pictures")]
    assert names == ["scores-TREC", "focus"]  # no depth, nothing to compare


def test_command(run: Run, tmp_path: Path) -> None:
    folder, pictures = results_folder(tmp_path / "results"), tmp_path / "pictures"
    done = run("heads", "plot", folder, "--out", pictures, "--task", "TREC", "--json")
    assert done.code == 0, done.err
    files = json.loads(done.out)
    assert sorted(Path(file).name for file in files) == sorted(p.name for p in pictures.iterdir())
    assert [Path(file).stem for file in files] == ["scores-TREC", "n-curves", "depth", "focus"]
    done = run("heads", "plot", folder, "--out", pictures, "--where", "probe=ridge")
    assert_one_line(done, 1, "ridge")
