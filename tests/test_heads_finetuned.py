"""What fine-tuning leaves: rows of scores, and a folder that is read again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_cases import FAST, easy_task, scores_task, tuned_model
from tiny_models import FAMILIES

from pyengine import PyengineError, load
from pyengine.heads import finetune as module
from pyengine.heads.finetune import finetune
from pyengine.heads.finetune_table import FINETUNES
from pyengine.heads.finetune_training import FinetuneSettings
from pyengine.heads.finetuned import load_finetuned
from pyengine.heads.results_table import read


def test_rows_are_kept_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = tuned_model("gpt2"), easy_task()
    monkeypatch.setattr(torch, "save", lambda *_: pytest.fail("something is pickled"))
    whole = finetune(model, task, seeds=(0, 1), settings=FAST, out=tmp_path / "whole")
    parted = tmp_path / "parted"
    finetune(model, task, seeds=(1,), settings=FAST, out=parted)
    rest = finetune(model, task, seeds=(0, 1), settings=FAST, out=parted)
    assert rest.equals(whole)
    name = FINETUNES.name
    assert (parted / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert {path.name for path in parted.iterdir()} == {name, f".{name}.lock"}
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("a seed was trained again"))
    assert finetune(model, task, seeds=(1, 0), settings=FAST, out=parted).num_rows == 2
    assert read(parted, FINETUNES)["seed"].to_pylist() == [0, 1]
    with pytest.raises(pytest.fail.Exception):
        other = tuned_model("gpt2", seed=1)  # of the same name
        finetune(other, task, seeds=(0,), settings=FAST, out=parted)


def test_a_saved_model_predicts_the_same(tmp_path: Path) -> None:
    model, task = tuned_model("bert"), scores_task()
    folder = tmp_path / "saved"
    how: dict[str, Any] = {"seeds": (3,), "settings": FAST, "save": folder}
    found = finetune(model, task, "heads", heads=[(2, 1), (0, 0)], **how)
    assert not any(path.suffix in (".bin", ".pt", ".pth", ".pkl") for path in folder.rglob("*"))
    tuned, test = load_finetuned(folder, device="cpu"), task.parts["test"]
    predicted = tuned.predict(test.first, test.second)
    x, y = predicted - predicted.mean(), test.targets - test.targets.mean()
    correlation = (x @ y) / np.sqrt((x @ x) * (y @ y))
    assert found["test"][0].as_py() == pytest.approx(correlation, abs=1e-9)
    assert tuned.facts["parts"] == [[2, 1], [0, 0]]
    # Other analyses read the body as a model of its own.
    body = load(folder, device="cpu")
    assert body.fingerprint == tuned.model.fingerprint != model.fingerprint
    kept = {name: tensor for name, tensor in body.body.state_dict().items() if "pooler" not in name}
    own = tuned.module.body.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in kept.items())
    with pytest.raises(PyengineError, match="there already"):
        finetune(model, task, **how)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_saved_and_read(family: str, tmp_path: Path) -> None:
    model, task = tuned_model(family), easy_task()
    settings = FinetuneSettings(1e-3, 24, 1, 16)
    finetune(model, task, seeds=(0,), settings=settings, save=tmp_path / "saved")
    tuned = load_finetuned(tmp_path / "saved", device="cpu")
    assert set(tuned.predict(list(task.parts["test"].first))) <= {0, 1}
    assert tuned.labels == ("one", "two")


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PyengineError, match="not a fine-tuned model"):
        load_finetuned(tmp_path)
    (tmp_path / "finetuned.json").write_text("{}")
    with pytest.raises(PyengineError, match="damaged"):
        load_finetuned(tmp_path)
