"""Evaluations as files and commands: what is saved, refused, resumed and printed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run
from shortcut_score_cases import corpus, fitted
from tiny_models import tiny_model

import pyengine
from pyengine import PyengineError
from pyengine.shortcuts.evaluate import evaluate
from pyengine.shortcuts.evaluation import TABLES, Evaluation
from pyengine.shortcuts.fit import fit_shortcuts
from pyengine.shortcuts.linear_map import LinearMap
from pyengine.shortcuts.result import Shortcuts
from pyengine.shortcuts.stored_maps import HeldMaps
from pyengine.shortcuts.tuned_lens_files import save_tuned_lens


def test_saved_tables_open_as_they_were(tmp_path: Path) -> None:
    model, shortcuts = fitted(tokens="all")
    held = evaluate(shortcuts, model, ranks=[3], transfer=["mat"], bootstrap=20)
    held.save(tmp_path / "saved")
    seen: list[Any] = []
    settings: dict[str, Any] = {"ranks": [3], "transfer": ["mat"], "bootstrap": 20}
    out = tmp_path / "run"
    evaluate(shortcuts, model, out=out, **settings)
    again = evaluate(shortcuts, model, out=out, on_progress=lambda *at: seen.append(at), **settings)
    assert not seen  # complete: opened
    found = pyengine.open_run(out)
    assert isinstance(found, Evaluation) and isinstance(again, Evaluation)
    for name in TABLES:
        mine = getattr(held, name)
        assert mine.equals(getattr(found, name)), name
        assert (tmp_path / "saved" / f"{name}.parquet").read_bytes() == (
            out / f"{name}.parquet"
        ).read_bytes()
    n = len(shortcuts.validation())
    assert found.manifest["result"] == {"n_samples": n, "n_nan": 0} and found.n_samples == n
    with pytest.raises(PyengineError, match=r"question\.bootstrap"):
        evaluate(shortcuts, model, out=out, **settings | {"bootstrap": 21})


def test_what_decides_the_bits_is_in_the_manifest(tmp_path: Path) -> None:
    model, shortcuts = fitted()
    own = {layer: shortcuts.map(layer) for layer in range(3)}
    settings: dict[str, Any] = {"mappings": ["id"], "bootstrap": 0, "out": tmp_path / "run"}
    evaluate(shortcuts, model, extra={"tuned": own}, **settings)
    weight = own[1].weight
    assert weight is not None
    own[1] = LinearMap(weight * 1.001)
    with pytest.raises(PyengineError, match="maps_sha256"):
        evaluate(shortcuts, model, extra={"tuned": own}, **settings)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pairs": "all", "changed": "mat.1_2.weight"}, "maps_sha256.decoder.mat"),
        ({"sub_modules": True, "changed": "affine.p2_0_1.bias"}, "maps_sha256.decoder.affine"),
        ({"changed": "states"}, "rows_sha256.decoder"),
        ({"changed": "positions"}, "rows_sha256.decoder"),
    ],
)
def test_scores_of_other_maps_or_rows_are_not_opened(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    changed = change.pop("changed")
    model, _ = fitted()
    fit, out = fit_shortcuts(model, corpus(), **change), tmp_path / "run"
    settings: dict[str, Any] = {"bootstrap": 0, "early_exit": False, "out": out}
    evaluate(fit, model, **settings)
    again = pyengine.open_run(fit.save(tmp_path / "fit"))
    evaluate(again, model, **settings)  # the same: opened
    held = fit.validation()
    if changed in ("states", "positions"):
        moved = {changed: getattr(held, changed).clone()}
        moved[changed][0] += 1
        other = Shortcuts(fit._maps, {"decoder": replace(held, **moved)}, *described(fit))
    else:
        tensors = {place: dict(of) for place, of in fit._maps.each()}
        (place,) = [place for place, of in tensors.items() if changed in of]
        tensors[place][changed] = tensors[place][changed] + 1
        maps = HeldMaps(tensors, fit.fits)
        other = Shortcuts(maps, {"decoder": held}, *described(fit))
    with pytest.raises(PyengineError, match=rf"question\.{named}"):
        evaluate(other, model, **settings)


def described(fit: Shortcuts) -> tuple[Any, ...]:
    return fit.text, fit.manifest, fit.record


def test_progress_ends_where_it_said() -> None:
    model, shortcuts = fitted(sub_modules=True)
    seen: dict[str, list[tuple[int, int]]] = {}
    evaluate(
        shortcuts,
        model,
        mappings=["mat"],
        transfer=["mat"],
        substitution=True,
        bootstrap=0,
        on_progress=lambda stage, *at: seen.setdefault(stage, []).append(at),
    )
    assert list(seen) == ["r²", "scores", "mat sub-modules", "transfer"]
    for steps in seen.values():
        assert steps == sorted(steps) and steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mappings": ["ridge"]}, "unknown mapping 'ridge'"),
        ({"mappings": []}, "nothing to evaluate"),
        ({"ranks": [0]}, "rank must be a whole number from 1"),
        ({"ranks": [21]}, "rank 20 at most"),
        ({"extra": {"mat": {}}}, "'mat' is taken"),
        ({"extra": {"own": {0: LinearMap()}}}, "no map of layer 1"),
        ({"transfer": ["tuned"]}, "unknown transfer mapping 'tuned'"),
        ({"bootstrap": -1}, "bootstrap must be"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"substitution": True}, "no sub-modules"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    model, shortcuts = fitted()
    with pytest.raises(PyengineError, match=message):
        evaluate(shortcuts, model, **settings)


def test_another_model_is_refused() -> None:
    _, shortcuts = fitted()
    other = pyengine.load((tiny_model("gpt2", seed=3), None))
    with pytest.raises(PyengineError, match="belong to another model"):
        evaluate(shortcuts, other)


@pytest.fixture
def maps(run: Run, model: Path, tmp_path: Path) -> Callable[..., Path]:
    text = tmp_path / "sentences.txt"
    generator = np.random.default_rng(0)
    lines = (" ".join(f"w{i}" for i in generator.integers(0, 90, 6)) for _ in range(120))
    text.write_text("\n".join(lines) + "\n")

    def fit(*more: str) -> Path:
        folder = tmp_path / "maps"
        done = run("shortcuts", "fit", model, text, "--unit", "line", "--out", folder, *more)
        assert done.code == 0, done.err
        return folder

    return fit


def test_command_prints_tables_and_draws(
    run: Run, model: Path, maps: Callable[..., Path], tmp_path: Path
) -> None:
    picture, out = tmp_path / "maps.svg", tmp_path / "scores"
    arguments = ("shortcuts", "evaluate", maps("--sub-modules"), model, "--out", out)
    more = ("--ranks", "2,4", "--substitution", "--transfer", "mat", "--bootstrap", "50")
    done = run(*arguments, *more)
    assert done.code == 0, done.err
    assert "30 validation tokens" in done.out and "Early exit" in done.out
    assert [name for name in ("mat@4", "affine_norm", "the model") if name not in done.out] == []
    again = run(*arguments, *more, "--json", "--plot", picture)
    assert picture.read_text().startswith("<?xml")
    data = json.loads(again.out)
    assert data["n_samples"] == 30 and len(data["transfer"]) == 12
    assert len(data["r2"]) == 3 * 7 and {row["source"] for row in data["r2"]} == {0, 1, 2}
    shown = [row for row in data["layers"] if (row["mapping"], row["layer"]) == ("mat", 3)]
    assert shown[0]["precision@1"] == 1


def test_command_scores_a_tuned_lens(
    run: Run, model: Path, maps: Callable[..., Path], tmp_path: Path
) -> None:
    folder, loaded = maps(), pyengine.load(str(model))
    own = {layer: pyengine.open_run(folder).map(layer, kind="affine") for layer in range(3)}
    lens = save_tuned_lens(tmp_path / "lens", own, loaded)
    arguments = ("shortcuts", "evaluate", folder, model, "--out", tmp_path / "scores", "--json")
    done = run(*arguments, "--tuned-lens", lens, "--mappings", "affine", "--bootstrap", "0")
    assert done.code == 0, done.err
    rows = json.loads(done.out)["layers"]
    affine, tuned = (
        [row["kl"] for row in rows if row["mapping"] == name] for name in ("affine", "tuned")
    )
    assert rows[0]["kl_low"] is None
    np.testing.assert_allclose(tuned, affine, rtol=1e-4)


def test_command_refuses_what_it_cannot_do(
    run: Run, model: Path, maps: Callable[..., Path], tmp_path: Path
) -> None:
    folder, out = maps(), ("--out", tmp_path / "scores")
    wrong = run("shortcuts", "evaluate", folder, model, *out, "--ranks", "a")
    assert wrong.code == 2 and "list of ranks" in wrong.err
    wrong = run("shortcuts", "evaluate", folder, "demo", *out)
    assert wrong.code == 1 and "belong to another model" in wrong.err
    wrong = run("shortcuts", "evaluate", folder, model, *out, "--mappings", "mat,x")
    assert wrong.code == 1 and "unknown mapping 'x'" in wrong.err
    wrong = run("shortcuts", "evaluate", folder, model, *out, "--plot", "a.gif")
    assert wrong.code != 0 and ".gif" in wrong.err
    assert not (tmp_path / "scores").exists()
