"""Estimates: what they count is exact, what they extrapolate is a line, and nothing is kept."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import FAMILIES, VOCAB, tiny_model, word_tokenizer

import pyengine
from pyengine import estimates
from pyengine.cli.estimate_view import duration, print_estimate
from pyengine.errors import PyengineError
from pyengine.estimates import Estimate, Measured, estimate
from pyengine.facts import Fact
from pyengine.samples import FactParts, TokenParts
from pyengine.scale.work import Work
from pyengine.store import TokenStore, tokenize

LENGTHS = np.random.default_rng(0).integers(1, 31, 400).tolist()
FACTS = [
    Fact(
        f"f{i}", f"r{i % 3}", "", f"w{10 + i}", tuple(f"w{i} w{j} [MASK]" for j in range(1 + i % 2))
    )
    for i in range(12)
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "SAMPLE_SECONDS", 0.02)


def tiny(family: str = "gpt2") -> pyengine.Model:
    return pyengine.load((tiny_model(family), word_tokenizer()))


def store() -> TokenStore:
    rng = np.random.default_rng(1)
    return tokenize(
        pyengine.Corpus.from_token_ids([rng.integers(4, VOCAB, n).tolist() for n in LENGTHS]),
        max_tokens=32,
    )


WORKS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "triggers": (pyengine.trigger_examples, (4,), {"batch_tokens": 256, "block_tokens": 1000}),
    "predictions": (pyengine.ffn_predictions, ("layer",), {"batch_tokens": None}),
    "cache": (pyengine.cache_activations, (["blocks.0.mlp.hook_post"],), {}),
    "extract": (
        pyengine.extract,
        ({"blocks.*.mlp.hook_post": [pyengine.StreamingTopK(k=3, n_keys=3 * 37)]},),
        {},
    ),
}


@pytest.mark.parametrize("name", WORKS)
def test_counts_are_those_of_the_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    function, arguments, settings = WORKS[name]
    model, said = tiny(), list[str]()
    work = Work(function, model, store(), arguments, settings)
    found = estimate(work, model, on_sample=said.append)
    function(model, store(), *arguments, out=tmp_path / "run", **settings)
    real = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert (found.unit, found.size, found.n_units) == ("tokens", sum(LENGTHS), len(LENGTHS))
    assert found.cost == real["n_computed"]
    assert 0 < found.seconds.low <= found.seconds.value <= found.seconds.high
    assert found.rate > 0 and found.peak_host > 1e6 and found.peak_device is None
    assert 0 < found.samples[0] < found.samples[1] <= sum(LENGTHS)
    assert said and found.plan is not None and found.function == function.__name__
    assert not list((tmp_path / "temporary").iterdir())


def test_disk_of_predictions_is_near_that_of_the_run(tmp_path: Path) -> None:
    model = tiny()
    work = Work(pyengine.ffn_predictions, model, store(), (), {"position": "all"})
    found = estimate(work, model)
    pyengine.ffn_predictions(model, store(), position="all", out=tmp_path / "run")
    size = sum(file.stat().st_size for file in (tmp_path / "run").rglob("*") if file.is_file())
    assert 0.5 * size < found.disk < 2 * size


def test_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    unknown = Fact("none", "r0", "", "no such word", ("w1 [MASK]",))
    work = Work(pyengine.fact_neurons, model, [*FACTS, unknown], (), {"steps": 2})
    found = estimate(work, model)
    assert (found.unit, found.size, found.cost) == ("facts", 12, 18)
    assert found.n_units is None and found.plan is not None and found.disk > 0
    assert found.seconds.low > 0


def test_extrapolation_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for each run and a millisecond for each computed token."""
    asked = list[int]()

    def measured(sample: Any, model: Any, report: Any) -> Measured:
        asked.append(sample.size)
        return Measured(0.5 + sample.cost / 1000, 100 + 7 * sample.size)

    monkeypatch.setattr(estimates, "_measured", measured)
    monkeypatch.setattr(estimates, "SAMPLE_SECONDS", 1.5)
    model = tiny()
    found = estimate(Work(pyengine.ffn_predictions, model, store()), model)
    assert found.seconds == pytest.approx((0.5 + found.cost / 1000,) * 3)
    assert found.rate == pytest.approx(1000 * found.size / found.cost)
    assert found.disk == 100 + 7 * found.size
    assert max(asked) < found.size


@pytest.mark.parametrize(
    ("points", "fixed", "slope"),
    [
        ([(10, 2.0), (30, 4.0)], 1.0, 0.1),
        ([(10, 2.0), (30, 2.0)], 0.0, 2 / 30),  # took no longer
        ([(10, 1.0), (30, 6.0)], 0.0, 0.2),  # would have begun before zero
        ([(10, 2.0), (10, 3.0)], 0.0, 0.3),  # one size
    ],
)
def test_line(points: Any, fixed: float, slope: float) -> None:
    assert estimates._line(points) == pytest.approx((fixed, slope))


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_are_from_all_over_the_corpus(family: str) -> None:
    model = tiny(family)
    parts = TokenParts(Work(pyengine.trigger_examples, model, store()), model)
    whole = store()
    few = parts.sample(800)
    assert isinstance(few.work, Work) and isinstance(few.work.corpus, TokenStore)
    chosen = few.work.corpus
    assert few.size == chosen.n_tokens and 700 <= few.size <= 800 + 8 * 31
    units = [whole.unit_tokens(i).tolist() for i in range(whole.n_units)]
    at = [units.index(chosen.unit_tokens(i).tolist()) for i in range(3)]
    last = units.index(chosen.unit_tokens(chosen.n_units - 1).tolist())
    assert at == [0, 1, 2] and last > 0.85 * len(units)
    everything = parts.sample(10**9)
    assert everything.size == sum(LENGTHS) and everything.cost == parts.cost
    assert 1 <= parts.sample(1).size <= 8 * 31


def test_samples_of_facts() -> None:
    model = tiny()
    parts = FactParts(Work(pyengine.fact_neurons, model, FACTS), model)
    few = parts.sample(4)
    assert isinstance(few.work, Work)
    chosen: Any = few.work.corpus
    assert few.size == 4 and few.cost == sum(len(fact.prompts) for fact in chosen)
    assert len({fact.relation for fact in chosen}) > 1
    assert parts.sample(99).cost == parts.cost


def test_empty_corpus_is_refused() -> None:
    model = tiny()
    nothing = TokenStore.in_memory(
        np.zeros(0, np.uint16), np.zeros(1, np.int64), store().report, False
    )
    with pytest.raises(PyengineError, match="empty"):
        estimate(Work(pyengine.trigger_examples, model, nothing), model)


@pytest.fixture
def found() -> Estimate:
    model = tiny()
    return estimate(Work(pyengine.trigger_examples, model, store(), (4,)), model)


def test_view(found: Estimate, capsys: pytest.CaptureFixture[str]) -> None:
    print_estimate(found, as_json=False)
    shown = capsys.readouterr().out
    for part in (
        f"{found.size:,} tokens in 400 units",
        "about",
        "one worker",
        "heaps",
        "checkpoint",
    ):
        assert part in shown
    print_estimate(found, as_json=True)
    figures = json.loads(capsys.readouterr().out)
    assert figures["seconds"]["low"] == found.seconds.low and figures["size"] == found.size
    assert figures["plan"]["device"][1] == {"what": "heaps", "n_bytes": 3552, "bound": False}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.123, "0.12 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (61, "1 min 1 s"),
        (5025, "1 h 23 min"),
        (86_400 * 4 + 7300, "4 d 2 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
