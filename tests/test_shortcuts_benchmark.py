"""The shortcut benchmark at toy size, and its tables; no figure is judged here."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_gpu_benchmark import TOY as GPU_TOY

from benchmarks import _machine, _render_shortcuts, gpu, shortcuts
from benchmarks._render_common import NOT_YET
from benchmarks._shortcuts_evaluate import part, sample_of
from benchmarks._shortcuts_memory import state_bytes
from benchmarks._shortcuts_solve import gram_flops, rows_flops
from pyengine.shortcuts.sample import VALIDATION


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_machine, "RESULTS", tmp_path)
    return tmp_path


def test_sentences_are_drawn_anew_and_alike() -> None:
    store = shortcuts.TOY.store(300)
    assert store.n_units == 300 and int(store.tokens.max()) < shortcuts.TOY.vocab
    assert (store.tokens == shortcuts.TOY.store(300).tokens).all()
    assert 10 < store.lengths.mean() < 60
    sample = sample_of(shortcuts.TOY, store)
    held = part(sample, VALIDATION)
    assert held.n_units == 50
    first = int((sample.roles == VALIDATION).nonzero()[0][0])
    assert (held.unit_tokens(0) == sample.store.unit_tokens(first)).all()


def test_formulas() -> None:
    """By hand, n = 10, d = 3, L = 2: three pairs of two sources."""
    assert rows_flops(10, 3, 2) == pytest.approx(2 * (180 - 18) + 3 * (180 + 27))
    assert gram_flops(10, 3, 2) == pytest.approx(2 * (90 + 9) + 3 * (180 + 54))
    scale = replace(shortcuts.TOY, n_train=9_000, n_validation=3_000)
    # Float32 rows with 24 bytes each that say where they are from, or 24 float64 products.
    kept = 3_000 * (13 * 768 * 4 + 24)
    assert state_bytes(scale, "rows", 12, 768) == 9_000 * (13 * 768 * 4 + 24) + kept
    assert state_bytes(scale, "gram", 12, 768) == 24 * 768**2 * 8 + kept


@pytest.mark.slow
def test_from_the_command_line_to_the_table(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert NOT_YET in _render_shortcuts.shortcuts()
    threads = str(torch.get_num_threads())
    shortcuts.main(["--tiny", "--threads", threads, "--save", "cpu-shortcuts"])
    out = capsys.readouterr().out
    assert "LAPACK gelsd" in out and "headless pass" in out and "peak memory" in out
    figures = json.loads((results / "cpu-shortcuts.json").read_text())["figures"]
    assert figures["solve"]["rows"]["error"] < 1e-6 and figures["solve"]["gram"]["ratio"] > 0
    assert figures["evaluate"]["evaluate"]["passes"] > 0
    assert figures["memory"]["gram"]["state_bytes"] > 0
    text = _render_shortcuts.shortcuts()
    assert "3 maps, **rows**, float64" in text and "250 sentences of the fit" in text


@pytest.mark.slow
def test_on_a_gpu() -> None:
    lines, figures = gpu.run_part("shortcuts", GPU_TOY)
    assert not gpu.failed({"shortcuts": (lines, figures)})
    assert len(lines) == 3
    assert _render_shortcuts.gpu_shortcuts().count(NOT_YET) == 3
