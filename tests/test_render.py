"""Figures go from results files into documents: what is rendered, what is said where none is."""

import json
import subprocess
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from benchmarks import (
    _growth_plot,
    _machine,
    _render_speed,
    _render_values,
    render,
)
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
    monkeypatch.setattr(render, "load", lambda name: None)
    (tmp_path / "a.md").write_text(DOCUMENT)
    assert run("--check") == 1
    assert (tmp_path / "a.md").read_text() == DOCUMENT
    assert "a.md: one not as in" in capsys.readouterr().out
    assert run() == 0 and "| 1 |" in (tmp_path / "a.md").read_text()
    assert run("--check") == 0 and capsys.readouterr().out == "wrote a.md: one\n"


@pytest.mark.skipif(
    matplotlib.__version__ != _growth_plot.DRAWN_WITH, reason="another matplotlib draws other bytes"
)
def test_check_finds_a_picture_that_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render, "ROOT", tmp_path)
    monkeypatch.setattr(render, "DOCUMENTS", ())
    (tmp_path / "docs").mkdir()
    assert run("--check") == 1 and "growth.svg: not as in" in capsys.readouterr().out
    assert run() == 0 and run("--check") == 0
    monkeypatch.setattr(_growth_plot, "DRAWN_WITH", "0.1")
    (tmp_path / render.PICTURE).write_text("another")
    assert run("--check") == 0 and "left alone" in capsys.readouterr().out


def test_results_older_than_the_package_are_named(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "ROOT", tmp_path)
    write(results, "old", {})
    assert render.outdated() == {}  # no repository

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", *who, *arguments]
        return subprocess.check_output(command, cwd=tmp_path, text=True).strip()

    git("init", "-q")
    commits = []
    for name in ("pyengine", "kernels", "docs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        git("add", name)
        git("commit", "-q", "-m", name)
        commits.append(git("rev-parse", "HEAD"))
    write(results, "old", {}, commit=commits[0])
    write(results, "new", {}, commit=commits[1])
    write(results, "unknown", {}, commit="0" * 40)
    assert render.outdated() == {"old": 1}


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        render.main(arguments)
    return int(left.value.code or 0)


def test_the_source_names_command_machine_versions_and_date(results: Path) -> None:
    write(results, "cpu-x", {})
    line = source(need("cpu-x"), None)
    assert line == (
        "<sub>`python -m cpu-x --save cpu-x`: A processor, 1 thread; torch 2.0, transformers 5.0; "
        "2026-01-02, abc1234 (`cpu-x.json`)</sub>"
    )
    write(results, "gpu-x", {}, gpu="A GPU")
    assert "`: A GPU; torch" in source(need("gpu-x"))


def test_files_of_elsewhere_are_shown_by_name(results: Path) -> None:
    given, command = (
        results / "a.tokens",
        "python -m benchmarks x --corpus /some/a.tokens --plot d/x",
    )
    given.write_text("text")
    path = _machine.write_result("x", {}, f"{command} --save x", [given, results / "missing"])
    assert "`python -m benchmarks x --corpus a.tokens --plot d/x --save x`: " in source(need("x"))
    digest = "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"
    assert json.loads(path.read_text())["inputs"] == {"a.tokens": digest} == need("x").inputs


def test_tables_are_laid_out() -> None:
    assert table(["", "a"], [["b", "1"]]) == "| | a |\n| --- | --- |\n| b | 1 |"


def case(of_body: float, tokens: int = 1000, **more: float) -> dict[str, Any]:
    spread = {"of_body_spread": [0.8 * of_body, of_body], "cpu_s_rounds": [0.8 * of_body, of_body]}
    cost = {"of_body": of_body, "tokens": tokens, "cpu_s": of_body, "difference": 1e-6}
    return cost | spread | more


def test_costs_of_peers_are_extrapolated(results: Path) -> None:
    cases = {"body": case(1.0), "store all above 0": case(6.0, stored_bytes=184_000_000)}
    family = {"cases": cases, "targets": {}}
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


@pytest.mark.parametrize(
    ("rounds", "told"),
    [
        ([0.8, 0.9, 1.0], "0.9 (0.8 to 1) ≤ 1.05: met"),
        ([0.8, 0.9, 1.2], "0.9 (0.8 to 1.2) ≤ 1.05: undecided"),
        ([1.1, 1.2, 1.3], "1.2 (1.1 to 1.3) ≤ 1.05: missed"),
    ],
)
def test_a_limit_inside_the_spread_of_the_rounds_is_undecided(
    results: Path, rounds: list[float], told: str
) -> None:
    cases = {"body": {"cpu_s_rounds": [1.0] * 3}, "pyengine model": {"cpu_s_rounds": rounds}}
    cases["nnsight + topk"] = {"cpu_s_rounds": [1.5 * spent for spent in rounds]}
    targets = {
        "pyengine model / body": {"ratio": rounds[1], "limit": 1.05},
        "pyengine model / nnsight + topk": {"ratio": 1.5, "limit": 1.2},
    }
    family = {"cases": cases, "targets": targets}
    write(results, "cpu-peers", dict.fromkeys(("gpt2", "bert", "t5"), family))
    text = _render_speed.peer_targets()
    assert f"| {told} | {told} | {told} |" in text
    assert "1.5 (1.5 to 1.5) ≥ 1.2: met" in text


def test_growth_is_said_to_be_missing_or_drawn(results: Path) -> None:
    assert NOT_YET in _render_speed.growth() and "svg" not in _render_speed.growth_picture()
    line = {"cpu_s": [1.0, 2.0], "slope": 0.5, "steepest": 0.6, "verdict": "met"}
    line["cpu_s_rounds"] = [[1.0, 1.0], [2.0, 2000.0]]
    axis = {"label": "tokens", "x": [10, 1000], "limit": 1, "why": "so", "lines": {"search": line}}
    write(results, "cpu-growth", dict.fromkeys(("corpus", "k", "width", "sites"), axis))
    row = "| 10 → 1,000 | search | 1.00 → 2.00 s | 0.50 ≤ 1: met | 0.60 ≤ 1: undecided | so |"
    assert f"| tokens (4 layers of 128) {row}" in _render_speed.growth()
    assert f"| sites (12 layers of 128) {row}" in _render_speed.growth()
    told = " ".join(_render_speed.growth_picture().split())
    assert "0.50 with corpus (search; steepest 0.60)" in told
    assert "docs/growth.svg" in _render_speed.growth_picture()


@pytest.mark.skipif(
    matplotlib.__version__ != _growth_plot.DRAWN_WITH, reason="another matplotlib draws other bytes"
)
def test_the_picture_is_that_of_the_results() -> None:
    figures = need("cpu-growth").figures
    shown = (render.ROOT / render.PICTURE).read_bytes()
    assert _growth_plot.picture(figures) == shown
    figures["k"]["lines"]["search"]["cpu_s"][0] *= 1.5
    assert _growth_plot.picture(figures) != shown


def test_every_section_is_shown_somewhere() -> None:
    documents = [(render.ROOT / name).read_text(encoding="utf-8") for name in render.DOCUMENTS]
    shown = {found[1] for text in documents for found in render.MARKED.findall(text)}
    assert shown == set(render.SECTIONS)


def test_ratios_are_the_worse_of_clock_and_cpu_time() -> None:
    ours = {"units": 10, "seconds": {"wall_s": 20.0, "cpu_s": 10.0}}
    assert _render_values._ratio({"wall_s": 4.0, "cpu_s": 3.0}, ours) == 2.0
