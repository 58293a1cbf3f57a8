"""The README tells the truth: its Python runs, its commands and options exist."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

VALUE_WAYS = ("pyengine", "torch, 2,048 rows", "torch and numpy, 256 rows")


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
    known |= {f"neurons {name}": part for name, part in known.pop("neurons").commands.items()}
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    pattern = r"pyengine ((?:neurons )?\w+)([^#&|]*)"
    calls = [match for line in lines for match in re.findall(pattern, line)]
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


@pytest.mark.parametrize("targets", ["1 targets", "50 targets"])
def test_the_table_of_values_quotes_the_results_file(targets: str) -> None:
    path = ROOT / "benchmarks" / "results" / "cpu-values-agreement.json"
    found = json.loads(path.read_text())["figures"]["agreement"][targets]
    cells = [f"{found[way]['wall_s']:.1f} s" for way in VALUE_WAYS]
    assert f"| **{cells[0]}** | {cells[1]} | {cells[2]} |" in README


def test_the_figures_of_predictions_are_those_of_the_results_file() -> None:
    path = ROOT / "benchmarks" / "results" / "cpu-values-predictions.json"
    found = json.loads(path.read_text())["figures"]["predictions"]
    layer, running = found["layer"], found["running times"]
    ours, original = layer["pyengine"], layer["original as it is"]
    hardest = layer["original values projected once as well"]

    def ratio(peer: dict[str, float]) -> float:  # of a sentence; the worse of clock and CPU time
        clocks = ("wall_s", "cpu_s")
        return min(peer[clock] * ours["units"] / ours["seconds"][clock] for clock in clocks)

    seconds, first = ours["seconds"]["wall_s"], ours["one_unit"]["wall_s"]
    quoted = [f"takes {seconds:.1f} s, {first:.1f} s of it"]
    quoted += [f"takes {original['wall_s']:.1f} s", f"{ratio(original):.0f} × as long"]
    quoted += [f"{hardest['wall_s'] * 1e3:.0f} ms a sentence: {ratio(hardest):.1f} ×"]
    quoted += [f"| {running['trigger examples']['pyengine_s']:.1f} s |"]
    modes = [row for name, row in running.items() if "mode" in name]
    quoted += [f"| {row['pyengine_s'] / 60:.1f} min |" for row in modes]
    text = " ".join(README.split())
    assert [line for line in quoted if line not in text] == []


def test_no_placeholder_is_left() -> None:
    assert "@@" not in README


@pytest.mark.parametrize("model", ["BERT-base", "GPT-2 small"])
@pytest.mark.parametrize("n_tokens", [12, 40])
def test_the_attribution_table_quotes_the_results_file(model: str, n_tokens: int) -> None:
    path = ROOT / "benchmarks" / "results" / "cpu-attribution.json"
    figures = json.loads(path.read_text())["figures"]
    name = f"{model}, {n_tokens} tokens"
    (row,) = [line for line in README.splitlines() if line.startswith(f"| {name} |")]
    speed, memory = figures["speed"][name], figures["memory"][name]
    adaptive = speed.get("adaptive, post-activation", speed["adaptive"])
    for found in (speed["same rule"], adaptive):
        assert f"({found['cpu_ratio']:.1f} ×)" in row
    for used in memory.values():
        assert f"{used / 2**20:,.0f} MiB" in row


@pytest.mark.parametrize(
    ("row", "case"),
    [
        ("bare body forward", "body"),
        ("forward hooks, `torch.topk`", "hooks + topk"),
        ("TransformerLens 4.3.0, `torch.topk`", "TransformerLens + topk"),
        ("nnsight 0.8.1, `torch.topk`", "nnsight + topk"),
        ("**`trigger_examples`**, the model's activations", "pyengine model"),
        ("**`trigger_examples`**, fused activations", "pyengine fused"),
        ("one layer: **`run_with_cache`**", "run_with_cache one layer"),
    ],
)
def test_the_table_of_peers_quotes_the_results_file(row: str, case: str) -> None:
    path = ROOT / "benchmarks" / "results" / "cpu-peers.json"
    figures = json.loads(path.read_text())["figures"]
    cells = [
        f"{figures[family]['cases'][case]['of_body']:.2f}" for family in ("gpt2", "bert", "t5")
    ]
    assert f"| {row} | {' | '.join(cells)} |" in README
