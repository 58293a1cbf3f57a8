"""The result of a fit: what it answers, its files, and that it belongs to one model."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from shortcut_fit_cases import fitted, loaded, weight
from tiny_models import tiny_model

import pyengine
from pyengine.errors import PyengineError
from pyengine.run import open_run, verify
from pyengine.shortcuts.linear_map import LinearMap
from pyengine.shortcuts.points import points_of
from pyengine.shortcuts.result import Shortcuts


@pytest.fixture(scope="module")
def held() -> Shortcuts:
    return fitted("t5", sub_modules=True, pairs="all", dtype=torch.float32)


@pytest.fixture(scope="module")
def run(held: Shortcuts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    fresh = fitted("t5", sub_modules=True, pairs="all", dtype=torch.float32)
    return fresh.save(tmp_path_factory.mktemp("runs") / "run")


def test_what_is_opened_is_what_was_saved(held: Shortcuts, run: Path) -> None:
    opened = open_run(run)
    assert isinstance(opened, Shortcuts)
    assert repr(opened) == repr(held)
    assert opened.fits.equals(held.fits)
    assert opened.record | {"n_computed": held.record["n_computed"]} == held.record
    for stack in held.stacks:
        assert opened.points(stack) == held.points(stack)
        assert opened.validation(stack).states.equal(held.validation(stack).states)
        for pair in held.pairs(stack):
            for kind in ("mat", "affine"):
                mine, theirs = (of.map(*pair, kind, stack=stack) for of in (held, opened))
                assert weight(mine).equal(weight(theirs))
                assert (mine.bias is None) == (theirs.bias is None) == (kind == "mat")
                if mine.bias is not None and theirs.bias is not None:
                    assert mine.bias.equal(theirs.bias)
    mine, theirs = (of.sub_module(1, 4, "affine") for of in (held, opened))
    assert weight(mine).equal(weight(theirs))
    assert held.basis(1, "affine").equal(opened.basis(1, "affine"))


def test_what_is_written_is_read_from_there(held: Shortcuts, tmp_path: Path) -> None:
    found = fitted("gpt2", dtype=torch.float32)
    before = weight(found.map(1)).clone()
    found.save(tmp_path / "run")
    (tmp_path / "run" / "maps-decoder-000.safetensors").unlink()
    assert weight(found.map(1)).equal(before), "files are mapped when they are asked for"
    with pytest.raises(PyengineError, match=r"maps-decoder-000\.safetensors does not exist"):
        found.map(0)


def test_files(run: Path) -> None:
    names = {path.name for path in run.iterdir()} - {"manifest.json", "provenance.json"}
    assert names == set(verify(run)["files"])
    points = points_of(loaded("t5", torch.float32), "encoder", sub_modules=True)
    sources = {source for source, _ in points.pairs("all")}
    assert {f"maps-encoder-{source:03d}.safetensors" for source in sources} == {
        name for name in names if name.startswith("maps-encoder")
    }
    with safe_open(run / "maps-encoder-001.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    ends = ("basis", "variances", "weight")
    expected = {f"{kind}.1_2.{end}" for kind in ("mat", "affine") for end in ends}
    expected |= {f"{kind}.p1_0_1.weight" for kind in ("mat", "affine")}
    affine = {f"affine.{end}" for end in ("1_2.bias", "1_2.mean", "p1_0_1.bias")}
    assert set(tensors) == expected | affine
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_damage_is_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    fitted(out=run)
    path = run / "maps-decoder-001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(PyengineError, match=r"maps-decoder-001.* is damaged"):
        open_run(run)


def test_maps_apply(held: Shortcuts) -> None:
    h = held.validation().states[:, 1]
    assert held.apply(h, 1).equal(h @ weight(held.map(1, 3)).t())
    affine = held.map(1, 2, "affine")
    assert affine.bias is not None
    torch.testing.assert_close(held.apply(h, 1, 2, "affine"), h @ weight(affine).t() + affine.bias)
    for same in (held.map(2, 2), held.map(1, 3, "id")):
        assert same == LinearMap() or (same.weight is None and same(h).equal(h))
    assert held.n_layers() == 3 and held.n_layers("encoder") == 2
    assert held.pairs("encoder") == [(0, 1), (0, 2), (1, 2)]
    truncated = held.map(1).truncated(held.basis(1), 5)
    assert int(torch.linalg.matrix_rank(weight(truncated).double(), rtol=1e-5)) == 5
    assert "t5" in repr(held).lower() and "encoder: 3 pairs of 3 layers" in repr(held)


def test_what_is_not_there_is_named(held: Shortcuts) -> None:
    last = fitted()
    for call, named in (
        (lambda: held.map(3, 1), "0 to 3; there is none from 3 to 1"),
        (lambda: held.map(0, 4), "there is none from 0 to 4"),
        (lambda: held.map(0, 1, "best"), "unknown kind 'best'; known are: id, mat, affine"),
        (lambda: held.map(0, stack="head"), "no head was fitted; fitted were: encoder, decoder"),
        (lambda: held.sub_module(0, 9), "no sub-module 9 of block 0"),
        (lambda: held.basis(3), "no mat.3_3.basis"),
        (lambda: held.apply(torch.zeros(3, 7), 0), r"h must be \[\.\.\., 20\], got \[3, 7\]"),
        (lambda: held.apply(torch.tensor(1.0), 0), r"h must be \[\.\.\., 20\], got \[\]"),
        (lambda: last.map(0, 1), r"from layer 0 to 1 was fitted, .* fit all pairs \(--all-pairs\)"),
        (lambda: last.sub_module(0, 0), r"fit with them \(--sub-modules\)"),
    ):
        with pytest.raises(PyengineError, match=named):
            call()


def test_maps_belong_to_one_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_model("gpt2").save_pretrained(folder)
    model = pyengine.load(folder)
    corpus = pyengine.Corpus.from_token_ids([[1, 2, 3, 4]] * 40)
    found = pyengine.fit_shortcuts(model, corpus, out=tmp_path / "run")
    found.check(pyengine.load(folder))
    found.check(pyengine.load((tiny_model("gpt2"), None)))  # the same weights under another name
    tiny_model("gpt2", seed=1).save_pretrained(folder)  # others under the same name
    with pytest.raises(PyengineError, match="belong to another model"):
        open_run(tmp_path / "run").check(pyengine.load(folder))
    hf = tiny_model("gpt2")
    hf.lm_head.weight = torch.nn.Parameter(hf.lm_head.weight.detach() * 2)
    with pytest.raises(PyengineError, match="belong to another model"):
        found.check(pyengine.load((hf, None)))
    doubled = pyengine.load((tiny_model("gpt2").double(), None))
    with pytest.raises(PyengineError, match="load it in float32, not float64"):
        found.check(doubled)


def test_a_complete_run_is_opened_and_another_refused(tmp_path: Path) -> None:
    first = fitted(out=tmp_path / "run")
    touched: list[int] = []
    again = fitted(
        out=tmp_path / "run",
        on_progress=lambda *_: touched.append(1),
        on_solved=lambda *_: touched.append(2),
    )
    assert not touched and weight(again.map(0)).equal(weight(first.map(0)))
    fitted(out=tmp_path / "run", solver="gram")  # what was chosen before
    for change, named in (
        ({"seed": 1}, "question.seed: 0 != 1"),
        ({"ridge": 1.0}, "question.ridge"),
        ({"pairs": "all"}, "question.pairs"),
        ({"sub_modules": True}, r"question\.points"),
        ({"solver": "rows"}, "question.solver.decoder"),
        ({"n_train": 9}, "question.n_train"),
    ):
        with pytest.raises(PyengineError, match=named):
            fitted(out=tmp_path / "run", **change)


def test_given_maps(tmp_path: Path) -> None:
    model = loaded("gpt2", torch.float32)
    points = points_of(model, "decoder")
    maps = {pair: {"mat": LinearMap(torch.randn(20, 20))} for pair in points.pairs("last")}
    found = Shortcuts.from_maps(model, {"decoder": points}, {"decoder": maps}, {}, pairs="last")
    h = torch.randn(3, 20)
    assert found.apply(h, 1).equal(maps[1, 3]["mat"](h))
    with pytest.raises(PyengineError, match="without validation states"):
        found.validation()
    with pytest.raises(PyengineError, match="has no affine"):
        found.map(1, kind="affine")
    opened = open_run(found.save(tmp_path / "run"))
    assert opened.apply(h, 1).equal(maps[1, 3]["mat"](h))
    assert opened.fits.num_rows == 0
    opened.check(model)
