"""Tuned lenses as files: ours, those of the package tuned-lens, and the conversion of pickles."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor, nn

import pyengine
from pyengine import PyengineError
from pyengine.cache_files import write_tensors
from pyengine.shortcuts.linear_map import LinearMap
from pyengine.shortcuts.tuned_lens_files import (
    load_tuned_lens,
    published_unembedding_hash,
    save_tuned_lens,
)


@pytest.fixture(scope="module")
def model() -> pyengine.Model:
    return pyengine.load((tiny_model("gpt2"), None))


@pytest.fixture(scope="module")
def lens() -> dict[int, LinearMap]:
    generator = torch.Generator().manual_seed(0)
    return {
        layer: LinearMap(
            torch.randn(20, 20, generator=generator), torch.randn(20, generator=generator)
        )
        for layer in range(3)
    }


def test_a_lens_is_saved_and_read(
    tmp_path: Path, model: pyengine.Model, lens: dict[int, LinearMap]
) -> None:
    folder = save_tuned_lens(tmp_path / "lens", lens, model)
    found = load_tuned_lens(folder, model)
    for layer in range(3):
        torch.testing.assert_close(found[layer].weight, lens[layer].weight, rtol=0, atol=1e-6)
        assert torch.equal(found[layer].bias, lens[layer].bias)  # type: ignore[arg-type]
    with pytest.raises(PyengineError, match="no map of layer 2"):
        save_tuned_lens(tmp_path / "part", {0: lens[0], 1: lens[1]}, model)


def test_a_lens_of_another_model_is_refused(
    tmp_path: Path, model: pyengine.Model, lens: dict[int, LinearMap]
) -> None:
    folder = save_tuned_lens(tmp_path / "lens", lens, model)
    other = pyengine.load((tiny_model("gpt2", seed=1), None))
    with pytest.raises(PyengineError, match=r"lens of another model .* its model_sha256 differs"):
        load_tuned_lens(folder, other)
    wide = pyengine.load((tiny_model("gpt2", n_embd=24), None))
    with pytest.raises(PyengineError, match=r"d_model 20; that of \S+ is 24"):
        load_tuned_lens(folder, wide)


def published(folder: Path, model: pyengine.Model, **config: Any) -> dict[str, Tensor]:
    """Write what the package tuned-lens writes, but for the parameters, which are returned."""
    folder.mkdir()
    known = {"base_model_name_or_path": "gpt2", "d_model": 20, "num_hidden_layers": 3}
    known |= {"bias": True, "base_model_revision": None, "lens_type": "linear_tuned_lens"}
    known |= {"unembed_hash": published_unembedding_hash(model)}
    (folder / "config.json").write_text(json.dumps(known | config))
    layers = nn.ModuleList([nn.Linear(20, 20, bias=known["bias"] is True) for _ in range(3)])
    return {name: tensor.detach() for name, tensor in layers.half().state_dict().items()}


def test_a_published_lens_is_converted_and_read(tmp_path: Path, model: pyengine.Model) -> None:
    folder = tmp_path / "lens"
    state = published(folder, model)
    torch.save(state, folder / "params.pt")
    with pytest.raises(PyengineError, match=r"params\.pt is a pickle") as caught:
        load_tuned_lens(folder, model)
    told = str(caught.value)
    assert "\n" not in told
    code = told.partition('python -c "')[2].rpartition('"')[0]
    subprocess.run([sys.executable, "-c", code], check=True)
    found = load_tuned_lens(folder, model)
    h = torch.randn(2, 20)
    for layer in range(3):
        weight, bias = state[f"{layer}.weight"].float(), state[f"{layer}.bias"].float()
        torch.testing.assert_close(found[layer](h), h + h @ weight.t() + bias)


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


def test_the_conversion_runs_no_code(tmp_path: Path, model: pyengine.Model) -> None:
    published(tmp_path / "lens", model)
    (tmp_path / "lens" / "params.pt").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(PyengineError) as caught:
        load_tuned_lens(tmp_path / "lens", model)
    code = str(caught.value).partition('python -c "')[2].rpartition('"')[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode != 0 and not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("config", "change", "named"),
    [
        ({"unembed_hash": "0" * 64}, {}, "its unembed_hash differs"),
        ({"lens_type": "mlp"}, {}, "does not describe a linear_tuned_lens"),
        ({"num_hidden_layers": 5}, {}, "num_hidden_layers 5; that of"),
        ({}, {"1.bias": None}, r"needs a tensor 1.bias of shape \[20\] and has none"),
        ({}, {"1.weight": torch.zeros(3, 20)}, r"has one of shape \[3, 20\]"),
        ({}, {"0.bias": torch.full((20,), torch.nan)}, "NaN or infinite numbers in 0.bias"),
        ({}, {"3.weight": torch.zeros(20, 20)}, "holds 3.weight, which no layer takes"),
    ],
)
def test_a_published_lens_that_does_not_fit(
    tmp_path: Path,
    model: pyengine.Model,
    config: dict[str, Any],
    change: dict[str, Tensor | None],
    named: str,
) -> None:
    state: dict[str, Any] = published(tmp_path / "lens", model, **config) | change
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    write_tensors(tmp_path / "lens" / "params.safetensors", kept)
    with pytest.raises(PyengineError, match=named) as caught:
        load_tuned_lens(tmp_path / "lens", model)
    assert "\n" not in str(caught.value)


def test_a_published_lens_may_have_no_biases(tmp_path: Path, model: pyengine.Model) -> None:
    state = published(tmp_path / "lens", model, bias=False)
    kept = {name: tensor for name, tensor in state.items() if name.endswith("weight")}
    write_tensors(tmp_path / "lens" / "params.safetensors", kept)
    assert load_tuned_lens(tmp_path / "lens", model)[0].bias is None


def test_an_encoder_without_a_head_has_no_lens(tmp_path: Path) -> None:
    t5 = pyengine.load((tiny_model("t5"), None))
    with pytest.raises(PyengineError, match="has no output head"):
        load_tuned_lens(tmp_path, t5, stack="encoder")
