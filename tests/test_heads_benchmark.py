"""The benchmark of heads at toy size, and its tables; no figure is judged here."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from heads_results_helpers import row, table
from test_gpu_benchmark import TOY as GPU_TOY

from benchmarks import _machine, _render_heads, gpu, heads
from benchmarks._heads_memory import probe_bytes
from benchmarks._heads_probe import agreeing, probe_flops
from benchmarks._heads_procedure import Result
from benchmarks._heads_real import deviations, judged
from benchmarks._render_common import NOT_YET
from pyengine.heads.probe.protocols import Probed
from pyengine.heads.results import HeadResults
from pyengine.heads.results_table import CONCATS


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_machine, "RESULTS", tmp_path)
    return tmp_path


def probed(dev: list[float], test: list[float], epochs: list[int]) -> Probed:
    nothing = np.empty((0, len(dev)), np.int64)
    found = [np.array(one) for one in ([1e-3] * len(dev), dev, test, epochs)]
    return Probed(found[0], found[1], found[2], found[3], nothing, None, None)


def test_vectors_are_drawn_alike() -> None:
    (x, parts), (again, _) = heads.TOY.drawn(), heads.TOY.drawn()
    assert x.shape == (200, 4, 8) and x.dtype == np.float32 and (x == again).all()
    assert {name: len(rows) for name, (rows, _) in parts.items()} == {
        "train": 120,
        "dev": 40,
        "test": 40,
    }
    assert parts["test"][0][0, 0] == 160 and {*parts["train"][1]} == {0, 1, 2}


def test_formulas_and_agreement() -> None:
    """By hand: 2 heads, 3 features, 2 classes, 10 + 3 + 2 sentences."""
    scale = replace(heads.TOY, n_train=10, n_dev=3, n_test=2, heads=2, width=3, n_classes=2)
    found = probed([50.0, 60.0], [40.0, 70.0], [4, 6])
    # 2 · 3 · 2 for logits, as much for their gradients; 4 regularisers.
    assert probe_flops(scale, found) == 10 * 10 * 4 * 24
    features, step, weights = 2 * 15 * 3, 2 * 256 * (3 + 3 * 4 * 2), 6 * 2 * 4 * 2 * 4
    assert probe_bytes(scale) == 4 * (features + step + weights)
    same, other = Result(1e-3, 60.0, 70.0), Result(1e-2, 60.0, 69.5)
    assert agreeing(found, np.array([1]), [same]) == 1
    assert agreeing(found, np.array([1]), [other]) == 0
    with pytest.raises(RuntimeError, match="the probes differ"):
        agreeing(found, np.array([0]), [same])


@pytest.mark.slow
def test_from_the_command_line_to_the_table(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert NOT_YET in _render_heads.heads()
    threads = str(torch.get_num_threads())
    heads.main(["--tiny", "--threads", threads, "--save", "cpu-heads"])
    out = capsys.readouterr().out
    assert "SentEval's procedure" in out and "headless pass" in out and "peak memory" in out
    figures = json.loads((results / "cpu-heads.json").read_text())["figures"]
    assert figures["probe"]["agreeing"] == 2 and figures["probe"]["ratio"] > 0
    assert figures["extract"]["head"]["passes"] > 0
    assert figures["memory"]["formula_bytes"] > 0
    text = _render_heads.heads()
    assert "16 fits **at once**" in text and "vectors of every head, 24 sentences" in text


@pytest.mark.slow
def test_trained_models_on_data(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, sizes = np.random.default_rng(0), {"train": 90, "dev": 30, "test": 40}
    names = {f"stsa.binary.{part}": (2, n) for part, n in sizes.items()}
    names |= {f"TREC.{part}.all": (6, sizes[part]) for part in ("train", "test")}
    for name, (n_classes, n) in names.items():
        lines = [f"{i % n_classes} {'word ' * rng.integers(1, 9)}{i}\n" for i in range(n)]
        (tmp_path / name).write_text("".join(lines))
    given = ["--tiny", "--only", "real", "--threads", str(torch.get_num_threads())]
    heads.main([*given, "--data", str(tmp_path), "--save", "cpu-heads-real"])
    assert "equal bytes" in capsys.readouterr().out
    record = json.loads((results / "cpu-heads-real.json").read_text())
    assert {*record["inputs"]} == {*names}
    assert "--data DIR --save" in record["command"] and str(tmp_path) not in json.dumps(record)
    found = record["figures"]["real"]["GPT-2"]
    assert found["repeated"] and [row["n"] for row in found["TREC"]["together"]] == [4, 16]
    text = _render_heads.heads()
    assert "| GPT-2, TREC | 16, " in text and "gave the same bytes" in text


def test_data_that_is_not_given(capsys: pytest.CaptureFixture[str]) -> None:
    heads.main(["--only", "real", "--threads", str(torch.get_num_threads())])
    assert "real: left out, it needs SentEval's data" in capsys.readouterr().err


def test_deviations_and_verdicts(tmp_path: Path) -> None:
    """By hand: a fifth of 100 is 20, give or take 4."""
    columns = {"majority": 20.0, "n_test": 100, "task": "TREC"}
    rows = [row(head=head, test=test, **columns) for head, test in enumerate([8.0, 3.9, 60.0])]
    assert [round(deviations(one), 3) for one in rows] == [-3, -4.025, 10]
    both = [
        row(**columns, layer=-1, head=-1, dev=dev, n=n, heads=[{"layer": 0, "head": 0}] * n)
        for n, dev in ((2, 49.0), (3, 55.0))
    ]
    concats = table(both, CONCATS)
    lines, found = judged(HeadResults(table(rows), concats, tmp_path), "TREC")
    assert [line.verdict for line in lines] == ["missed", "missed", ""]
    assert found["best"] == {"dev": 50.0, "test": 8.0} and found["collapsed"] == 0
    rows[1]["collapsed"] = True
    lines, found = judged(HeadResults(table(rows), concats, tmp_path), "TREC")
    assert lines[0].verdict == "met" and found["deviations"] == -3


@pytest.mark.slow
def test_on_a_gpu() -> None:
    lines, figures = gpu.run_part("heads", GPU_TOY)
    assert not gpu.failed({"heads": (lines, figures)})
    assert len(lines) == 2 and figures["probes as on the CPU"]["points_apart"] == 0
    text = _render_heads.gpu_heads()
    assert text.count(NOT_YET) == 1 and "probes, 144 heads x 4 regularisers" in text


def test_unknown_parts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        heads.main(["--only", "probe,guess"])
    assert "unknown parts: guess" in capsys.readouterr().err
