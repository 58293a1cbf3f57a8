"""The README tells the truth: its Python runs, its commands and options exist."""

import re
from pathlib import Path

import pytest

from benchmarks import render

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in blocks("python"):  # as a reader runs them, one after the other
        exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "runs" / "mine" / "manifest.json").exists()


def test_commands_and_options_exist() -> None:
    import typer

    from pyengine.cli import app

    group = typer.main.get_command(app)
    known = dict(group.commands)  # type: ignore[attr-defined]
    for name in ("heads", "neurons", "shortcuts"):
        known |= {f"{name} {part}": command for part, command in known.pop(name).commands.items()}
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    pattern = r"pyengine ((?:heads |neurons |shortcuts )?\w+)([^#&|]*)"
    calls = [match for line in lines for match in re.findall(pattern, line)]
    assert len(calls) > 10
    for name, rest in calls:
        assert name in known, f"pyengine {name}"
        options = {o for parameter in known[name].params for o in parameter.opts}
        for option in re.findall(r"(?<!\S)--[\w-]+", rest):
            assert option in options, f"pyengine {name} {option}"


def test_no_placeholder_is_left() -> None:
    assert "@@" not in README


@pytest.mark.parametrize("name", render.DOCUMENTS)
def test_figures_are_those_of_the_results_files(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    rendered = render.render(text, render.SECTIONS)
    assert render.changed(text, rendered) == []
    assert rendered == text


@pytest.mark.parametrize("name", render.DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    links = re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (path.parent / link).exists()] == []
