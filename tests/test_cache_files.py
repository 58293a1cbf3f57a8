"""`save_cache` and `load_cache`: what was kept comes back, and damage is seen."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_models import FAMILIES, tiny_model

from pyengine import PyengineError, load
from pyengine.activation_cache import ActivationCache
from pyengine.cache_files import cache_facts, load_cache, save_cache
from pyengine.hooked import run_with_cache

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


def kept(family: str = "gpt2", dtype: torch.dtype = torch.float32, **more: Any) -> ActivationCache:
    model = load((tiny_model(family).to(dtype), None))
    cache: ActivationCache = run_with_cache(model, IDS, return_type=None, **more)[1]
    return cache


@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_comes_back(tmp_path: Path, family: str) -> None:
    cache = kept(family)
    save_cache(cache, tmp_path / "c.safetensors")
    found = load_cache(tmp_path / "c.safetensors")
    assert found.keys() == dict(cache).keys()
    assert all(torch.equal(found[name], value) for name, value in cache.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_are_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    cache = kept(dtype=dtype)
    save_cache(cache, tmp_path / "c.safetensors")
    found = load_cache(tmp_path / "c.safetensors")
    assert found["blocks.0.mlp.hook_post"].dtype == dtype
    for name, value in cache.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)


def test_tensors_that_share_memory_are_each_saved_in_full(tmp_path: Path) -> None:
    """The end of one block is the beginning of the next: one tensor under two names."""
    cache = kept()
    one, other = "blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"
    whole = torch.arange(24.0).reshape(2, 3, 4)
    aliases = {one: whole, other: whole, "hook_embed": whole[:, 1:], "hook_pos_embed": whole.mT}
    shared = ActivationCache(aliases, cache.model)
    save_cache(shared, tmp_path / "c.safetensors")
    found = load_cache(tmp_path / "c.safetensors")
    assert all(torch.equal(found[name], value) for name, value in aliases.items())
    found[one].zero_()
    assert torch.equal(found[other], whole) and whole.sum() > 0


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path in paths:
        save_cache(kept("t5"), path, inputs={"input_ids": IDS})
    assert len({path.read_bytes() for path in paths}) == 1


def test_the_metadata_name_the_model_and_what_it_read(tmp_path: Path) -> None:
    cache, path = kept("bert", names_filter="*.mlp.hook_post"), tmp_path / "c.safetensors"
    save_cache(cache, path, inputs={"input_ids": IDS})
    with safe_open(path, framework="pt") as file:
        assert [*file.metadata()] == ["pyengine"]
        facts = json.loads(file.metadata()["pyengine"])
    assert facts == cache_facts(path)
    assert facts["family"] == "bert" and facts["sha256"] == cache.model.fingerprint
    assert facts["inputs"] == {"input_ids": IDS.tolist()}


def test_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_cache(kept(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(PyengineError, match="do not match its checksum"):
        load_cache(path)
    path.write_bytes(whole[:-8])
    with pytest.raises(PyengineError, match="is damaged"):
        load_cache(path)
    with pytest.raises(PyengineError, match="does not exist"):
        load_cache(tmp_path / "none.safetensors")
    save_file({"a": torch.ones(1)}, path, metadata={"pyengine": "[]"})
    with pytest.raises(PyengineError, match="not a file of save_cache"):
        load_cache(path)


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PyengineError, match="cannot write"):
        save_cache(kept(), tmp_path / "file" / "c.safetensors")
