"""A tokenizer that waits for the computing beside it."""

import itertools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE
from tiny_models import tiny_model, word_tokenizer

import pyengine
from pyengine import Corpus, tokenizing
from pyengine.capture import Capture
from pyengine.extraction import head_start
from pyengine.models import Model

CHUNK = 7  # units that are tokenised together
SMALL: dict[str, Any] = {"batch_tokens": 48, "block_tokens": 60}


class Together:
    """Turns overlap on; the tokenizer waits in the middle until blocks were computed.

    Args:
        patch: undone at the end of the test.
        after: the chunk before which it waits.
        error: how it fails there.

    Attributes:
        early: batches that were computed before the last text was tokenised.
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, after: int = 9, error: Exception | None = None
    ) -> None:
        self.early = 0
        self._computed, self._ended = threading.Event(), False
        patch.setattr(head_start, "OVERLAP", {"cpu": True, "cuda": True})
        # Three segments: rows end in the middle of blocks, too.
        patch.setattr(head_start, "ROW_SECONDS", 3)
        patch.setattr(head_start, "time", SimpleNamespace(monotonic=itertools.count().__next__))
        patch.setattr(tokenizing, "CHUNK_UNITS", CHUNK)
        self._patch_encoder(patch, after, error)
        self._patch_capture(patch)

    def _patch_encoder(
        self, patch: pytest.MonkeyPatch, after: int, error: Exception | None
    ) -> None:
        encoder, calls = tokenizing._encoder, itertools.count(1)

        def watched(tokenizer: Any) -> Callable[[list[str]], list[list[int]]]:
            encode = encoder(tokenizer)

            def call(texts: list[str]) -> list[list[int]]:
                if next(calls) == after:
                    assert self._computed.wait(PATIENCE), "nothing is computed meanwhile"
                    if error is not None:
                        raise error
                self._ended = len(texts) < CHUNK
                return encode(texts)

            return call

        patch.setattr(tokenizing, "_encoder", watched)

    def _patch_capture(self, patch: pytest.MonkeyPatch) -> None:
        run = Capture.run

        def watched(capture: Capture, *batches: Any) -> None:
            run(capture, *batches)
            self.early += not self._ended
            self._computed.set()

        patch.setattr(Capture, "run", watched)


def assert_no_thread_is_left() -> None:
    assert not any(thread.name == "pyengine read-ahead" for thread in threading.enumerate())


def texts() -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(f"w{i}" for i in rng.integers(0, 80, rng.integers(1, 14))) for _ in range(115)]


def corpus() -> Corpus:
    return Corpus.from_texts(texts())


def model(family: str = "gpt2", device: str = "cpu") -> Model:
    return pyengine.load((tiny_model(family).to(device), word_tokenizer()))


def search(family: str = "gpt2", device: str = "cpu", **more: Any) -> pyengine.TriggerExamples:
    settings = {"k": 6, "sign": "both", **SMALL, **more}
    return pyengine.trigger_examples(model(family, device), corpus(), **settings)
