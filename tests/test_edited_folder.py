"""Edited models as ordinary folders."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from attribution_cases import prompts, tiny
from intervention_cases import bits, module
from tiny_models import FAMILIES

import pyengine
from pyengine.interventions import suppress
from pyengine.saved_edits import save_edited
from pyengine.weight_edits import edit, erase

NEURONS = [(0, 3), (2, 11)]


@pytest.mark.parametrize("family", FAMILIES)
def test_holds_the_edits_and_loads_anywhere(family: str, tmp_path: Path) -> None:
    model = tiny(family, torch.float32)
    state = bits(model.hf)
    wanted = edit(model, NEURONS, old="w1", new="w2").effect(prompts(model)[0], "w9").after
    folder = tmp_path / "made" / "edited"
    with edit(model, NEURONS, old="w1", new="w2"):
        save_edited(model, folder)
        edited = bits(model.hf)
    assert bits(model.hf) == state != edited
    loaded = pyengine.load(folder)
    assert bits(loaded.hf) == edited
    assert erase(loaded, []).effect(prompts(loaded)[0], "w9").before == wanted
    auto: Any = getattr(transformers, model.family.auto_class)
    assert bits(auto.from_pretrained(folder)) == edited
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pkl", ".pt")]
    assert [*folder.parent.iterdir()] == [folder]


def test_trained_model(tmp_path: Path) -> None:
    model = pyengine.load("demo")
    with erase(model, [(0, 0)]):
        save_edited(model, tmp_path / "edited")
        edited = bits(model.hf)
    loaded = pyengine.load(tmp_path / "edited")
    assert bits(loaded.hf) == edited
    text = "Vobirk Drovind was born in Rome"
    assert loaded.tokenizer is not None and model.tokenizer is not None
    assert loaded.tokenizer(text)["input_ids"] == model.tokenizer(text)["input_ids"]


def test_t5_in_float16_keeps_its_value_vectors_in_float32(tmp_path: Path) -> None:
    save_edited(tiny("t5", torch.float32), tmp_path / "whole")
    model = pyengine.load(tmp_path / "whole", dtype="float16")
    assert {module(model.hf, layer).weight.dtype for layer in range(5)} == {torch.float32}
    state = bits(model.hf)
    change = edit(model, NEURONS, old="w1", new="w2", rule="dai")
    assert change.effect("w1 [MASK]", "w9").before != change.effect("w1 [MASK]", "w9").after
    with change:
        save_edited(model, tmp_path / "edited")
        edited = bits(model.hf)
        ids = torch.ones(1, 2, dtype=torch.int64)
        with suppress(model, NEURONS, positions="all"):
            model.hf(input_ids=ids, decoder_input_ids=ids)
    assert bits(model.hf) == state
    assert bits(pyengine.load(tmp_path / "edited", dtype="float16").hf) == edited != state


def test_weights_that_were_never_there_are_not_made_up(tmp_path: Path) -> None:
    whole = tiny("bert", torch.float32)
    weights = {name: t for name, t in whole.hf.state_dict().items() if name.startswith("bert.")}
    whole.hf.save_pretrained(tmp_path / "headless", state_dict=weights)
    model = pyengine.load(tmp_path / "headless")
    assert any(name.startswith("cls.") for name in model.absent)
    save_edited(model, tmp_path / "edited")
    assert pyengine.load(tmp_path / "edited").absent == model.absent


def test_scaled_activations_cannot_be_saved(tmp_path: Path) -> None:
    model = tiny("gpt2", torch.float32)
    with (
        suppress(model, NEURONS),
        pytest.raises(pyengine.PyengineError, match=r"leave them before saving"),
    ):
        save_edited(model, tmp_path / "edited")
    assert not [*tmp_path.iterdir()]
    save_edited(model, tmp_path / "edited")


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    model = tiny("gpt2", torch.float32)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "used", tmp_path / "used" / "file"):
        with pytest.raises(pyengine.PyengineError, match="exists already; give a new directory"):
            save_edited(model, path)
    with pytest.raises(pyengine.PyengineError, match="cannot write"):
        save_edited(model, tmp_path / "used" / "file" / "below")
    save_edited(model, tmp_path / "empty")
    assert (tmp_path / "used" / "file").read_text() == "mine"


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2", torch.float32)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model.tokenizer, "save_pretrained", full)
    with pytest.raises(pyengine.PyengineError, match="No space left"):
        save_edited(model, tmp_path / "edited")
    assert not [*tmp_path.iterdir()]
