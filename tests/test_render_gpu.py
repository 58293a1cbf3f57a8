"""Figures of GPUs in documents: floors beside what is missing, and what was measured."""

import re
from pathlib import Path

import pytest
from test_render import write

from benchmarks import _machine, _render_gpu, _render_shortcuts
from benchmarks._render_common import NOT_YET

BODY = {"of_body": 1.0, "wall_s": 0.4, "tokens": 100_000}
FITTED = {"fit_s": 2.0, "tokens": 200_000, "evaluate_s": 0.5, "scored_tokens": 5_000}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_machine, "RESULTS", tmp_path)
    return tmp_path


def test_gpu_rows_stand_beside_their_floors(results: Path) -> None:
    lines = _render_gpu.search().splitlines()
    # 27.1 s / 118M tokens of 5M
    assert f"| GPT-2 small | bfloat16 | 27.1 s | 75 s | {NOT_YET} | 1.1 s | {NOT_YET} |" in lines
    assert len(lines) == 9 and all(NOT_YET in line for line in lines[2:])
    found = _render_gpu.peers()
    # 12 layers of 12 · 768² weights and 128 pairs of 4 · 768 (causal: half), at 60 TFLOP/s
    assert pytest.approx(2.871, abs=1e-3) == 1e6 * 12 * (24 * 768**2 + 2 * 129 * 768) / 60e12
    assert f"| body | 2.9 s | {NOT_YET} | 2.9 s | {NOT_YET} | 1.5 s | {NOT_YET} |" in found
    for text in (found, _render_shortcuts.gpu_shortcuts()):
        assert all(re.search(r"\d m?s \| not", line) for line in text.splitlines()[2:])
    assert f"| `ffn_capture bfloat16 8192 x 3072` | 35 us | {NOT_YET} |" in _render_gpu.others()


def test_gpu_figures_are_shown_and_those_that_broke_are_not(results: Path) -> None:
    found = {"text_to_run_s": 90.0, "search_s": 70.0, "tokens": 118_000_000}
    broke = {"error": "Traceback"}
    figures = {
        "corpus": {"gpt2 bfloat16, whole corpus": found, "bert bfloat16": broke},
        "search": {"gpt2 bfloat16": {"corpus_s": 66.61}},
        "kernels": {"ffn_capture bfloat16 8192 x 3072": {"device_s": 36e-6}},
        "peers": {"peers gpt2": {"cases": {"body": BODY}}},
        "shortcuts": {"fit to the last layer, all tokens": FITTED},
    }
    write(results, "gpu-a", figures, gpu="NVIDIA H100")
    text = _render_gpu.search()
    assert "| 27.1 s | 75 s | | 27.1 s | 90.0 s, search 70.0 s (118M tokens) |" in text
    assert f"| 75 s | 66.6 s | 1.1 s | {NOT_YET} |" in text
    assert f"| BERT-base | bfloat16 | 28.4 s | | {NOT_YET} | 1.2 s | {NOT_YET} |" in text
    assert "NVIDIA H100; torch" in text
    assert "| 35 us | 36 us |" in _render_gpu.others()
    assert "| body | 2.9 s | 4.0 s (1.00) | 2.9 s | not yet" in _render_gpu.peers()
    assert "| nnsight + topk | 2.9 s | not installed | 2.9 s | not yet" in _render_gpu.peers()
    shortcuts = _render_shortcuts.gpu_shortcuts()
    assert "| 3.3 s | 10.0 s, extrapolated (2.0 s for 200k) |" in shortcuts
    assert "| 49.4 s | 1.7 min, extrapolated (500 ms for 5k) |" in shortcuts
    write(results, "gpu-b", {"search": {"gpt2 bfloat16": {"corpus_s": 50.0}}}, gpu="NVIDIA H200")
    assert "66.6 s on H100; 50.0 s on H200" in _render_gpu.search()
