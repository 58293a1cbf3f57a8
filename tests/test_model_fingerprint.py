"""The hash that says whether two models are one."""

from pathlib import Path

import torch
from tiny_models import tiny_model

import pyengine


def test_weights_that_a_checkpoint_lacks_are_left_out(tmp_path: Path) -> None:
    tiny_model("bert").bert.save_pretrained(tmp_path)  # no head, no pooler: random in every load
    first, second = pyengine.load(tmp_path), pyengine.load(tmp_path)
    assert first.absent == second.absent != ()
    parameters = [dict(model.hf.named_parameters()) for model in (first, second)]
    assert any(not torch.equal(parameters[0][name], parameters[1][name]) for name in first.absent)
    assert first.fingerprint == second.fingerprint


def test_any_other_weight_counts(tmp_path: Path) -> None:
    hf = tiny_model("bert").bert
    hf.save_pretrained(tmp_path / "one")
    with torch.no_grad():
        hf.encoder.layer[0].output.LayerNorm.bias[3] += 1e-3
    hf.save_pretrained(tmp_path / "other")
    first, second = (pyengine.load(tmp_path / name) for name in ("one", "other"))
    assert first.fingerprint != second.fingerprint
