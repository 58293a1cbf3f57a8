"""Pictures of evaluations: deterministic files, and panels that show what the tables say."""

from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow.compute as pc
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from shortcut_score_cases import case, fitted
from tiny_models import VOCAB, tiny_model

import pyengine
from pyengine import PyengineError
from pyengine.plots import figure as common
from pyengine.plots.shortcuts import plot_shortcuts, short_name
from pyengine.plots.shortcuts_curves import KNOWN, styles_of
from pyengine.shortcuts.evaluate import evaluate
from pyengine.shortcuts.evaluation import Evaluation
from pyengine.shortcuts.fit import fit_shortcuts

SIGNATURES = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@cache
def small() -> Evaluation:
    found = case("gpt2")
    settings: dict[str, Any] = {"mappings": ["id", "mat", "mat@3"], "bootstrap": 20}
    return evaluate(found.shortcuts, found.model, early_exit=False, **settings)


@cache
def whole(family: str) -> Evaluation:
    model = pyengine.load((tiny_model(family), None))
    generator = np.random.default_rng(0)
    units = [generator.integers(4, VOCAB, 5).tolist() for _ in range(120)]
    corpus = pyengine.Corpus.from_token_ids(units)
    shortcuts = fit_shortcuts(model, corpus, pairs="all", sub_modules=True)
    return evaluate(shortcuts, model, substitution=True, transfer=["affine"], bootstrap=20)


def painted(monkeypatch: pytest.MonkeyPatch, result: Evaluation) -> dict[str, Axes]:
    """Return the panels of a picture by title, without writing it."""
    figure = Figure(layout="constrained")
    monkeypatch.setattr(common, "draw", lambda path, size, paint: paint(figure))
    plot_shortcuts(result, Path("unused.png"))
    monkeypatch.undo()
    panels = [axes for axes in figure.axes if axes.get_title()]
    found = {axes.get_title(): axes for axes in panels}
    assert len(found) == len(panels)
    return found


def heights(axes: Axes, label: str) -> np.ndarray:
    (line,) = (line for line in axes.get_lines() if line.get_label() == label)
    return np.asarray(line.get_ydata(), float)


def cells(axes: Axes) -> Any:
    (image,) = axes.get_images()
    found: Any = image.get_array()
    return np.ma.filled(found, np.nan)


@pytest.mark.parametrize("ending", sorted(SIGNATURES))
def test_same_bytes_whatever_the_settings(tmp_path: Path, ending: str) -> None:
    before = dict(matplotlib.rcParams)
    plot_shortcuts(small(), tmp_path / f"a.{ending}")
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None, "savefig.dpi": 20}):
        plot_shortcuts(small(), tmp_path / f"b.{ending}")
    first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in "ab")
    assert first == second and first.startswith(SIGNATURES[ending])


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PyengineError, match="known are"):
        plot_shortcuts(small(), tmp_path / "maps.gif")


def test_curves_are_the_means_with_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    panels, layers = painted(monkeypatch, small()), small().layers
    assert layers is not None
    titles = {
        "Best token is the model's own": "precision@1",
        "… among its best five": "precision@5",
        "… among its best ten": "precision@10",
        "Surprisal of the best token": "surprisal",
        "KL (model's own ‖ mapped)": "kl",
        "Entropy of the mapped distribution": "entropy",
        "Rank of the model's best token": "rank",
    }
    for title, metric in titles.items():
        for name in ("id", "mat", "mat@3"):
            expected = layers.filter(pc.field("mapping") == name)[metric].to_numpy()
            np.testing.assert_array_equal(heights(panels[title], name), expected)
        assert len(panels[title].collections) == 3  # bands
    assert len(panels) == len(titles) + 2  # r² and that of the change


def test_r2_leaves_the_picture_below(monkeypatch: pytest.MonkeyPatch) -> None:
    panels, r2, n_lost = painted(monkeypatch, small()), small().r2, 0
    for title, column in (("last layer", "r2"), ("change to the last layer", "residual_r2")):
        axes = panels[f"r² of the {title}, decoder"]
        expected = r2.filter(pc.field("mapping") == "mat")[column].to_numpy()
        np.testing.assert_array_equal(heights(axes, "mat"), expected)
        assert -0.3 < axes.get_ylim()[0] < axes.get_ylim()[1] < 1.1
        lost = [name for name in ("id", "mat", "mat@3") if (heights(axes, name) < -0.25).all()]
        assert [text.get_text() for text in axes.texts] == [f"below: {', '.join(lost)}"] * bool(
            lost
        )
        n_lost += len(lost)
    assert n_lost


def test_heat_maps_are_cut_to_shares_above_an_empty_triangle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    panels, r2 = painted(monkeypatch, whole("gpt2")), whole("gpt2").r2
    for what, column, names in (
        ("r² of", "r2", ("mat", "affine", "id")),
        ("r² of the change,", "residual_r2", ("mat", "affine")),
    ):
        for name in names:
            found = cells(panels[f"{what} {name}, decoder"])
            assert found.shape == (4, 4)
            assert np.isnan(found[np.tril_indices(4, -1)]).all()
            assert (np.diag(found) == 1).all() if column == "r2" else np.isnan(np.diag(found)).all()
            rows = r2.filter((pc.field("mapping") == name) & pc.field("step").is_null())
            assert rows.num_rows == 6
            for row in rows.to_pylist():
                assert found[row["source"], row["target"]] == np.clip(row[column], 0, 1)
    assert "r² of the change, id, decoder" not in panels


def test_only_what_was_computed_between_all_pairs_has_a_heat_map(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, shortcuts = fitted(pairs="all")
    result = evaluate(shortcuts, model, mappings=["affine"], early_exit=False, bootstrap=0)
    panels = painted(monkeypatch, result)
    drawn = [title for title, axes in panels.items() if axes.get_images()]
    assert drawn == ["r² of affine, decoder", "r² of the change, affine, decoder"]


def test_ranks_are_drawn_from_none_to_many(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = painted(monkeypatch, small())["Rank of the model's best token"]
    assert axes.get_yscale() == "symlog" and axes.get_ylim()[0] == 0


def test_every_table_has_its_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    result = whole("gpt2")
    panels = painted(monkeypatch, result)
    assert result.exits is not None and result.transfer is not None and result.layers is not None
    exits = panels["Early exit: best token is the model's own"]
    rows = result.exits.filter((pc.field("mapping") == "mat") & (pc.field("rule") == "fixed"))
    dotted = [line for line in exits.get_lines() if line.get_label() == "mat"][1]
    np.testing.assert_array_equal(dotted.get_xdata(), rows["mean_layer"].to_numpy())
    np.testing.assert_array_equal(dotted.get_ydata(), rows["precision@1"].to_numpy())
    transfer = cells(panels["affine of one layer on another: own best token"])
    assert transfer.shape == (3, 4)
    for row in result.transfer.to_pylist():
        assert transfer[row["map_layer"], row["state_layer"]] == row["precision@1"]
    for mode in ("mat", "mat_attn", "mat_ffn", "mat_norm"):
        expected = result.layers.filter(pc.field("mapping") == mode)["surprisal"].to_numpy()
        axes = panels["Blocks with maps: surprisal, mat"]
        np.testing.assert_array_equal(heights(axes, mode), expected)
    over = heights(panels["r² of mat over sub-modules, decoder"], "norm (mean of 2)")
    norms = result.r2.filter((pc.field("mapping") == "mat") & (pc.field("step") == "norm"))
    of_block = norms["r2"].to_numpy().reshape(3, 2)  # two norms a block
    np.testing.assert_allclose(over, of_block.mean(1))


def test_panels_of_both_kinds_have_one_axis_and_legends_beside_the_curves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    panels = painted(monkeypatch, whole("gpt2"))
    for metric in ("own best token", "surprisal"):
        mat, affine = (panels[f"Blocks with maps: {metric}, {kind}"] for kind in ("mat", "affine"))
        assert mat.get_ylim() == affine.get_ylim()
    for title in ("Early exit: best token is the model's own", "Blocks with maps: surprisal, mat"):
        legend = panels[title].get_legend()
        assert legend is not None
        figure: Any = panels[title].figure
        figure.set_size_inches(13, 20)
        figure.draw_without_rendering()
        assert legend.get_window_extent().y1 < panels[title].get_window_extent().y0


def test_models_are_named_without_their_folders() -> None:
    for name, shown in (
        ("/home/me/models/tiny", "tiny"),
        ("runs/models/tiny", "tiny"),
        ("EleutherAI/gpt-neo-125m", "EleutherAI/gpt-neo-125m"),
        ("gpt2", "gpt2"),
    ):
        assert short_name(name) == shown


def test_both_stacks_of_t5_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    panels = painted(monkeypatch, whole("t5"))
    for stack in ("encoder", "decoder"):
        assert f"r² of mat, {stack}" in panels and f"r² of the last layer, {stack}" in panels
    axes = panels["Blocks with maps: own best token, affine"]
    assert len(heights(axes, "affine_cross")) == 4


def test_styles_tell_mappings_apart() -> None:
    names = ["id", "mat", "affine", "mat@2", "mat@4", "affine@2", "tuned", "one", "two", "three"]
    styles = styles_of(names)
    assert list(styles) == names
    assert len({(style.color, str(style.linestyle)) for style in styles.values()}) == len(names)
    assert styles["mat@4"].color == KNOWN["mat"].color
