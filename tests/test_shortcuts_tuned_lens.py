"""Tuned lenses: how they are trained, and what they are worth."""

from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from torch import Tensor, nn

import pyengine
from pyengine import Corpus, PyengineError
from pyengine.embedded import EXCERPT
from pyengine.readout import Readout
from pyengine.shortcuts.evaluate import evaluate
from pyengine.shortcuts.fit import fit_shortcuts
from pyengine.shortcuts.lens import final_readout
from pyengine.shortcuts.linear_map import LinearMap
from pyengine.shortcuts.translators import Training, train_translators
from pyengine.shortcuts.tuned_lens import train_tuned_lens, training_states

QUICK = Training(epochs=3, batch_rows=16)


@pytest.fixture(scope="module")
def model() -> pyengine.Model:
    return pyengine.load((tiny_model("gpt2"), None))


@pytest.fixture(scope="module")
def read(model: pyengine.Model) -> Readout:
    return final_readout(model, "decoder")


@pytest.fixture(scope="module")
def states() -> Tensor:
    return torch.randn(40, 4, 20, generator=torch.Generator().manual_seed(0))


def same(a: LinearMap, b: LinearMap) -> bool:
    assert a.weight is not None and a.bias is not None
    assert b.weight is not None and b.bias is not None
    return torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias)


def by_hand(model: pyengine.Model, x: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Train one translator as tuned-lens does, with torch's modules; 3 epochs of 3 steps."""
    hf: Any = model.hf
    translator = nn.Linear(20, 20)
    nn.init.zeros_(translator.weight)
    nn.init.zeros_(translator.bias)
    optimizer = torch.optim.SGD(
        translator.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3
    )
    generator, done = torch.Generator().manual_seed(0), 0
    for _ in range(3):
        order = torch.randperm(40, generator=generator)
        for rows in (order[:16], order[16:32], order[32:]):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (1 - done / 9)
            own = hf.lm_head(hf.transformer.ln_f(last[rows])).detach().softmax(1)
            mapped = hf.lm_head(hf.transformer.ln_f(x[rows] + translator(x[rows])))
            loss = nn.functional.kl_div(mapped.log_softmax(1), own, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(translator.parameters(), 1.0)
            optimizer.step()
            done += 1
    hf.zero_grad()
    return torch.eye(20) + translator.weight.detach(), translator.bias.detach()


def test_training_is_that_of_the_published_lenses(
    model: pyengine.Model, read: Readout, states: Tensor
) -> None:
    found = train_translators(read, states, Training("sgd", epochs=3, batch_rows=16), layers=[1])
    weight, bias = by_hand(model, states[:, 1], states[:, 3])
    assert (weight - torch.eye(20)).abs().max() > 0.01
    torch.testing.assert_close(found[1].weight, weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[1].bias, bias, rtol=1e-4, atol=1e-6)


def test_a_layer_is_trained_alike_whatever_else_is(read: Readout, states: Tensor) -> None:
    every = train_translators(read, states, QUICK)
    alone = train_translators(read, states, QUICK, layers=[2])
    assert sorted(every) == [0, 1, 2]
    assert same(every[2], alone[2])
    other = train_translators(read, states, Training(epochs=3, batch_rows=16, seed=1), layers=[2])
    assert not same(other[2], alone[2])


def test_training_starts_at_the_logit_lens(read: Readout, states: Tensor) -> None:
    found = train_translators(read, states, Training(lr=1e-12, epochs=1))[0]
    torch.testing.assert_close(found.weight, torch.eye(20), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.bias, torch.zeros(20), rtol=0, atol=1e-6)


def test_every_row_is_seen_in_every_epoch(read: Readout, states: Tensor) -> None:
    seen: list[tuple[int, int]] = []
    train_translators(read, states, QUICK, layers=[0], on_progress=lambda *at: seen.append(at))
    assert seen == [(step, 9) for step in range(1, 10)]  # 40 rows: 16, 16 and 8


def test_the_model_and_the_caller_are_left_alone(
    model: pyengine.Model, read: Readout, states: Tensor
) -> None:
    expected = train_translators(read, states, QUICK, layers=[0])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        inside = train_translators(read, states.clone(), QUICK, layers=[0])
    assert same(inside[0], expected[0])
    assert all(parameter.grad is None for parameter in model.hf.parameters())
    assert expected[0].weight is not None and not expected[0].weight.requires_grad


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"optimizer": "lion"}, "unknown optimizer 'lion'; known are: adam, sgd"),
        ({"epochs": 0}, "epochs must be a whole number from 1 on, not 0"),
        ({"lr": 0.0}, r"lr must be above 0, got 0\.0"),
        ({"clip": float("nan")}, "clip must be above 0, got nan"),
        ({"weight_decay": -1.0}, r"weight_decay must be at least 0, got -1\.0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(PyengineError, match=named):
        Training(**settings)


def units(n: int) -> Corpus:
    generator = torch.Generator().manual_seed(n)
    lengths = torch.randint(3, 9, (n,), generator=generator).tolist()
    return Corpus.from_token_ids(
        [torch.randint(3, 97, (length,), generator=generator).tolist() for length in lengths]
    )


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
def test_it_is_trained_on_the_rows_of_the_fit(family: str) -> None:
    """The maps that these rows give are those of the fit."""
    model, corpus = pyengine.load((tiny_model(family), None)), units(80)
    settings: dict[str, Any] = {"tokens": "all", "n_validation": 20, "seed": 5, "mask": False}
    shortcuts = fit_shortcuts(model, corpus, **settings)
    stack = shortcuts.stacks[-1]
    states = training_states(shortcuts, model, corpus, stack)
    last = shortcuts.n_layers(stack)
    assert states.shape[1] == last + 1
    for layer in range(last):
        x, y = states[:, layer].double(), states[:, last].double()
        expected = torch.linalg.lstsq(x, y, driver="gelsd").solution.t().float()
        found = shortcuts.map(layer, stack=stack).weight
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    lens = train_tuned_lens(shortcuts, model, corpus, QUICK)
    assert sorted(lens) == list(range(last))


def test_another_corpus_or_layer_is_refused(model: pyengine.Model) -> None:
    shortcuts = fit_shortcuts(model, units(40), tokens="all", n_validation=10)
    with pytest.raises(PyengineError, match="the corpus is not the one that was fitted on"):
        train_tuned_lens(shortcuts, model, units(41), QUICK)
    with pytest.raises(PyengineError, match="layer 3 is out of range; 0 to 2 can be trained"):
        train_tuned_lens(shortcuts, model, units(40), QUICK, layers=[3])
    other = pyengine.load((tiny_model("gpt2", seed=1), None))
    with pytest.raises(PyengineError, match="belong to another model"):
        train_tuned_lens(shortcuts, other, units(40), QUICK)


@pytest.mark.slow
def test_it_is_closer_to_the_model_than_least_squares() -> None:
    """On rows that neither was fitted on, of a trained model."""
    model = pyengine.load("demo")
    corpus = Corpus.from_wikitext(EXCERPT, max_units=150)
    shortcuts = fit_shortcuts(model, corpus, tokens="all", n_train=110, n_validation=40)
    lens = train_tuned_lens(shortcuts, model, corpus, Training(lr=1e-2, epochs=8, batch_rows=128))
    scores = evaluate(shortcuts, model, mappings=("id", "affine"), extra={"tuned": lens})
    assert scores.layers is not None
    kl = {
        name: [row["kl"] for row in scores.layers.to_pylist() if row["mapping"] == name][:-1]
        for name in ("id", "affine", "tuned")
    }
    assert len(kl["tuned"]) == 4
    for tuned, affine, identity in zip(kl["tuned"], kl["affine"], kl["id"], strict=True):
        assert tuned < 0.95 * affine < identity
