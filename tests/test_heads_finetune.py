"""Fine-tuning from the last layer, the best layer and the best heads."""

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune_cases import (
    FAST,
    SIZES,
    easy_task,
    scores_task,
    tuned_model,
)
from heads_results_helpers import head_rows, layer_rows, table
from tiny_models import FAMILIES, tiny_model, word_tokenizer

from pyengine import HeadResults, PyengineError, load
from pyengine.heads.chosen_heads import ChosenHeads
from pyengine.heads.finetune import finetune
from pyengine.heads.finetune_choice import choose, paper_n
from pyengine.heads.finetune_data import Reader, collated, labelled_rows
from pyengine.heads.finetune_model import PooledClassifier
from pyengine.heads.finetune_training import FinetuneSettings, build, train
from pyengine.heads.places import HEAD
from pyengine.heads.pooling import pooling_of
from pyengine.heads.results_table import append
from pyengine.models import Model

CPU = torch.device("cpu")
TEXTS = ["w1 w2 w3", "w9", "w4 w5 w6 w7 w8"]


def classifier(
    model: Model, heads: list[tuple[int, int]], pooling: str = "auto", n_outputs: int = 2
) -> PooledClassifier:
    chosen = choose(model, "any", "heads", heads=heads)
    pooling = pooling_of(model, pooling)[model.layers[0].stack.name]
    return PooledClassifier(model, chosen, pooling, n_outputs, 0.1).eval()


def batch_of(model: Model, texts: list[str], second: list[str] | None = None) -> dict[str, Any]:
    return collated(Reader(model, 16).rows(texts, second), model.pad_id)


def trained(model: Model, seed: int = 0, epochs: int = 1) -> PooledClassifier:
    settings = FinetuneSettings(learning_rate=1e-3, batch_size=8, epochs=epochs, max_length=16)
    rows = labelled_rows(Reader(model, 16), easy_task().parts["train"], "classes")
    own = build(lambda: classifier(model, [(1, 0), (0, 1)]), seed, CPU)
    train(own, rows, model, settings, seed)
    return own


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pooled_vector_is_what_a_bank_would_hold(family: str) -> None:
    model = tuned_model(family)
    heads = [(1, 1), (0, 0), (1, 0)]
    with torch.no_grad():
        found = classifier(model, heads).pooled(**batch_of(model, TEXTS))
    wanted = ChosenHeads(model, heads, HEAD, "auto").vectors(TEXTS, None)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("family", "pooling"), [("bert", "mean"), ("bert", "last"), ("gpt2", "first"), ("gpt2", "mean")]
)
def test_other_poolings_are_those_of_a_bank(family: str, pooling: str) -> None:
    model = tuned_model(family)
    with torch.no_grad():
        found = classifier(model, [(1, 0)], pooling).pooled(**batch_of(model, TEXTS))
    wanted = ChosenHeads(model, [(1, 0)], HEAD, pooling).vectors(TEXTS, None)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


def test_a_token_is_appended_to_be_read() -> None:
    model = tuned_model("gpt2")
    rows = Reader(model, 16, (0,)).rows(TEXTS)
    with torch.no_grad():
        found = classifier(model, [(1, 0)], "pad").pooled(**collated(rows, model.pad_id))
    wanted = ChosenHeads(model, [(1, 0)], HEAD, "pad").vectors(TEXTS, None)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


def test_the_classifier_on_the_last_layer_by_hand() -> None:
    model = tuned_model("bert")
    chosen = choose(model, "any", "last")
    own = PooledClassifier(model, chosen, "first", 2, 0.1).eval()
    batch, labels = batch_of(model, TEXTS), torch.tensor([0, 1, 1])
    with torch.no_grad():
        found = own(**batch, labels=labels)
        x = model.body(**batch).last_hidden_state[:, 0]
        hidden = torch.tanh(x @ own.dense.weight.T + own.dense.bias)
        logits = hidden @ own.out.weight.T + own.out.bias
    torch.testing.assert_close(found["logits"], logits, rtol=0, atol=1e-5)
    shares = torch.log_softmax(logits, 1)[torch.arange(3), labels]
    torch.testing.assert_close(found["loss"], -shares.mean(), rtol=0, atol=1e-5)


def test_scores_are_fitted_by_squares() -> None:
    model = tuned_model("gpt2")
    own = classifier(model, [(0, 0)], n_outputs=1)
    labels = torch.tensor([1.0, 2.5, 4.0])
    with torch.no_grad():
        found = own(**batch_of(model, TEXTS), labels=labels)
    squares = (found["logits"][:, 0] - labels) ** 2
    torch.testing.assert_close(found["loss"], squares.mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_what_lies_below(family: str) -> None:
    model = tuned_model(family)
    own = classifier(model, [(1, 0)])
    own(**batch_of(model, TEXTS), labels=torch.tensor([0, 1, 0]))["loss"].backward()
    embedding: Any = own.body.get_submodule(model.family.embedding)
    assert embedding.weight.grad.abs().sum() > 0
    blocks = model.layers[0].stack.blocks
    own_blocks = list(own.body.get_submodule(blocks).children())
    above = [p.grad for block in own_blocks[2:] for p in block.parameters()]
    assert all(grad is None for grad in above)
    below = [p.grad for p in own_blocks[0].parameters()]
    assert all(grad is not None for grad in below)


def test_the_same_seed_gives_the_same_bits() -> None:
    model = tuned_model("bert")
    first, again, other = trained(model), trained(model), trained(model, seed=1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(first.out.weight, other.out.weight)
    name = model.family.embedding + ".weight"
    assert not torch.equal(first.body.state_dict()[name], model.body.state_dict()[name])


def test_the_model_and_the_random_numbers_of_the_caller_are_left_alone() -> None:
    model = tuned_model("gpt2")
    before = copy.deepcopy(model.hf.state_dict())
    torch.manual_seed(5)
    numpy: Any = np.random.get_state()
    states = torch.get_rng_state(), numpy[1].copy(), random.getstate()
    trained(model)
    assert torch.equal(torch.get_rng_state(), states[0])
    numpy = np.random.get_state()
    assert (numpy[1] == states[1]).all()
    assert random.getstate() == states[2]
    for name, tensor in model.hf.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in model.hf.modules()
    )
    assert not model.hf.training


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("representation", ["last", "heads"])
def test_an_easy_task_is_learnt(family: str, representation: str) -> None:
    model, settings = tuned_model(family), FinetuneSettings(5e-3, 8, 10, 16)
    heads = [(1, 0), (0, 0), (0, 1)] if representation == "heads" else None
    steps = list[tuple[int, int]]()
    found = finetune(
        model,
        easy_task(),
        representation,
        heads=heads,
        seeds=(0,),
        settings=settings,
        on_progress=lambda done, total: steps.append((done, total)),
    )
    (row,) = found.to_pylist()
    assert min(row["dev"], row["test"]) >= 87.5
    assert row["majority"] < 75
    assert steps == [(i, 40) for i in range(1, 41)]
    assert row["layer"] == (-1 if heads else (1 if family == "t5" else 2))
    assert [(one["layer"], one["head"]) for one in row["heads"]] == (heads or [])


def test_scores_of_pairs_are_learnt() -> None:
    how: dict[str, Any] = {"heads": [(0, 0), (0, 1)], "pooling": "mean", "seeds": (0,)}
    settings = FinetuneSettings(2e-3, 8, 12, 16)
    found = finetune(tuned_model("gpt2"), scores_task(), "heads", settings=settings, **how)
    rows = {row["metric"]: row for row in found.to_pylist()}
    assert rows.keys() == {"pearson", "spearman"}
    assert min(rows["pearson"]["dev"], rows["pearson"]["test"]) > 0.8
    assert np.isnan(rows["pearson"]["majority"])


def test_results_name_the_best_layer_and_the_best_heads(tmp_path: Path) -> None:
    model, t5 = tuned_model("gpt2"), tuned_model("t5", num_heads=4)
    for name in (model.name, t5.name):
        append(tmp_path, table([*head_rows(model=name), *layer_rows(model=name)]))
    whole = HeadResults.open(tmp_path)
    results = whole.where(model=model.name)
    assert choose(model, "TREC", "best", results).parts == ((results.best_layer("TREC").layer, -1),)
    ranked = results.ranked("TREC")
    assert choose(model, "TREC", "heads", results).parts == tuple(ranked[: paper_n(model)])
    assert paper_n(model) == 4
    assert choose(model, "TREC", "heads", results, n=2).parts == tuple(ranked[:2])
    # An encoder-decoder's encoder has two of these three layers.
    inside = [head for head in ranked if head[0] < 2]
    assert choose(t5, "TREC", "heads", whole, n=3).parts == tuple(inside[:3])
    assert choose(t5, "TREC", "best", whole).parts == ((1, -1),)
    with pytest.raises(PyengineError, match="no results with model 'T5For"):
        choose(t5, "TREC", "best", results)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"representation": "first"}, "unknown representation 'first'"),
        ({"representation": "best"}, "needs results"),
        ({"representation": "heads"}, "need results"),
        ({"layer": 1}, "layer is for the representation 'best', not 'last'"),
        ({"representation": "best", "layer": 1, "n": 3}, "n is for the representation 'heads'"),
        ({"representation": "heads", "heads": [(0, 1)], "n": 1}, "not both"),
        ({"representation": "heads", "heads": []}, "at least one"),
        ({"representation": "heads", "heads": [(0, 4)]}, "has 4 heads, not head 4"),
        ({"representation": "heads", "heads": [(3, 0)]}, "layers 0 to 2"),
        ({"representation": "heads", "heads": [(0, 1), (1, -1)]}, "side by side"),
        ({"representation": "best", "layer": 7}, "layers 0 to 2"),
    ],
)
def test_what_cannot_be_read_is_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(PyengineError, match=message):
        finetune(tuned_model("gpt2"), easy_task(), **how, settings=FAST)


def test_a_decoder_is_not_tuned() -> None:
    with pytest.raises(PyengineError, match="layers 0 to 1 of the encoder"):
        finetune(tuned_model("t5"), easy_task(), "heads", heads=[(2, 0)], settings=FAST)


def test_what_trainer_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    half = load((tiny_model("gpt2").half(), word_tokenizer()))
    with pytest.raises(PyengineError, match="float32"):
        finetune(half, easy_task())
    with pytest.raises(PyengineError, match="no tokenizer"):
        finetune(load((tiny_model("gpt2"), None)), easy_task())
    with pytest.raises(PyengineError, match="learning_rate"):
        FinetuneSettings(learning_rate=0)
    monkeypatch.setattr("pyengine.heads.finetune_training.is_accelerate_available", lambda: False)
    with pytest.raises(PyengineError, match=r"pip install 'pyengine\[finetune\]'"):
        finetune(tuned_model("gpt2"), easy_task())


def test_sizes_are_told() -> None:
    row = finetune(tuned_model("gpt2"), easy_task(), seeds=(0,), settings=FAST).to_pylist()[0]
    assert {part: row[f"n_{part}"] for part in SIZES} == SIZES
    assert (row["n_classes"], row["epochs"], row["learning_rate"]) == (2, 2, 3e-3)
