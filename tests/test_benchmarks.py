"""Every benchmark at toy size, so that none can rot; no figure is judged here."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import (
    _machine,
    attention,
    compare,
    corpus,
    heap_merge,
    launches,
    triggers,
    values,
)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the results of toy runs out of the repository."""
    monkeypatch.setattr(_machine, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_every_stem_is_listed_and_described() -> None:
    stems = {file.stem for file in (ROOT / "benchmarks").glob("[!_]*.py")}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert all(stem in done.stderr for stem in stems)
    for option in ("-h", "--help"):
        asked = [sys.executable, "-m", "benchmarks", option]
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr
        described = [line.split(None, 1) for line in done.stdout.splitlines()[2:]]
        assert {stem for stem, _ in described} == stems and all(what for _, what in described)
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    assert all(f"python -m benchmarks {stem}" in readme for stem in stems)
    # Each is run below, or in a file of its own.
    assert stems == {
        "accuracy",
        "attention",
        "attribution",
        "compare",
        "corpus",
        "gpu",
        "growth",
        "heads",
        "heap_merge",
        "launches",
        "peers",
        "render",
        "shortcuts",
        "triggers",
        "values",
    }


def test_corpus(capsys: pytest.CaptureFixture[str]) -> None:
    corpus.main(["--batch-tokens", "512", "--block-tokens", "4096"])
    assert "computed per real token" in capsys.readouterr().out


def test_heap_merge(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    heap_merge.main(["--shards", "3", "--keys", "40", "--k", "5", "--rounds", "1", "--save", "toy"])
    assert "merge_heaps" in capsys.readouterr().out
    record = json.loads((results / "toy.json").read_text())
    assert set(record["figures"]["cpu_ms"]) == {"merge_heaps", "pairwise fold", "torch.topk"}
    assert record["command"] == "python -m benchmarks heap_merge " + (
        "--shards 3 --keys 40 --k 5 --rounds 1 --save toy"
    )


@pytest.mark.slow
def test_attention(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], results: Path
) -> None:
    small = {
        "gpt2": {"n_layer": 1, "n_embd": 48, "n_head": 4},
        "bert": {"num_hidden_layers": 1, "hidden_size": 48, "num_attention_heads": 4},
        "t5": {"num_layers": 1, "d_model": 48, "d_kv": 8, "d_ff": 64},
    }
    sizes = {
        family: (kind, {**own, **small[family], "vocab_size": 1000})
        for family, (kind, own) in attention.SIZES.items()
    }
    monkeypatch.setattr(attention, "SIZES", sizes)
    attention.main(["--tokens", "16", "--rounds", "1"])
    assert "gpt2" in capsys.readouterr().out.lower() and not results.exists()
    attention.main(["--tokens", "16", "--rounds", "1", "--save", "toy"])
    assert len(json.loads((results / "toy.json").read_text())["figures"]) == 3 * 4


@pytest.mark.slow
def test_launches(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    launches.main([])
    assert "T5" in capsys.readouterr().out


@pytest.mark.slow
def test_triggers(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    triggers.main(["--families", "gpt2", "--units", "2", "--rounds", "1", "--save", "toy"])
    assert "pyengine" in capsys.readouterr().out
    assert json.loads((results / "toy.json").read_text())["figures"]["gpt2"]
    assert triggers.peak_memory(50) > 1 << 20


@pytest.mark.slow
def test_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], results: Path
) -> None:
    monkeypatch.setattr(values, "QUICK", replace(values.TOY, targets=(3,)))
    values.main(["--quick", "--threads", str(torch.get_num_threads()), "--save", "toy"])
    assert "without its waste" in capsys.readouterr().out
    figures = json.loads((results / "toy.json").read_text())["figures"]
    ways = figures["agreement"]["3 targets"]
    assert set(ways) == {"pyengine", "torch, 16 rows", "torch and numpy, 8 rows"}
    assert all(way["wall_s"] > 0 and way["peak_bytes"] >= 0 for way in ways.values())
    assert len(figures["predictions"]["running times"]) == 5


@pytest.mark.slow
def test_pytest_benchmarks_run() -> None:
    """The smoke run: every function once; those of the peers run in a test file of their own."""
    stems = [stem for stem in compare.stems() if stem != "peers"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-disable"]
        + [f"benchmarks/{stem}.py" for stem in stems],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and "skipped" not in done.stdout
