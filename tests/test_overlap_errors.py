"""What stops tokenising beside computing: an error on either side ends both, as it always did."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from overlap_helpers import SMALL, Together, assert_no_thread_is_left, model, search, texts
from tiny_models import tiny_model, word_tokenizer

import pyengine
from pyengine import Corpus, PyengineError
from pyengine.capture import Capture
from pyengine.store import TokenStore


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    assert_no_thread_is_left()


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Together]:
    return partial(Together, monkeypatch)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("of the model's own")])
def test_an_error_in_computing_stops_the_tokenizer(
    error: BaseException,
    together: Callable[..., Together],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched, run, calls = together(), Capture.run, itertools.count(1)

    def failing(capture: Capture, *batches: Any) -> None:
        run(capture, *batches)
        if next(calls) == 3:
            raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
        patch.setattr(Capture, "run", failing)
        search(out=tmp_path / "run", cache_dir=tmp_path / "cache")
    assert caught.value is error and watched.early
    assert not (tmp_path / "run").exists()
    # Either whole, or gone.
    folders = (tmp_path / "cache" / "tokens").iterdir()
    assert all(TokenStore.open(folder).complete for folder in folders)
    search(out=tmp_path / "run", cache_dir=tmp_path / "cache")


def test_an_error_in_tokenising_stops_the_computing(
    together: Callable[..., Together], tmp_path: Path
) -> None:
    watched = together(error=OSError(28, "No space left on device"))
    with pytest.raises(PyengineError, match=r"cannot write the token cache .*No space left"):
        search(out=tmp_path / "run", cache_dir=tmp_path / "cache")
    assert watched.early
    assert not (tmp_path / "run").exists()
    assert not list((tmp_path / "cache" / "tokens").iterdir())


def test_a_source_that_breaks_off_is_named(
    together: Callable[..., Together], tmp_path: Path
) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes("\n".join(texts()).encode() + b"\n\xff\n")
    watched = together()
    with pytest.raises(PyengineError, match=r"corpus\.txt:116: not UTF-8"):
        pyengine.trigger_examples(model(), Corpus.from_path(path), **SMALL)
    assert watched.early


def test_ids_are_checked_before_they_are_fed(together: Callable[..., Together]) -> None:
    small = pyengine.load((tiny_model("gpt2", vocab_size=60), word_tokenizer()))
    known = [f"w{i % 50}" for i in range(200)]
    given = Corpus.from_texts([*known, "w89", *known])
    watched = together(after=20)
    with pytest.raises(PyengineError, match=r"token id 93, but .* has only 60"):
        pyengine.trigger_examples(small, given, **SMALL)
    assert watched.early
