"""The benchmark of heads at toy size, and its tables; no figure is judged here."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_gpu_benchmark import TOY as GPU_TOY

from benchmarks import _machine, _render_heads, gpu, heads
from benchmarks._heads_memory import probe_bytes
from benchmarks._heads_probe import agreeing, probe_flops
from benchmarks._heads_procedure import Result
from benchmarks._render_common import NOT_YET
from pyengine.heads.probe.protocols import Probed


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
