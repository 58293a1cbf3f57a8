"""The profile of a search: its rows, that they add up, and that it changes nothing."""

import json
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command_line import Run
from tiny_models import FAMILIES, tiny_model, word_tokenizer

import pyengine
from pyengine import engine, forward, ops, peaks, stopwatch
from pyengine.analyses import triggers
from pyengine.cli import profile_view
from pyengine.floors import BodyShape, whole
from pyengine.peaks import Peak
from pyengine.profiling import (
    FLOORS,
    Idle,
    Profile,
    covered,
    idle_of_cpu,
    idle_of_cuda,
    on_device,
    profile_search,
)
from pyengine.stopwatch import BATCHES, OTHER, ROWS, SAVE, Stopwatch, timed

TEXTS = [" ".join(f"w{(7 * i + j * j) % 90}" for j in range(1 + i % 20)) for i in range(60)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "MATRIX", {"cpu": 64, "cuda": 64})
    monkeypatch.setattr(peaks, "COPY", {"cpu": 1 << 12, "cuda": 1 << 12})


def tiny(family: str) -> pyengine.Model:
    return pyengine.load((tiny_model(family), word_tokenizer()))


@cache
def profile(family: str) -> Profile:
    return profile_search(tiny(family), pyengine.Corpus.from_texts(TEXTS, unit="line"), 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_add_up_to_the_whole_and_the_result_is_the_same(family: str) -> None:
    found = profile(family)
    assert tuple(row.name for row in found.rows) == ROWS
    assert sum(row.seconds for row in found.rows) == pytest.approx(found.seconds)
    assert sum(row.share for row in found.rows) == pytest.approx(1)
    plain = pyengine.trigger_examples(
        tiny(family), pyengine.Corpus.from_texts(TEXTS, unit="line"), 4
    )
    assert torch.equal(found.result.scores, plain.scores)
    assert torch.equal(found.result.units, plain.units)
    assert torch.equal(found.result.positions, plain.positions)
    assert (found.n_tokens, found.n_units) == (plain.record["n_tokens"], len(TEXTS))
    assert found.n_computed == plain.record["n_computed"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_is_measured(family: str) -> None:
    """A function that moved would leave its row empty."""
    assert all(row.seconds > 0 for row in profile(family).rows)


def test_profile_leaves_the_engine_alone() -> None:
    before = [engine.segments, forward.Forward.run, ops.ffn_capture, ops.topk_fold]
    profile.__wrapped__("gpt2")
    with pytest.raises(ZeroDivisionError), timed(Stopwatch(torch.device("cpu"))):
        assert ops.topk_fold is not before[-1]
        _ = 1 / 0
    assert [engine.segments, forward.Forward.run, ops.ffn_capture, ops.topk_fold] == before


def test_innermost_row_gets_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(clock))
    watch = Stopwatch(torch.device("cpu"))
    with watch.row(OTHER), pytest.raises(ZeroDivisionError), watch.row(BATCHES):
        watch.enter(SAVE)
        watch.enter(BATCHES)  # left open by the error
        _ = 1 / 0
    seconds = watch.seconds()
    assert {name: s for name, s in seconds.items() if s} == {
        OTHER: 1.0 + 16.0,
        BATCHES: 2.0 + 8.0,
        SAVE: 4.0,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_floors_are_those_of_the_batches(family: str) -> None:
    found = profile(family)
    model = tiny(family)
    # In one block: all units of a batch are padded to its longest.
    assert found.n_tokens < engine.BATCH_TOKENS["cpu"]
    longest = max(len(text.split()) for text in TEXTS)
    special = len(model.special_tokens())
    lengths = [longest + special] * len(TEXTS)
    slots = [longest + 1] * len(TEXTS) if model.family.encoder_decoder else None
    costs = BodyShape.of(model.hf).costs(lengths, slots, to_last_activation=True)
    of_row = {row.name: row for row in found.rows}
    for part, row in FLOORS.items():
        floor = costs[part].seconds(found.peak, 4)
        assert of_row[row].floor_s == pytest.approx(floor)
        assert of_row[row].of_floor == pytest.approx(of_row[row].seconds / floor)
    less = whole(costs).flops
    assert less < whole(BodyShape.of(model.hf).costs(lengths, slots)).flops
    assert of_row[OTHER].floor_s is None and of_row[OTHER].of_floor is None


@pytest.mark.parametrize(
    ("intervals", "length"),
    [
        ([], 0),
        ([(3, 5)], 2),
        ([(3, 5), (5, 6)], 3),  # one after the other
        ([(3, 5), (7, 8)], 3),  # a gap
        ([(3, 6), (4, 8)], 5),  # two streams
        ([(3, 9), (4, 5), (6, 7), (8, 10)], 7),  # inside, and beyond
        ([(8, 10), (3, 5), (4, 6)], 5),  # in no order
        ([(-4, -2), (3, 3)], 2),
    ],
)
def test_union_of_intervals(intervals: list[tuple[float, float]], length: float) -> None:
    assert covered(intervals) == length


def event(kind: str, start: float, end: float, named: bool = False) -> Any:
    """Make an event up; times in seconds."""
    return SimpleNamespace(
        device_type=getattr(torch.autograd.DeviceType, kind),
        time_range=SimpleNamespace(start=start * 1e6, end=end * 1e6),
        is_user_annotation=named,
    )


EVENTS = [
    event("CPU", 0, 10),  # a launch
    event("CUDA", 0, 10, named=True),
    event("CUDA", 1, 3),
    event("CUDA", 2, 4),  # a copy beside
    event("CUDA", 6, 7),
]


def test_only_kernels_and_copies_count() -> None:
    assert on_device(EVENTS) == [(1e6, 3e6), (2e6, 4e6), (6e6, 7e6)]


@pytest.mark.parametrize(("events", "idle"), [(EVENTS, 8 - 4), (EVENTS[:2], None)])
def test_idle_is_of_the_run_that_the_profiler_sees(
    monkeypatch: pytest.MonkeyPatch, events: list[Any], idle: float | None
) -> None:
    order: list[str] = []

    class Profiler:
        def __init__(self, activities: object) -> None:
            assert activities == [torch.profiler.ProfilerActivity.CUDA]

        def __enter__(self) -> "Profiler":
            order.append("on")
            return self

        def __exit__(self, *_: object) -> None:
            order.append("off")

        def events(self) -> list[Any]:
            return events

    clock = iter([100.0, 108.0])

    def tick() -> float:
        order.append("clock")
        return next(clock)

    monkeypatch.setattr(torch.profiler, "profile", Profiler)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("wait"))
    monkeypatch.setattr(time, "perf_counter", tick)
    found = idle_of_cuda(lambda: order.append("run"))
    monkeypatch.undo()
    assert order == ["on", "wait", "clock", "run", "wait", "clock", "off"]
    assert (found and found.seconds) == idle
    assert found is None or (found.run_s, found.share) == (8, idle / 8 if idle else None)


def test_idle_of_threads() -> None:
    assert idle_of_cpu(10, 6, 1)[:2] == (4, 10)
    assert idle_of_cpu(10, 12, 2)[:2] == (4, 10)
    assert idle_of_cpu(10, 12, 1).seconds == 0  # a tokenizer's threads beside
    assert idle_of_cpu(10, 6, 1).share == 0.4


def test_a_thread_that_sleeps_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    described = triggers.describe

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.5)
        return described(*args, **kwargs)

    monkeypatch.setattr(triggers, "describe", slow)
    found = profile.__wrapped__("gpt2")
    assert found.idle is not None and found.idle.run_s == found.seconds
    assert 0.25 < found.idle.seconds < found.seconds


@pytest.mark.parametrize("idle", [None, Idle(1.5, 6.0, "taken off")])
def test_idle_is_shown_beside_the_rows(
    capsys: pytest.CaptureFixture[str], idle: Idle | None
) -> None:
    found = profile("gpt2")._replace(idle=idle)
    profile_view.print_profile(found, as_json=True)
    figures = json.loads(capsys.readouterr().out)
    expected = {"seconds": 1.5, "run_s": 6.0, "how": "taken off", "share": 0.25}
    assert figures["idle"] == (expected if idle else None)
    assert sum(row["seconds"] for row in figures["rows"]) == pytest.approx(figures["seconds"])


def test_command(run: Run, model: Path, corpus: Path) -> None:
    options = ("bench", model, "--profile", "--corpus", corpus, "--units", 3, "--k", 2)
    shown = run(*options)
    assert shown.code == 0
    words = ("× floor", "tokens/s", "measured here", "Idle", "taken off")
    assert all(word in shown.out for word in (*ROWS, *words))
    figures = json.loads(run(*options, "--json").out)
    assert [row["name"] for row in figures["rows"]] == list(ROWS)
    assert sum(row["seconds"] for row in figures["rows"]) == pytest.approx(figures["seconds"])
    assert figures["n_units"] == 3 and Peak(**figures["peak"]).flops > 0


@pytest.mark.gpu
def test_profile_on_a_gpu() -> None:
    hf = tiny_model("gpt2").to("cuda")
    model = pyengine.load((hf, word_tokenizer()))
    corpus = pyengine.Corpus.from_texts(TEXTS, unit="line")
    found = profile_search(model, corpus, 4)
    assert sum(row.seconds for row in found.rows) == pytest.approx(found.seconds)
    assert found.idle is not None and 0 < found.idle.seconds < found.idle.run_s
    assert torch.equal(found.result.scores, pyengine.trigger_examples(model, corpus, 4).scores)
