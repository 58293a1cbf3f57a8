"""Agreement and runs: what is refused, limited, saved and exported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement_cases import TEXTS, column, random_targets, searched_texts
from tiny_models import tiny_model, word_tokenizer

import pyengine
from pyengine import Corpus, PyengineError, Targets, key_value_agreement


def test_changed_weights_are_refused() -> None:
    model, triggers = searched_texts()
    body: Any = model.body
    with torch.no_grad():
        body.h[1].mlp.c_proj.weight[0, 0] += 1e-3
    changed = pyengine.load((model.hf, model.tokenizer))
    with pytest.raises(
        PyengineError, match=r"another model .* weights or configuration: \w+…"
    ) as e:
        key_value_agreement(changed, triggers)
    assert "tokenizer" not in str(e.value) and "\n" not in str(e.value)


def test_changed_tokenizer_is_refused() -> None:
    model, triggers = searched_texts()
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["w90"])
    with pytest.raises(PyengineError, match="tokenizer: ") as error:
        key_value_agreement(pyengine.load((model.hf, tokenizer)), triggers)
    assert "weights" not in str(error.value)
    with pytest.raises(PyengineError, match=r"tokenizer: .* != None"):
        key_value_agreement(pyengine.load(model.hf), Targets.of(triggers))


def test_other_shapes_and_dtypes_are_named() -> None:
    _, triggers = searched_texts()
    other, _ = searched_texts("bert")
    with pytest.raises(PyengineError, match=r"architecture: gpt2 != bert; weights"):
        key_value_agreement(other, triggers)
    deeper = pyengine.load((tiny_model("gpt2", n_layer=4), word_tokenizer()))
    with pytest.raises(PyengineError, match=r"number of layers: 3 != 4; weights"):
        key_value_agreement(deeper, triggers)
    half = pyengine.load((tiny_model("gpt2").bfloat16(), word_tokenizer()))
    with pytest.raises(PyengineError, match="made in float32, the model is in bfloat16"):
        key_value_agreement(half, triggers)


def test_minima_and_shards_are_refused(tmp_path: Path) -> None:
    model, minima = searched_texts(sign="min")
    with pytest.raises(PyengineError, match="these examples are minima"):
        key_value_agreement(model, minima)
    _, both = searched_texts(sign="both")
    with pytest.raises(PyengineError, match="these examples are minima"):
        key_value_agreement(model, both.minima)
    _, maxima = searched_texts()
    table = key_value_agreement(model, maxima).table
    assert key_value_agreement(model, both).table.equals(table)
    assert key_value_agreement(model, both.sides()["max"]).table.equals(table)
    corpus = Corpus.from_texts(TEXTS)
    shard = pyengine.trigger_examples(
        model, corpus, k=3, out=tmp_path, shard=(0, 2), block_tokens=4
    )
    with pytest.raises(PyengineError, match=r"a shard of a run \(\d+ of 14 tokens\)"):
        key_value_agreement(model, shard)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "previous"}, "unknown target 'previous'; known are: next, input"),
        ({"final_norm": True}, "unknown final_norm True; known are: off, on"),
        ({"head": "tuned"}, "unknown head 'tuned'; known are: full, embedding"),
        ({"ranks": 4}, "ranks=4, but there are only 3 examples per key"),
        ({"ranks": 0}, "ranks must be a whole number"),
        ({"top": 98}, "top=98, but .* has only 97 tokens"),
        ({"seed": -1}, "seed must be a whole number from 0 on"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    model, triggers = searched_texts()
    with pytest.raises(PyengineError, match=message):
        key_value_agreement(model, triggers, out=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": (0, 1, 3)}, "have layer 3, but .* has 3"),
        ({"dims": (*range(36), 40)}, "have dim 40, but .* has 37"),
        ({"layers": (1, 0, 2)}, "given once, ascending"),
        ({"next": torch.full((3, 37, 4), 97)}, "token id 97, but .* has 97"),
        ({"input": torch.zeros(3, 37, 2, dtype=torch.int64)}, r"targets.input must be int64"),
    ],
)
def test_targets_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    model = pyengine.load(tiny_model("gpt2"))
    with pytest.raises(PyengineError, match=message):
        key_value_agreement(model, replace(random_targets(model), **change))


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
def test_limited_runs_equal_slices_of_the_full_one(family: str) -> None:
    dims, layers = [0, 5, 36], [0, 2]
    model, triggers = searched_texts(family)
    full = key_value_agreement(model, triggers).table.to_pylist()
    _, few = searched_texts(family, dims=dims, layers=layers)
    found = key_value_agreement(model, few)
    rows = [row for row in full if row["dim"] in dims and row["layer"] in layers]
    assert found.manifest["question"]["dims"] == dims
    for row, expected in zip(found.table.to_pylist(), rows, strict=True):
        for name, value in expected.items():
            if "prob" in name or name == "entropy":
                assert np.array(row[name], float) == pytest.approx(
                    np.array(value, float), rel=1e-5, nan_ok=True
                )
            elif "shuffled" not in name:  # fewer keys to be shuffled with
                assert row[name] == value, name


def test_ranks_take_the_best_examples_only() -> None:
    model, triggers = searched_texts()
    full, two = (key_value_agreement(model, triggers, ranks=n) for n in (3, 2))
    for layer in range(3):
        assert torch.equal(column(two, "targets", layer), column(full, "targets", layer)[:, :2])
        assert torch.equal(
            column(two, "shuffled_rank", layer), column(full, "shuffled_rank", layer)
        )
    assert key_value_agreement(model, triggers).table.equals(full.table)


def test_results_are_files_that_open_again_with_equal_bytes(tmp_path: Path) -> None:
    model, triggers = searched_texts("bert")
    calls: list[tuple[int, int]] = []
    direct = key_value_agreement(
        model, triggers, out=tmp_path / "a", on_progress=lambda *at: calls.append(at)
    )
    assert calls == [(37, 111), (74, 111), (111, 111)]
    key_value_agreement(model, triggers).save(tmp_path / "b")
    opened = pyengine.open_run(tmp_path / "a")
    opened.save(tmp_path / "c")
    for name in ("table", "layers", "probability"):
        assert getattr(opened, name).equals(getattr(direct, name))
    assert opened.manifest == direct.manifest and opened.text.decode([4, 5]) == "w0 w1"
    names = {"agreement.parquet", "layers.parquet", "probability.parquet", "tokenizer.json"}
    assert opened.manifest["files"].keys() == names
    for name in [*names, "manifest.json"]:
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()
    key_value_agreement(
        model, triggers, out=tmp_path / "a", on_progress=lambda *at: pytest.fail("computed again")
    )
    with pytest.raises(PyengineError, match=r"other settings .question.seed: 0 != 1"):
        key_value_agreement(model, triggers, out=tmp_path / "a", seed=1)
    damaged = tmp_path / "a" / "agreement.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(PyengineError, match="damaged"):
        pyengine.open_run(tmp_path / "a")


def test_the_manifest_says_what_was_read() -> None:
    model, triggers = searched_texts("t5", per="token")
    manifest = key_value_agreement(model, triggers, ranks=2, seed=7).manifest
    question: dict[str, Any] = {
        "target": ["input"] * 2 + ["next"] * 3,
        "final_norm": "off",
        "head": "full",
    }
    question |= {"k": 2, "top": 10, "seed": 7, "layers": list(range(5)), "dims": None}
    assert manifest["question"] == question
    assert manifest["corpus"]["triggers"] == triggers.manifest["question"]
    assert manifest["corpus"]["sha256"] == triggers.manifest["corpus"]["sha256"]
    assert manifest["model"]["sha256"] == model.fingerprint
    assert manifest["numerics"]["dtype"] == "float32"
