"""The pass: what happens when memory runs out, or a buffer overflows, inside a segment."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import VOCAB, tiny_model

import pyengine
from pyengine import Corpus, PyengineError
from pyengine.analyses.compare import compare
from pyengine.batches import Batch
from pyengine.capture import Capture
from pyengine.extraction.feeds import Feed

SETTINGS: dict[str, Any] = {"k": 5, "batch_tokens": 80, "block_tokens": 200}


def corpus() -> Corpus:
    rng = np.random.default_rng(2)
    return Corpus.from_token_ids(
        [rng.integers(1, VOCAB, rng.integers(1, 14)).tolist() for _ in range(60)]
    )


def search(family: str = "gpt2", **more: Any) -> pyengine.TriggerExamples:
    model = pyengine.load((tiny_model(family), None))
    return pyengine.trigger_examples(model, corpus(), **SETTINGS | more)


def run_out_of_memory(monkeypatch: pytest.MonkeyPatch, most_rows: int) -> list[int]:
    """Let forwards of more rows fail after their first layer was folded in; return their rows."""
    run, failed = Capture.run, []

    def limited(self: Capture, batch: Batch, decoder: Batch | None = None) -> None:
        run(self, batch, decoder)
        if len(batch.units) > most_rows:
            failed.append(len(batch.units))
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Capture, "run", limited)
    return failed


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_out_of_memory_halves_the_rows_and_says_so(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(family)
    failed = run_out_of_memory(monkeypatch, most_rows=3)
    halved = search(family)
    assert failed and max(failed) > 6
    assert whole.record["exact"] is True
    assert halved.record["exact"] is False
    assert halved.record["n_tokens"] == whole.record["n_tokens"]
    for layer in compare(whole, halved):
        assert layer.band < 1e-5
    for row in halved.units.reshape(-1, 5).tolist():
        kept = [unit for unit in row if unit >= 0]
        assert len(set(kept)) == len(kept), "a unit was kept twice"


def test_a_unit_that_does_not_fit_is_an_error_and_loses_nothing(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        run_out_of_memory(patch, most_rows=0)
        with pytest.raises(PyengineError, match="out of memory on a single unit"):
            search(out=tmp_path / "run")
    assert torch.equal(search(out=tmp_path / "run").scores, search().scores)


def test_other_errors_are_not_taken_for_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Capture, "run", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        search()


def test_an_overflow_replays_the_segment_carefully(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search(per="token")
    observe = Feed.observe
    overflows: list[bool] = []
    careful_folds: list[bool] = []

    def sometimes(self: Feed) -> bool:
        # Every segment reports an overflow once, as CUDA does when a buffer was too short.
        overflows.append(not (overflows and overflows[-1]))
        return overflows[-1]

    def watched(self: Feed, *arguments: Any, seen: int, careful: bool) -> None:
        careful_folds.append(careful)
        observe(self, *arguments, seen=seen, careful=careful)

    monkeypatch.setattr(Feed, "take_overflow", sometimes)
    monkeypatch.setattr(Feed, "observe", watched)
    replayed = search(per="token")
    assert any(overflows) and any(careful_folds) and not all(careful_folds)
    assert torch.equal(whole.scores, replayed.scores)
    assert torch.equal(whole.units, replayed.units)
    assert replayed.record["n_tokens"] == whole.record["n_tokens"]
    assert replayed.record["exact"] is True


def test_nan_is_counted_once_even_when_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned() -> pyengine.TriggerExamples:
        hf = tiny_model("gpt2")
        with torch.no_grad():
            hf.transformer.h[0].mlp.c_fc.bias[3] = -torch.inf  # gelu(-inf) is NaN
        return pyengine.trigger_examples(pyengine.load((hf, None)), corpus(), **SETTINGS)

    n_tokens = poisoned().record["n_tokens"]
    assert poisoned().record["n_nan"][0] == n_tokens
    run_out_of_memory(monkeypatch, most_rows=3)
    assert poisoned().record["n_nan"][0] == n_tokens
