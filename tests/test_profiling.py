"""The profile of a search: its rows, that they add up, and that it changes nothing."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from command_line import Run
from tiny_models import FAMILIES, tiny_model, word_tokenizer

import pyengine
from pyengine import engine, forward, ops, peaks, stopwatch
from pyengine.floors import BodyShape, whole
from pyengine.peaks import Peak
from pyengine.profiling import FLOORS, Profile, profile_search
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


def test_command(run: Run, model: Path, corpus: Path) -> None:
    options = ("bench", "--profile", "--model", model, "--corpus", corpus, "--units", 3, "--k", 2)
    shown = run(*options)
    assert shown.code == 0
    assert all(name in shown.out for name in (*ROWS, "× floor", "tokens/s", "measured here"))
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
    assert found.busy is not None and 0 < found.busy <= 1
    assert torch.equal(found.result.scores, pyengine.trigger_examples(model, corpus, 4).scores)
