"""`pyengine agreement`, and what `show`, `export` and `verify` make of its runs."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import synthetic_results
from command_line import Run, assert_one_line
from rich.console import Console
from tiny_models import tiny_model

from pyengine.cli import agreement_view


@pytest.fixture
def triggers(run: Run, model: Path, corpus: Path, tmp_path: Path) -> Path:
    out = tmp_path / "triggers"
    done = run("triggers", model, corpus, "--out", out, "--k", 3, "--unit", "line")
    assert done.code == 0, done.err
    return out


def test_summary_show_export_verify(run: Run, triggers: Path, tmp_path: Path) -> None:
    out = tmp_path / "agreement"
    more = ["--plot", tmp_path / "a.svg", "--tsv", tmp_path / "base"]
    done = run("agreement", triggers, "--out", out, *more)
    assert done.code == 0, done.err
    text = " ".join(done.out.split())  # lines are wrapped to the width of the terminal
    assert "The most confident values" in text and "of its key's first trigger" in text
    assert f"next: pyengine show {out} --layer" in " ".join(done.err.split())
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")
    assert len((tmp_path / "base.tsv").read_text().splitlines()) == 1 + 3 * 37
    assert (tmp_path / "base_max_probs.json").exists()

    shown = run("show", out)
    assert shown.code == 0
    assert "final norm off, head full" in shown.out and "by chance" in shown.out
    one = run("show", out, "--layer", 1, "--dim", 5, "--rows", 2)
    assert one.code == 0, one.err
    assert "layer 1, dim 5" in one.out and "next token of the key's triggers" in one.out
    value = json.loads(run("show", out, "--layer", 1, "--dim", 5, "--json").out)
    assert len(value["target_ranks"]) == 3 and len(value["top_tokens"]) == 10
    assert_one_line(run("show", out, "--layer", 9, "--dim", 5), 1, "layer 9, dim 5", "0 to 2")
    assert run("show", out, "--unit", 0).code == 2

    path = tmp_path / "values.parquet"
    assert run("export", out, "--format", "parquet", "--out", path).code == 0
    assert pq.read_table(path).num_rows == 3 * 37
    assert_one_line(run("export", out, "--format", "jsonl", "--out", path), 1, "parquet, tsv")
    assert "intact" in run("verify", out).out
    assert_one_line(run("compare", out, out), 1, "agreement", "compare reads triggers")


def test_json_is_the_layers_table(run: Run, triggers: Path, tmp_path: Path) -> None:
    done = run("agreement", triggers, "--out", tmp_path / "a", "--ranks", 2, "--top", 4, "--json")
    found = json.loads(done.out)
    assert found["n_values"] == 3 * 37
    assert [row["layer"] for row in found["layers"]] == [0, 1, 2]
    assert {row["target"] for row in found["layers"]} == {"next"}
    assert found["probability"][-1]["bin"] == -1
    shown = json.loads(run("show", tmp_path / "a", "--json").out)
    assert shown == {name: found[name] for name in shown}


def test_complete_run_is_reopened_and_other_settings_refused(
    run: Run, triggers: Path, tmp_path: Path
) -> None:
    out = tmp_path / "agreement"
    first = run("agreement", triggers, "--out", out, "--json")
    before = (out / "agreement.parquet").stat().st_mtime_ns
    assert run("agreement", triggers, "--out", out, "--json").out == first.out
    assert (out / "agreement.parquet").stat().st_mtime_ns == before
    other = run("agreement", triggers, "--out", out, "--final-norm")
    assert_one_line(other, 1, "question.final_norm", '"off" != "on"')


def test_a_moved_model_is_named_with_the_option(
    run: Run, triggers: Path, model: Path, tmp_path: Path
) -> None:
    model.rename(tmp_path / "moved")
    out = tmp_path / "agreement"
    lost = run("agreement", triggers, "--out", out)
    assert_one_line(lost, 1, "cannot load model", "--model says where")
    assert run("agreement", triggers, "--out", out, "--model", tmp_path / "moved").code == 0


def test_a_changed_model_is_refused(run: Run, triggers: Path, model: Path, tmp_path: Path) -> None:
    tiny_model("gpt2", seed=1).save_pretrained(model)
    outcome = run("agreement", triggers, "--out", tmp_path / "a")
    assert_one_line(outcome, 1, "another model", "weights")


@pytest.mark.parametrize("format", ["text", "jsonl"])
def test_ff_layers_files_need_the_model(
    run: Run, triggers: Path, model: Path, tmp_path: Path, format: str
) -> None:
    source = tmp_path / ("ff.jsonl" if format == "jsonl" else "ff")
    assert run("export", triggers, "--format", format, "--out", source).code == 0
    unnamed = run("agreement", source, "--out", tmp_path / "a")
    assert unnamed.code == 2
    assert "--model" in unnamed.err
    done = run("agreement", source, "--model", model, "--out", tmp_path / "a", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["n_values"] == 3 * 37


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "last"], ["target", "'last'", "next, input"]),
        (["--head", "none"], ["head", "'none'", "full, embedding"]),
        (["--ranks", "9"], ["ranks=9", "3 examples"]),
        (["--top", "0"], ["top"]),
        (["--plot", "figure.jpg"], ["figure.jpg", ".png, .svg, .pdf"]),
        (["--dtype", "int8"], ["unknown dtype 'int8'"]),
    ],
)
def test_bad_settings(
    run: Run, triggers: Path, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    outcome = run("agreement", triggers, "--out", tmp_path / "a", *options)
    assert_one_line(outcome, 1, "error:", *words)
    assert not (tmp_path / "a").exists()


def test_bad_sources(run: Run, model: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    assert_one_line(run("agreement", tmp_path / "no", "--out", out), 1, "no does not exist")
    empty = tmp_path / "empty"
    empty.mkdir()
    outcome = run("agreement", empty, "--model", model, "--out", out)
    assert_one_line(outcome, 1, "empty")
    run("predictions", model, corpus, "--out", tmp_path / "predictions")
    outcome = run("agreement", tmp_path / "predictions", "--out", out)
    assert_one_line(outcome, 1, "holds predictions", "pyengine triggers")


def test_an_interruption_is_said(
    run: Run, triggers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pyengine.analyses.agreement._project", stop)
    outcome = run("agreement", triggers, "--out", tmp_path / "a")
    assert_one_line(outcome, 130, "interrupted", "same command")
    monkeypatch.undo()
    monkeypatch.setenv("COLUMNS", "120")
    assert run("agreement", triggers, "--out", tmp_path / "a").code == 0


def test_help(run: Run) -> None:
    text = " ".join(run("agreement", "--help").out.replace("│", " ").split())
    assert "Example: pyengine agreement" in text
    for word in ("softmax(v·E)", "lm-debugger", "ffn-values", "disagree"):
        assert word in text


@pytest.mark.parametrize("n_layers", [2, 48])
def test_the_table_fits_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], n_layers: int
) -> None:
    monkeypatch.setattr(agreement_view, "out", Console(width=80, highlight=False))
    found = synthetic_results.agreement(n_layers=n_layers, vocab=267_744)
    agreement_view.print_layers(found)
    printed = capsys.readouterr().out
    assert "…" not in printed and max(map(len, printed.splitlines())) <= 80
    rows = [line for line in printed.splitlines() if " next " in line]
    lengths = [line.count("█") for line in rows]
    assert len(rows) == n_layers and lengths[0] == 0 and max(lengths) == 10
