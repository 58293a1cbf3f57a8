"""The reducer examples find what `trigger_examples` finds in the same sentences."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pyengine
from pyengine.embedded import MODEL
from pyengine.reducers.topk import TopK
from pyengine.store import tokenize

EXAMPLES = Path(__file__).parent.parent / "examples"
LAYER, K = 2, 5
TOLERANCE = 1e-5  # batches of another shape, and TransformerLens' own attention


def run(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run an example, and return what its main function returns."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module(name).main()


def check(found: TopK, expected: pyengine.TriggerExamples, layer: int, first: int = 0) -> None:
    """Compare with k + 1 expected entries; places where no neighbour is as good.

    Args:
        found: of the example, k entries of each key.
        expected: of `trigger_examples`.
        layer: to compare with.
        first: position of the first content token in the example.
    """
    scores = torch.as_tensor(expected.scores[layer])
    assert found.scores.shape == scores[:, :K].shape
    assert (found.scores - scores[:, :K]).abs().max() <= TOLERANCE
    apart = (scores[:, :-1] - scores[:, 1:]) > 2 * TOLERANCE
    sure = apart & torch.cat([torch.ones(len(scores), 1, dtype=torch.bool), apart[:, :-1]], 1)
    assert sure.float().mean() > 0.6  # others tie: sentences that begin alike
    units, positions = (
        torch.as_tensor(np.asarray(column[layer])[:, :K])
        for column in (expected.units, expected.positions)
    )
    assert torch.equal(found.units[sure], units[sure])
    assert torch.equal(found.positions[sure] - first, positions[sure])


def expected(monkeypatch: pytest.MonkeyPatch, **how: Any) -> tuple[pyengine.TriggerExamples, Any]:
    """Return what the engine finds in the sentences of the examples, and its token store."""
    monkeypatch.syspath_prepend(EXAMPLES)
    texts = importlib.import_module("reducer_texts").sentences()
    model = pyengine.load(MODEL)
    store = tokenize(pyengine.Corpus.from_texts(texts), model.tokenizer, max_tokens=120)
    assert store.n_units == len(texts) == 48
    return pyengine.trigger_examples(model, store, k=K + 1, activation="model", **how), store


def test_forward_hook(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    topk, moments = run("reducer_forward_hook", monkeypatch)
    printed = capsys.readouterr().out
    triggers, store = expected(monkeypatch)
    check(topk.compute(), triggers, LAYER)
    found = moments.compute()
    assert (found.count == store.n_tokens).all() and (found.n_nan == 0).all()
    assert torch.equal(found.max, topk.compute().scores[:, 0])
    assert (found.histogram.sum(1) == store.n_tokens).all()
    means = pyengine.mean_activations(pyengine.load(MODEL), store)
    assert (found.mean - means[LAYER]).abs().max() <= TOLERANCE
    best = triggers.examples(LAYER, 0)[0]
    score, text = printed.splitlines()[1].split(maxsplit=1)
    assert float(score) == pytest.approx(best.score, abs=1e-4)
    assert text.replace("[", "").removesuffix("]") == best.text  # the brackets mark the token
    assert f"over {store.n_tokens} tokens" in printed


def test_transformer_lens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformer_lens")
    reducers = run("reducer_transformer_lens", monkeypatch)
    triggers, _ = expected(monkeypatch, bos=True)
    assert list(reducers) == [f"blocks.{layer}.mlp.hook_post" for layer in range(4)]
    for layer, topk in enumerate(reducers.values()):
        check(topk.compute(), triggers, layer, first=1)
    assert capsys.readouterr().out.count("<|endoftext|>") == 3 * K


def test_nnsight(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nnsight")
    found = run("reducer_nnsight", monkeypatch).compute()
    triggers, store = expected(monkeypatch, per="prefix")
    assert (found.scores - torch.as_tensor(triggers.scores[LAYER])[:, :K]).abs().max() <= TOLERANCE
    for key in range(len(found.units)):
        places = zip(found.units[key].tolist(), found.positions[key].tolist(), strict=True)
        prefixes = {tuple(store.unit_tokens(unit)[: position + 1]) for unit, position in places}
        assert len(prefixes) == K
    starts = store.prefix_starts()
    assert (starts > 0).sum() > 20  # many sentences do begin alike
    repeats = found.positions < torch.from_numpy(starts)[found.units]
    assert repeats.float().mean() < 0.01  # but for the last bits, the first occurrence is kept
    assert "key 2" in capsys.readouterr().out
