"""Figures go from results files into documents: what is rendered, what is said where none is."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _machine, _render_gpu, _render_speed, _render_values, render
from benchmarks._render_common import NOT_YET, need, source, table

MACHINE = {
    "cpu": "A processor",
    "threads": 1,
    "versions": {"torch": "2.0", "transformers": "5.0"},
    "date": "2026-01-02",
    "commit": "abc1234",
}
DOCUMENT = "before\n<!-- figures: one -->\nstale\n<!-- end -->\nafter\n"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_machine, "RESULTS", tmp_path)
    return tmp_path


def write(results: Path, name: str, figures: Any, **machine: Any) -> None:
    record = {"command": f"python -m {name}", "machine": MACHINE | machine, "figures": figures}
    (results / f"{name}.json").write_text(json.dumps(record))


def test_marked_parts_alone_are_replaced() -> None:
    rendered = render.render(DOCUMENT, {"one": lambda: "| 1 |"})
    assert rendered == "before\n<!-- figures: one -->\n| 1 |\n<!-- end -->\nafter\n"
    assert render.render(rendered, {"one": lambda: "| 1 |"}) == rendered
    assert render.changed(DOCUMENT, rendered) == ["one"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- figures: two -->\n<!-- end -->", "no section two; known are: one"),
        ("<!-- figures: one -->\n", "has no `<!-- end -->`"),
        ("<!-- figures: one -->\n<!-- figures: one -->\n<!-- end -->", "has no `<!-- end -->`"),
    ],
)
def test_marks_that_are_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render.render(text, {"one": lambda: ""})


def test_check_changes_nothing_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render, "ROOT", tmp_path)
    monkeypatch.setattr(render, "DOCUMENTS", ("a.md",))
    monkeypatch.setattr(render, "SECTIONS", {"one": lambda: "| 1 |"})
    (tmp_path / "a.md").write_text(DOCUMENT)
    assert run("--check") == 1
    assert (tmp_path / "a.md").read_text() == DOCUMENT
    assert "a.md: one not as in" in capsys.readouterr().out
    assert run() == 0 and "| 1 |" in (tmp_path / "a.md").read_text()
    assert run("--check") == 0 and capsys.readouterr().out == "wrote a.md: one\n"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        render.main(arguments)
    return int(left.value.code or 0)


def test_the_source_names_command_machine_versions_and_date(results: Path) -> None:
    write(results, "cpu-x", {})
    line = source(need("cpu-x"), None)
    assert line == (
        "<sub>`python -m cpu-x`: A processor, 1 thread; torch 2.0, transformers 5.0; "
        "2026-01-02, abc1234 (`cpu-x.json`)</sub>"
    )
    write(results, "gpu-x", {}, gpu="A GPU")
    assert "`: A GPU; torch" in source(need("gpu-x"))


def test_tables_are_laid_out() -> None:
    assert table(["", "a"], [["b", "1"]]) == "| | a |\n| --- | --- |\n| b | 1 |"


def case(of_body: float, tokens: int = 1000, **more: float) -> dict[str, Any]:
    spread = {"of_body_spread": [0.8 * of_body, of_body]}
    cost = {"of_body": of_body, "tokens": tokens, "cpu_s": of_body, "difference": 1e-6}
    return cost | spread | more


def test_costs_of_peers_are_extrapolated(results: Path) -> None:
    cases = {"body": case(1.0), "store all above 0": case(6.0, stored_bytes=184_000_000)}
    target = {"ratio": 0.9, "limit": 1.05, "met": True}
    family = {"cases": cases, "targets": {"pyengine model / body": target}}
    versions = {"transformer-lens": "4", "nnsight": "0"}
    write(
        results, "cpu-peers", dict.fromkeys(("gpt2", "bert", "t5"), family) | {"versions": versions}
    )
    text = _render_speed.peers()
    # 1 ms a token: 17 min a million, 33 h for 118M; 184 kB a token: 21.7 TB
    assert "| bare body forward | 1.00 | 1.00 | 1.00 | 17 min | 33 h | |" in text
    assert "| 6.00 | 6.00 | 6.00 | 100 min | 197 h | 21.7 TB |" in text
    assert f"ff-layers' search: a sentence at a time, heaps in Python | {NOT_YET} |" in text
    assert "agree to 1e-06" in text and "up to 25% apart" in text
    assert "0.9 ≤ 1.05: met" in _render_speed.peer_targets()


def test_growth_is_said_to_be_missing_or_drawn(results: Path) -> None:
    assert NOT_YET in _render_speed.growth() and "svg" not in _render_speed.growth_picture()
    line = {"cpu_s": [1.0, 2.0], "slope": 0.5, "steepest": 0.6, "verdict": "met"}
    axis = {"label": "tokens", "x": [10, 1000], "limit": 1, "why": "so", "lines": {"search": line}}
    write(results, "cpu-growth", dict.fromkeys(("corpus", "k", "width", "sites"), axis))
    row = "| tokens | 10 → 1,000 | search | 1.00 → 2.00 s | 0.50 | 0.60 | ≤ 1: met | so |"
    assert row in _render_speed.growth()
    assert "0.50 with corpus (search)" in _render_speed.growth_picture()
    assert "docs/growth.svg" in _render_speed.growth_picture()


def test_gpu_rows_stand_beside_their_floors(results: Path) -> None:
    lines = _render_gpu.search().splitlines()
    assert f"| GPT-2 small | bfloat16 | 27.1 s | 75 s | {NOT_YET} | {NOT_YET} |" in lines
    assert len(lines) == 9 and all(NOT_YET in line for line in lines[2:])
    assert _render_gpu.peers().count(NOT_YET) == 21
    assert f"| `ffn_capture bfloat16 8192 x 3072` | 35 us | {NOT_YET} |" in _render_gpu.others()


def test_gpu_figures_are_shown_and_those_that_broke_are_not(results: Path) -> None:
    found = {"text_to_run_s": 90.0, "search_s": 70.0, "tokens": 118_000_000}
    broke = {"error": "Traceback"}
    figures = {
        "corpus": {"gpt2 bfloat16, whole corpus": found, "bert bfloat16": broke},
        "search": {"gpt2 bfloat16": {"corpus_s": 66.61}},
        "kernels": {"ffn_capture bfloat16 8192 x 3072": {"device_s": 36e-6}},
        "peers": {"peers gpt2": {"cases": {"body": {"of_body": 1.0}}}},
    }
    write(results, "gpu-a", figures, gpu="NVIDIA H100")
    text = _render_gpu.search()
    assert "| 27.1 s | 75 s | | 90.0 s, search 70.0 s (118M tokens) |" in text
    assert f"| 75 s | 66.6 s | {NOT_YET} |" in text
    assert f"| BERT-base | bfloat16 | 28.4 s | | {NOT_YET} | {NOT_YET} |" in text
    assert "NVIDIA H100; torch" in text
    assert "| 35 us | 36 us |" in _render_gpu.others()
    assert f"| body | 1.00 | {NOT_YET} | {NOT_YET} |" in _render_gpu.peers()
    assert f"| nnsight + topk | not installed | {NOT_YET} | {NOT_YET} |" in _render_gpu.peers()
    write(results, "gpu-b", {"search": {"gpt2 bfloat16": {"corpus_s": 50.0}}}, gpu="NVIDIA H200")
    assert "66.6 s on H100; 50.0 s on H200" in _render_gpu.search()


def test_every_section_is_shown_somewhere() -> None:
    documents = [(render.ROOT / name).read_text(encoding="utf-8") for name in render.DOCUMENTS]
    shown = {found[1] for text in documents for found in render.MARKED.findall(text)}
    assert shown == set(render.SECTIONS)


def test_ratios_are_the_worse_of_clock_and_cpu_time() -> None:
    ours = {"units": 10, "seconds": {"wall_s": 20.0, "cpu_s": 10.0}}
    assert _render_values._ratio({"wall_s": 4.0, "cpu_s": 3.0}, ours) == 2.0
