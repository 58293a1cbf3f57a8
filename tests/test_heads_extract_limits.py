"""`extract_heads` at its limits: long and empty texts, memory, what it counts and refuses."""

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from heads_helpers import bank_hashes, extracted, task, tiny
from prediction_helpers import FOLDERS
from tiny_models import tiny_model

from pyengine import PyengineError, load
from pyengine.analyses.cached_activations_settings import DiskNeed
from pyengine.heads.extract_pass import PooledSites
from pyengine.heads.places import places_of


@pytest.mark.parametrize(("pooling", "room"), [("last", 32), ("pad", 31)])
def test_what_is_too_long_loses_its_end(tmp_path: Path, pooling: str, room: int) -> None:
    rng = np.random.default_rng(0)
    whole = " ".join(f"w{i}" for i in rng.integers(0, 80, 40))
    fitting, over = (" ".join(whole.split()[:n]) for n in (room, room + 1))
    tasks = [task("A", [whole, fitting, over, "w1"])]
    bank = extracted(tmp_path / "run", tasks=tasks, pooling=pooling)
    at = {text: row for row, text in enumerate(bank.texts())}
    assert len(at) == 4  # distinct texts, whatever the model reads of them
    assert bank.manifest["corpus"]["n_truncated"] == 2
    for place in bank.places:
        vectors = bank.vectors(place.location, place.layer)
        for text in (whole, over):
            assert np.array_equal(vectors[at[text]], vectors[at[fitting]])


def test_a_text_without_tokens_is_read_as_a_full_stop(tmp_path: Path) -> None:
    model = load(FOLDERS["bert"], device="cpu")
    texts = ["", " ", "\u200b", ".", "A film ."]
    bank = extracted(tmp_path / "run", model=model, tasks=[task("A", texts)])
    assert sorted(bank.texts()) == sorted([".", "\u200b", "A film ."])
    vectors, at = bank.vectors("head", 1), bank.texts().index
    np.testing.assert_allclose(vectors[at("\u200b")], vectors[at(".")], atol=1e-6)


def test_the_pass_ends_with_the_last_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("t5")
    hf: Any = model.hf
    hf.decoder.block[0].register_forward_pre_hook(lambda *_: pytest.fail("the decoder has run"))
    places = [place for place in places_of(model, ("head",)) if place.layer < 2]
    monkeypatch.setattr("pyengine.heads.extract_settings.places_of", lambda *_: places)
    assert [p.name for p in extracted(tmp_path / "run", model=model).places] == ["head.0", "head.1"]


def test_memory_that_runs_out_halves_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot = tiny_model("gpt2")
    with torch.no_grad():
        hot.transformer.h[1].attn.c_attn.weight.mul_(1e6)
    how: dict[str, Any] = {"model": load((hot, tiny().tokenizer)), "save_dtype": "float16"}
    whole = extracted(tmp_path / "whole", **how)
    run = PooledSites.run

    def scarce(self: Any, batch: Any, decoder: Any) -> Any:
        if len(batch.units) > 2:
            raise torch.OutOfMemoryError("no memory")
        return run(self, batch, decoder)

    monkeypatch.setattr(PooledSites, "run", scarce)
    found = extracted(tmp_path / "run", **how)
    assert whole.record["exact"] and not found.record["exact"]
    assert found.record["n_overflow"] == whole.record["n_overflow"] > 0
    for layer in (0, 1):
        mine, theirs = found.vectors("head", layer), whole.vectors("head", layer)
        np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=2e-3)
    too_large = sum(
        int(np.isinf(whole.vectors(place.location, place.layer)).sum()) for place in whole.places
    )
    assert whole.record["n_overflow"] == too_large


def test_numbers_that_are_nan_are_counted(tmp_path: Path) -> None:
    hf = tiny_model("gpt2")
    model = load((hf, tiny().tokenizer))
    with torch.no_grad():
        hf.transformer.h[2].mlp.c_proj.bias[3] = torch.nan
    bank = extracted(tmp_path / "run", model=model)
    assert bank.record["n_nan"] == bank.n_sentences
    assert int(np.isnan(bank.vectors("block", 2)).sum()) == bank.n_sentences


def test_the_model_is_left_alone(tmp_path: Path) -> None:
    hf: Any = tiny_model("gpt2")
    hf.train()
    before = {name: len(part._forward_pre_hooks) for name, part in hf.named_modules()}
    extracted(tmp_path / "run", model=load((hf, tiny().tokenizer)))
    assert hf.training
    assert before == {name: len(part._forward_pre_hooks) for name, part in hf.named_modules()}


def test_the_need_of_room_is_exact_and_too_little_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs: list[DiskNeed] = []
    bank = extracted(tmp_path / "run", on_need=needs.append)
    kept = [bank.vectors(place.location, place.layer) for place in bank.places]
    n_bytes = sum(vectors.nbytes for vectors in kept)
    assert needs[0].n_bytes == needs[0].left == n_bytes
    usage = namedtuple("usage", "total used free")
    room = [n_bytes - 1]
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(0, 0, room[0]))
    with pytest.raises(PyengineError, match="left; take fewer tasks or locations"):
        extracted(tmp_path / "full")
    assert not (tmp_path / "full").exists()
    room[0] += 1
    extracted(tmp_path / "full")
    assert bank_hashes(tmp_path / "full") == bank_hashes(tmp_path / "run")


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"locations": ("heads",)}, "unknown location 'heads'"),
        ({"locations": ()}, "no locations are given"),
        ({"locations": ("cross",)}, "no location 'cross'"),
        ({"pooling": "max"}, "unknown pooling 'max'; known are: auto, first"),
        ({"save_dtype": "int8"}, "unknown save_dtype 'int8'"),
        ({"activation": "fast"}, "unknown activation 'fast'"),
        ({"batch_tokens": 0}, "batch_tokens must be"),
        ({"block_tokens": 0}, "block_tokens must be"),
        ({"shard": (2, 2)}, "shard 2 of 2 does not exist"),
        ({"model": lambda: load((tiny_model("gpt2"), None))}, "no tokenizer"),
        ({"model": lambda: tiny("bert"), "pooling": "pad"}, "'pad' is for causal models"),
        ({"model": lambda: load((tiny_model("gpt2").double(), tiny().tokenizer))}, "float64"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, more: dict[str, Any], what: str) -> None:
    given = {name: value() if callable(value) else value for name, value in more.items()}
    with pytest.raises(PyengineError, match=what):
        extracted(tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_float64_models_keep_their_own_modules(tmp_path: Path) -> None:
    wide = load((tiny_model("gpt2").double(), tiny().tokenizer))
    bank = extracted(tmp_path / "run", model=wide, activation="model", pooling="mean")
    narrow = extracted(tmp_path / "narrow", activation="model", pooling="mean")
    mine, theirs = bank.vectors("head", 2), narrow.vectors("head", 2)
    np.testing.assert_allclose(mine, theirs, atol=1e-4, rtol=1e-4)


def test_progress_counts_tokens(tmp_path: Path) -> None:
    tokenized: list[tuple[int, int]] = []
    done: list[tuple[int, int]] = []
    bank = extracted(
        tmp_path / "run",
        on_tokenized=lambda *counts: tokenized.append(counts),
        on_progress=lambda *counts: done.append(counts),
    )
    n = sum(len(text.split()) for text in bank.texts())
    assert done[0] == (0, n) and done[-1] == (n, n) and len(done) > 4
    assert [a for a, _ in done] == sorted(a for a, _ in done)
    assert tokenized[-1] == (n_characters := sum(map(len, bank.texts())), n_characters)
