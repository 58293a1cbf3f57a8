"""`cache_activations`: the values of a corpus, and how they are read."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from cached_helpers import UNITS, cached
from prediction_helpers import FOLDERS, trained_units
from tiny_models import FAMILIES, tiny_model

from pyengine import Corpus, PyengineError, load, open_run
from pyengine.analyses import cached_activations_pass
from pyengine.hooked import run_with_cache
from pyengine.models import Model
from pyengine.sites import sites_of


def by_token(model: Model) -> list[str]:
    """Every site that may be kept."""
    sites = sites_of(model).values()
    return [s.name for s in sites if not s.in_head and s.shape not in ("BHTS", "TSH")]


def alone(model: Model, ids: list[int], names: list[str]) -> dict[str, torch.Tensor]:
    """The same sites of one unit, by `run_with_cache`; T5's decoder slot p at position p - 1."""
    _, cache = run_with_cache(model, [ids], names, return_type=None)
    slots = model.family.encoder_decoder

    def first(name: str) -> int:
        of_encoder = name.endswith(("cross_attn.hook_k", "cross_attn.hook_v"))
        return int(slots and name.startswith("decoder") and not of_encoder)

    return {name: cache[name][0, first(name) :] for name in names}


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_those_of_each_unit_alone(tmp_path: Path, family: str) -> None:
    model = load((tiny_model(family), None))
    names = by_token(model)
    found = cached(tmp_path / "run", model=model, names=names)
    assert found.sites == tuple(names) and found.n_blocks > 2
    for unit, ids in enumerate(UNITS):
        values = found.unit(unit)
        assert [*values] == names
        for name, expected in alone(model, ids, names).items():
            # Of rows of other lengths, matrix products are rounded in another order.
            limit = 1e-5 * (1 + float(expected.abs().max()))
            torch.testing.assert_close(values[name], expected, atol=limit, rtol=0)


@pytest.mark.parametrize("family", FOLDERS)
def test_trained_models_and_their_special_tokens(tmp_path: Path, family: str) -> None:
    model = load(FOLDERS[family], device="cpu")
    text = tmp_path / "text.txt"
    text.write_text("The film was released in 1998 .\nShe was born in London\nA\n")
    read = Corpus.from_path(text, unit="line")
    units, around = trained_units(model, read)
    names = by_token(model)
    found = cached(tmp_path / "run", model=model, corpus=read, names=names)
    assert [found.tokens(unit) for unit in range(3)] == units
    for unit, ids in enumerate(units):
        _, cache = run_with_cache(
            model, [[*around["prefix"], *ids, *around["suffix"]]], names, return_type=None
        )
        for name, values in found.unit(unit).items():
            start = int(name.startswith("decoder_")) or len(around["prefix"])
            if name.endswith(("cross_attn.hook_k", "cross_attn.hook_v")):
                start = len(around["prefix"])
            expected = cache[name][0, start : start + len(ids)]
            limit = 1e-5 * (1 + float(expected.abs().max()))
            torch.testing.assert_close(values, expected, atol=limit, rtol=0)


def test_a_result_is_read_block_by_block(tmp_path: Path) -> None:
    cached(tmp_path / "run")
    found = open_run(tmp_path / "run")
    assert found.manifest["status"] == "complete" and found.record["n_units"] == len(UNITS)
    table = pq.read_table(tmp_path / "run" / "index.parquet")
    assert table.column_names == ["unit", "file", "row", "n_tokens", "tokens"]
    assert table["tokens"].to_pylist() == UNITS and table.equals(found.index)
    seen = []
    for block, (index, tensors) in enumerate(found):
        n = sum(index["n_tokens"].to_pylist())
        assert {*index["file"].to_pylist()} == {f"activations/{block:06d}.safetensors"}
        starts = np.cumsum([0, *index["n_tokens"].to_pylist()])[:-1]
        assert index["row"].to_pylist() == starts.tolist()
        for site, values in tensors.items():
            assert values.shape == (n, 37)
            assert torch.equal(values, found.tensor(site, block))
        seen += index["unit"].to_pylist()
    assert seen == list(range(len(UNITS)))
    with pytest.raises(PyengineError, match="no unit 40; there are 0 to 39"):
        found.unit(40)
    with pytest.raises(PyengineError, match="no block -1"):
        found.tensor(found.sites[0], -1)
    with pytest.raises(PyengineError, match="'hook_embed' was not kept; there are: blocks"):
        found.tensor("hook_embed", 0)


@pytest.mark.parametrize("save_dtype", ["float32", "float16", "bfloat16"])
def test_rounding_is_to_the_nearest(tmp_path: Path, save_dtype: str) -> None:
    exact = cached(tmp_path / "exact")
    found = cached(tmp_path / "run", save_dtype=save_dtype)
    dtype = getattr(torch, save_dtype)
    for (_, mine), (_, theirs) in zip(found, exact, strict=True):
        for name, values in mine.items():
            assert values.dtype == dtype and torch.equal(values, theirs[name].to(dtype))
    assert found.record["n_overflow"] == 0


def test_what_is_too_large_for_half_precision_is_counted(tmp_path: Path) -> None:
    hf: Any = tiny_model("gpt2")
    with torch.no_grad():
        hf.transformer.h[1].mlp.c_fc.weight.mul_(1e6)
    model = load((hf, None))
    exact, found = (
        cached(tmp_path / str(dtype), model=model, save_dtype=dtype) for dtype in (None, "float16")
    )
    too_large = sum(
        int((values.abs() >= 65520).sum()) for _, tensors in exact for values in tensors.values()
    )
    assert found.record["n_overflow"] == too_large > 0
    assert open_run(tmp_path / "float16").record["n_overflow"] == too_large


def test_half_precision_models_keep_their_dtypes(tmp_path: Path) -> None:
    model = load((tiny_model("gpt2").bfloat16(), None))
    names = ["blocks.0.mlp.hook_post", "blocks.0.ln1.hook_scale"]
    found = cached(tmp_path / "run", model=model, names=names)
    assert [found.tensor(name, 0).dtype for name in names] == [torch.bfloat16, torch.float32]
    assert found.manifest["question"]["dtypes"] == ["float32", "bfloat16"]


def test_sites_that_are_not_one_row_per_token_are_refused(tmp_path: Path) -> None:
    eager = load((tiny_model("gpt2", attn_implementation="eager"), None))
    t5 = load((tiny_model("t5"), None))
    for model, name, what in (
        (eager, "blocks.1.attn.hook_pattern", "no row per token"),
        (eager, "*.hook_attn_scores", "no row per token"),
        (t5, "hook_pos_embed", "no row per token"),
        (eager, "unembed.hook_out", "output head"),
        (eager, "blocks.1.mlp.hook_pots", r"did you mean blocks\.1\.mlp\.hook_post"),
        (eager, [], "no sites are named"),
    ):
        with pytest.raises(PyengineError, match=what):
            cached(tmp_path / "run", model=model, names=name)
    assert not (tmp_path / "run").exists()
    every = cached(tmp_path / "run", model=eager, names="blocks.1.attn.*")
    assert [name.rpartition("_")[2] for name in every.sites] == ["q", "k", "v", "z"]


def test_the_model_is_left_alone(tmp_path: Path) -> None:
    hf: Any = tiny_model("gpt2")
    hf.train()
    before = {name: len(part._forward_pre_hooks) for name, part in hf.named_modules()}
    cached(tmp_path / "run", model=load((hf, None)))
    assert hf.training
    assert before == {name: len(part._forward_pre_hooks) for name, part in hf.named_modules()}


def test_a_site_that_the_pass_leaves_out_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not filled in would be whatever the memory held."""
    monkeypatch.setattr(cached_activations_pass, "attach", lambda *_: None)
    with pytest.raises(PyengineError, match=r"does not come to blocks\.0\.mlp\.hook_post"):
        cached(tmp_path / "run", names="blocks.0.mlp.hook_post")
