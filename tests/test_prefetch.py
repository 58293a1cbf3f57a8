"""Reading ahead: the same bits, a bounded distance, errors unchanged, and no thread left behind."""

import itertools
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from patience import PATIENCE
from tiny_models import VOCAB, tiny_model

import pyengine
from pyengine import Corpus, competition, engine, forward, segments
from pyengine.batches import Batch, form_batches
from pyengine.capture import Capture
from pyengine.forward import copied_ahead, on_device
from pyengine.prefetch import read_ahead
from pyengine.store import tokenize

SETTINGS: dict[str, Any] = {"k": 6, "batch_tokens": 48, "block_tokens": 60, "sign": "both"}


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not any(thread.name == "pyengine read-ahead" for thread in threading.enumerate())


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENTS_AHEAD", {"cpu": 2, "cuda": 2})


def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    return Corpus.from_token_ids(
        [rng.integers(1, VOCAB, rng.integers(1, 14)).tolist() for _ in range(90)]
    )


def search(family: str = "gpt2", device: str = "cpu", **more: Any) -> pyengine.TriggerExamples:
    model = pyengine.load((tiny_model(family).to(device), None))
    return pyengine.trigger_examples(model, corpus(), **SETTINGS | more)


def tensors_equal(a: pyengine.TriggerExamples, b: pyengine.TriggerExamples) -> bool:
    mine, theirs = a.tensors(), b.tensors()
    return all(mine[name].tobytes() == theirs[name].tobytes() for name in mine)


class Counted:
    """Counts up, and remembers how far it has come and who closed it."""

    def __init__(self, error: BaseException | None = None, n: int = 10**9) -> None:
        self.made, self.one_more = 0, threading.Semaphore(0)
        self.closed_by: int | None = None
        self._error, self._n = error, n

    def items(self) -> Generator[int]:
        try:
            for item in range(self._n):
                self.made += 1
                self.one_more.release()
                yield item
            if self._error is not None:
                raise self._error
        finally:
            self.closed_by = threading.get_ident()


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("n", [0, 1, 40])
def test_items_come_in_order(n: int, depth: int) -> None:
    assert list(read_ahead(Counted(n=n).items(), depth)) == list(range(n))


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("taken", [1, 3])
def test_it_reads_ahead_so_far_and_no_further(depth: int, taken: int) -> None:
    counted = Counted()
    with closing(read_ahead(counted.items(), depth)) as items:
        assert list(itertools.islice(items, taken)) == list(range(taken))
        for _ in range(taken + depth):
            assert counted.one_more.acquire(timeout=PATIENCE), "it does not read ahead"
    assert counted.made == taken + depth
    assert counted.closed_by not in (None, threading.get_ident())


@pytest.mark.parametrize("error", [OSError("no disk"), KeyboardInterrupt()])
def test_an_error_arrives_unchanged_and_in_its_place(error: BaseException) -> None:
    items = read_ahead(Counted(error, n=3).items(), 2)
    assert list(itertools.islice(items, 3)) == [0, 1, 2]
    with pytest.raises(type(error)) as caught:
        next(items)
    assert caught.value is error


def test_nothing_starts_before_the_first_item() -> None:
    counted = Counted()
    read_ahead(counted.items(), 2).close()
    assert counted.made == 0


@pytest.mark.parametrize(
    ("family", "more"), [("gpt2", {}), ("gpt2", {"per": "prefix"}), ("bert", {}), ("t5", {})]
)
@pytest.mark.parametrize("n_batches", [1, 3])
def test_a_search_ahead_gives_the_same_bits(
    family: str, more: dict[str, Any], n_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(family, **more)
    monkeypatch.setattr(segments, "SEGMENTS_AHEAD", {"cpu": 3})
    monkeypatch.setattr(segments, "SEGMENT_BATCHES", {"cpu": n_batches})
    assert tensors_equal(search(family, **more), whole)


@pytest.mark.parametrize("stop_after", [1, 2, 5, 9])
@pytest.mark.parametrize("during", ["a segment", "the forward pass"])
def test_an_interrupt_neither_loses_nor_doubles_a_segment(
    stop_after: int, during: str, ahead: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, run = itertools.count(1), Capture.run

    def interrupt(*_: Any) -> None:
        if next(calls) == stop_after:
            raise KeyboardInterrupt

    def interrupted_run(self: Capture, batch: Batch, decoder: Batch | None = None) -> None:
        run(self, batch, decoder)
        interrupt()

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if during == "the forward pass":
            patch.setattr(Capture, "run", interrupted_run)
        search(out=tmp_path / "run", on_progress=interrupt if during == "a segment" else None)
    resumed, whole = search(out=tmp_path / "run"), search()
    assert tensors_equal(resumed, whole)
    assert resumed.record["n_tokens"] == whole.record["n_tokens"]


def test_an_error_in_forming_stops_the_search(
    ahead: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, form, blocks = OSError("the store is gone"), engine.model_batches, itertools.count(1)

    def broken(*arguments: Any, **options: Any) -> Any:
        if next(blocks) == 4:
            raise error
        return form(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
        patch.setattr(engine, "model_batches", broken)
        search(out=tmp_path / "run")
    assert caught.value is error
    assert tensors_equal(search(out=tmp_path / "run"), search())


def test_the_thread_copies_what_the_model_reads(
    ahead: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = forward.to_device
    by_caller: list[Any] = []
    by_thread: list[Any] = []

    def watched(array: Any, device: torch.device) -> torch.Tensor:
        here = threading.current_thread() is threading.main_thread()
        (by_caller if here else by_thread).append(array)
        return copied(array, device)

    monkeypatch.setattr(forward, "to_device", watched)
    monkeypatch.setattr(competition, "to_device", watched)
    search("bert", layers=[0])
    assert by_thread and not by_caller


def batch() -> Batch:
    store = tokenize(Corpus.from_token_ids([[5, 6, 7], [8]]), max_tokens=9)
    return next(form_batches(store, (0, 2), batch_tokens=99))


def test_a_copy_is_used_and_goes_no_further_than_its_batch() -> None:
    cpu = torch.device("cpu")
    plain, ready = batch(), copied_ahead(batch(), cpu)
    for name in ("input_ids", "attention_mask", "ids"):
        assert on_device(ready, name, cpu) is ready.copies[name]
        assert np.array_equal(ready.copies[name].numpy(), getattr(plain, name))
    assert not ready.rows(np.array([1])).copies
    assert not ready.shifted(0).copies


def test_without_room_a_batch_is_copied_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(forward, "to_device", full)
    given = batch()
    assert copied_ahead(given, torch.device("cpu")) is given


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["gpt2", "bert", "gpt_neo", "t5"])
@pytest.mark.parametrize("stream", [False, True])
def test_on_cuda_too(family: str, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BATCHES", {"cuda": 2})
    with torch.cuda.stream(torch.cuda.Stream() if stream else None):
        ahead = search(family, "cuda")
        monkeypatch.setattr(segments, "SEGMENTS_AHEAD", {"cuda": 0})
        assert tensors_equal(search(family, "cuda"), ahead)
