"""The README tells the truth: its Python runs, its commands and options exist."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "runs" / "mine" / "manifest.json").exists()


def test_commands_and_options_exist() -> None:
    import typer

    from pyengine.cli import app

    group = typer.main.get_command(app)
    known = {name: command for name, command in group.commands.items()}  # type: ignore[attr-defined]
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    calls = [match for line in lines for match in re.findall(r"pyengine (\w+)([^#&|]*)", line)]
    assert len(calls) > 10
    for name, rest in calls:
        assert name in known, f"pyengine {name}"
        options = {o for parameter in known[name].params for o in parameter.opts}
        for option in re.findall(r"(?<!\S)--[\w-]+", rest):
            assert option in options, f"pyengine {name} {option}"


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_the_speed_table_quotes_the_results_files(family: str) -> None:
    path = ROOT / "benchmarks" / "results" / f"cpu-triggers-{family}.json"
    result = json.loads(path.read_text())
    assert result["machine"]["cpu"] in README
    found = result["figures"][family]
    for way in ("forward", "pyengine"):
        quoted = f"{found[way]['tokens_per_s']:,.0f} tokens/s ({found[way]['ratio']:.2f} ×)"
        assert quoted in README, f"{path.name} says {quoted}"


def test_no_placeholder_is_left() -> None:
    assert "@@" not in README
