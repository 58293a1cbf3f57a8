"""The GPU benchmark at toy size on the CPU; no figure is judged here."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from benchmarks import _gpu_common, _gpu_corpus, _gpu_peers, _machine, gpu
from benchmarks._gpu_common import Found, Line, Scale
from pyengine.embedded import EXCERPT, MODEL

TOY = Scale(
    device="cpu",
    batch_tokens=(64,),
    widths=(32,),
    n_layers=2,
    rounds=1,
    tokens=(("float32", 300), ("bfloat16", 300)),
    search_rounds=1,
    sample_tokens=600,
    corpus_tokens=3000,
    family_tokens=600,
    tiny=True,
)


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the results of toy runs out of the repository."""
    monkeypatch.setattr(_machine, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_gpu_without_a_gpu_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        gpu.main(["--quick"])


def test_gpu_kernels() -> None:
    lines, figures = gpu.run_part("kernels", TOY)
    assert not gpu.failed({"kernels": (lines, figures)})
    assert {line.what for line in lines} >= {
        "plain copy",
        "ffn_capture gated bfloat16 64 x 32",
        "block max only float32 64 x 32",
        "topk_append per unit 64 x 32",
        "topk_merge 64 keys, 8 pending each",
        "path_points bfloat16, 64 rows x 32",
        "path_sums float32, 64 rows x 32",
    }
    # 64 x 32 float32 read and written, a maximum per 32 positions, 64 ids
    assert figures["ffn_capture float32 64 x 32"]["bytes"] == 2 * 8192 + 2 * 32 * 4 + 64 * 8
    # 64 x 32 bfloat16, and those of 4 paths; a source and a float32 per row
    assert figures["path_points bfloat16, 64 rows x 32"]["bytes"] == (64 + 2 * 4) * 64 + 64 * 12
    assert figures["path_sums bfloat16, 64 rows x 32"]["bytes"] == 64 * 64 + 4 * 128 + 64 * 12


def test_gpu_vocab() -> None:
    lines, figures = gpu.run_part("vocab", TOY)
    assert not gpu.failed({"vocab": (lines, figures)})
    assert len(figures) == 8
    found = figures["vocab_project fused, float32, 50 targets"]
    assert found["flops"] == 2 * 64 * 131 * 8 and found["s"] > 0


@pytest.mark.slow
def test_gpu_search() -> None:
    lines, figures = gpu.run_part("search", TOY)
    assert not gpu.failed({"search": (lines, figures)})
    for family in TOY.families:
        found = figures[f"{family} float32"]
        assert {"fused forward", "capture only", "search, warm", "pyengine"} < found.keys()
        assert ("hooks + topk" in found) == (family != "t5")
        assert found["corpus_s"] > 0 and found["floor_s"] > 0


@pytest.mark.slow
def test_gpu_exactness_holds_between_equal_devices() -> None:
    lines, figures = gpu.run_part("exactness", TOY)
    for family in TOY.families:
        found = figures[f"exactness {family} float32"]
        assert found["same_bits"] and found["band"] == 0 and found["overlap"] == 1
        rounded = figures[f"exactness {family} bfloat16"]
        assert rounded["same_bits"] and 0 < rounded["band"] < 1
    assert any(line.verdict == "ok" for line in lines)


@pytest.mark.slow
def test_gpu_corpus(tmp_path: Path) -> None:
    lines, figures = gpu.run_part("corpus", replace(TOY, families=("gpt2", "t5")))
    assert not gpu.failed({"corpus": (lines, figures)})
    assert [*figures] == [
        _gpu_corpus.WHOLE,
        *(f"gpt2 {d}" for d in _gpu_corpus.SAMPLES["gpt2"]),
        "t5 bfloat16",
    ]
    for found in figures.values():
        assert found["text"] == "words of the excerpt"
        assert abs(found["tokens"] / found["asked_tokens"] - 1) < 0.2
        assert found["text_to_run_s"] > 0 and found["search_s"] > 0
    mine = replace(TOY, families=("t5",), corpus=EXCERPT)
    _, figures = gpu.run_part("corpus", mine)
    assert figures["t5 bfloat16"]["text"] == EXCERPT.name
    assert abs(figures["t5 bfloat16"]["tokens"] / 600 - 1) < 0.5


def test_gpu_corpus_from_a_file_that_is_too_short(tmp_path: Path) -> None:
    short = tmp_path / "short.tokens"
    short.write_text(" = A title = \n\n The tower is in Paris . It is high . \n")
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    text, path = _gpu_corpus.written(short, tmp_path / "drawn.tokens", 500, tokenizer)
    assert text == "paragraphs of short.tokens"
    assert path.read_text().count("The tower is in Paris . It is high .") > 20


def test_gpu_corpora_are_bounded() -> None:
    assert gpu.FULL.corpus_tokens == 118_000_000
    bounded = gpu.FULL.at_most(1_000_000)
    assert (bounded.corpus_tokens, bounded.family_tokens) == (1_000_000, 1_000_000)
    assert {n for _, n in bounded.tokens} == {1_000_000}
    assert gpu.FULL.at_most(10_000_000).family_tokens == 5_000_000


@pytest.mark.slow
def test_gpu_peers() -> None:
    lines, figures = gpu.run_part("peers", replace(TOY, families=("gpt2",)))
    assert not gpu.failed({"peers": (lines, figures)})
    assert {*_gpu_peers.CASES} >= figures["peers gpt2"]["cases"].keys() >= {"body", "hooks + topk"}


def test_gpu_failures_are_reported_and_the_rest_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Found:
        raise RuntimeError("an illegal memory access")

    def fine() -> Found:
        return [Line("fine", "1 us", verdict="missed")], {"s": 1e-6}

    monkeypatch.setattr(gpu, "jobs", lambda scale: [("broken", broken), ("fine", fine)])
    found = {"tests": gpu.run_part("tests", TOY)}
    assert gpu.failed(found)
    assert not gpu.failed({"fine": fine()})  # a missed speed is no failure
    gpu.show(found)
    out = capsys.readouterr().out
    assert "an illegal memory access" in out and "1 us" in out
    assert "illegal memory access" in found["tests"][1]["broken"]["error"]


@pytest.mark.slow
def test_gpu_runs_from_the_command_line_to_the_results_file(
    monkeypatch: pytest.MonkeyPatch, results: Path
) -> None:
    """Each part in a process of its own, which knows nothing of the device pretended here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _index: "Toy (80 GB)")
    monkeypatch.setattr(gpu, "FULL", TOY)
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--only", "kernels", "--save", "gpu-toy"])
    assert stopped.value.code == 0
    record = json.loads((results / "gpu-toy.json").read_text())
    assert len(record["figures"]["kernels"]) > 10


@pytest.mark.slow
def test_gpu_part_that_dies_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "run_part", _die)
    lines, figures = gpu.isolated("kernels", TOY)
    assert lines[0].verdict == "FAILED" and "BrokenProcessPool" in figures["error"]


def test_gpu_tests_that_do_not_run_are_a_failure(tmp_path: Path) -> None:
    skipped = "import pytest\n\n@pytest.mark.skip\ndef test_skipped(): pass\n"
    (tmp_path / "test_some.py").write_text(f"{skipped}\ndef test_passing(): pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # not ours, which takes seconds
    some = ["-c", str(tmp_path / "pytest.ini"), str(tmp_path), "-k"]
    for nothing in ("no_such_test", "skipped"):
        lines, figures = gpu.run_tests([*some, nothing])
        assert lines[0].verdict == "FAILED" and figures["output"]
    lines, _ = gpu.run_tests([*some, "passing"])
    assert lines[0].verdict == "ok" and "passed" in lines[0].measured


def test_clock_measures_what_runs_between_its_marks() -> None:
    calls: list[str] = []
    times = _gpu_common.timed(
        lambda: calls.append("run"),
        torch.device("cpu"),
        rounds=2,
        prepare=lambda: calls.append("prepare"),
    )
    assert calls == ["prepare", "run"] * (_gpu_common.WARM_UP + 2)
    assert 0 < times.host_s < 1 and 0 < times.device_s < 1


def _die(_part: str, _scale: Scale) -> None:
    os.abort()
