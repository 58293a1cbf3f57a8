"""What stops tokenising beside computing: an error on either side ends both, as it always did."""

import itertools
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, assert_one_line
from overlap_helpers import (
    SMALL,
    Together,
    assert_no_thread_is_left,
    corpus,
    model,
    search,
    texts,
)
from patience import PATIENCE
from tiny_models import tiny_model, word_tokenizer

import pyengine
from pyengine import Corpus, PyengineError, tokenizing
from pyengine.capture import Capture
from pyengine.extraction import run as extraction_run
from pyengine.store import TokenStore, tokenize_ahead


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
        if next(calls) == 1:  # the tokenizer waits for no more than the first
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


def test_too_many_tokens_are_refused(
    together: Callable[..., Together], monkeypatch: pytest.MonkeyPatch
) -> None:
    together(after=10**9)  # it does not wait for what is never computed
    monkeypatch.setattr(extraction_run, "MAX_IDS", 300)
    with pytest.raises(PyengineError, match="tokens are too many for one shard"):
        search()


@contextmanager
def descriptors_left(n: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + n, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_chunks_take_few_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "CHUNK_UNITS", 1)
    stores = tokenize_ahead(corpus(), word_tokenizer(), max_tokens=99, cache_dir=tmp_path)
    with descriptors_left(40), closing(stores):
        first = next(stores)
        for thread in threading.enumerate():
            if thread.name == "pyengine read-ahead":
                thread.join(PATIENCE)  # it waits for nobody
        whole = [first, *stores][-1]
    assert whole.complete and whole.n_units == len(texts())


@pytest.mark.parametrize("where", ["tokenising", "computing"])
def test_an_interrupt_before_the_run_exists_is_not_said_to_be_saved(
    where: str,
    together: Callable[..., Together],
    run: Run,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together()
    compute = Capture.run

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    def compute_and_stop(*given: Any) -> None:
        compute(*given)  # the tokenizer waits for it
        stop()

    path, out = tmp_path / "corpus.txt", tmp_path / "run"
    path.write_text("\n".join(texts()))
    if where == "tokenising":
        monkeypatch.setattr(tokenizing, "_encoder", lambda _: stop)
    else:
        monkeypatch.setattr(Capture, "run", compute_and_stop)
    outcome = run("triggers", model, path, "--out", out, "--batch-tokens", 48, "--block-tokens", 60)
    assert_one_line(outcome, 130, "interrupted; nothing was saved", "run the same command again")
    assert not out.exists()
