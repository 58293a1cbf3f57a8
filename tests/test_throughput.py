"""The ways that `pyengine bench` compares: all of them find, or run over, the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Run
from tiny_models import FAMILIES, VOCAB, tiny_model

import pyengine
from pyengine.store import TokenStore, tokenize
from pyengine.throughput import Ways, measure


def store() -> TokenStore:
    rng = np.random.default_rng(0)
    units = [rng.integers(4, VOCAB, n).tolist() for n in (3, 9, 1, 14, 9, 2, 30, 5)]
    return tokenize(pyengine.Corpus.from_token_ids(units), max_tokens=32)


@pytest.mark.parametrize("family", FAMILIES)
def test_hooks_find_what_the_search_finds(family: str) -> None:
    model = pyengine.load((tiny_model(family), None))
    ways = Ways(model, store(), k=5, batch_tokens=64)
    by_layer: Any = ways.all()["hooks + topk"]()
    found = pyengine.trigger_examples(model, ways.store, 5, per="token", activation="model")
    assert len(by_layer) == model.n_layers
    for layer, (scores, ids) in enumerate(by_layer):
        torch.testing.assert_close(scores.t(), found.scores[layer], rtol=1e-4, atol=1e-5)
        units, positions = ways.store.locate(ids.t().numpy())
        tied = scores.t().numpy() == 0  # of a ReLU
        same = tied | (found.units[layer].numpy() == units) & (
            found.positions[layer].numpy() == positions
        )
        assert same.mean() > 0.99


@pytest.mark.parametrize("family", FAMILIES)
def test_measure(family: str) -> None:
    model = pyengine.load((tiny_model(family), None))
    timings = measure(Ways(model, store(), k=5, batch_tokens=64), 1, warm_up=False)
    assert [t.name for t in timings] == ["forward", "hooks + topk", "arrival order", "pyengine"]
    assert timings[0].ratio == 1.0 and all(t.wall_s > 0 for t in timings)


def test_command(run: Run, model: Path, corpus: Path) -> None:
    options = ("bench", model, "--corpus", corpus, "--units", 3, "--k", 2)
    figures = json.loads(run(*options, "--json").out)
    assert figures[0]["name"] == "forward" and len(figures) == 4
    assert "computed tokens per real one" in run(*options).out
