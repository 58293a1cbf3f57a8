"""`pyengine predictions`, and what the other commands make of its runs."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import synthetic_results
from command_line import Run, assert_one_line
from rich.console import Console
from tiny_models import VOCAB, tiny_model, word_tokenizer

from pyengine.analyses.prediction_pass import PredictionPass
from pyengine.cli import predictions_view

UNITS = ["--unit", "line"]
FILES = ("predictions.parquet", "examples.parquet")


def test_layer_mode(run: Run, model: Path, corpus: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "run", tmp_path / "p.png"
    done = run("predictions", model, corpus, *UNITS, "--out", out, "--plot", plot)
    assert done.code == 0, done.err
    assert "unmatched" in done.out and "composition" in done.out
    assert "4 examples × 3 layers from 11 tokens" in done.err
    assert f"next: pyengine show {out} --unit 0" in " ".join(done.err.split())
    assert plot.read_bytes().startswith(b"\x89PNG")

    assert "4 units, 11 tokens" in " ".join(run("show", out).out.split())
    story = run("show", out, "--unit", 1).out
    assert "unit 1, position" in story and "final token " in story and "kind" in story
    assert "n_matching_ffn" in run("show", out, "--unit", 1, "--layer", 2).out
    (example,) = json.loads(run("show", out, "--unit", 1, "--json").out)
    assert [row["layer"] for row in example["layers"]] == [0, 1, 2]
    assert_one_line(run("show", out, "--unit", 7), 1, "no unit 7", "0 to 3")
    assert_one_line(run("show", out, "--unit", 1, "--layer", 5), 1, "no layer 5", "0, 1, 2")

    path = tmp_path / "table.parquet"
    assert run("export", out, "--out", path).code == 0
    assert pq.read_table(path).num_rows == 4 * 3
    assert "intact" in run("verify", out).out
    assert_one_line(run("compare", out, out), 1, "holds predictions")


def test_value_mode_and_the_frame_of_ff_layers(
    run: Run, model: Path, corpus: Path, tmp_path: Path
) -> None:
    out, frame = tmp_path / "run", tmp_path / "frame.feather"
    common = ["predictions", model, corpus, *UNITS, "--mode", "value", "--n", 4]
    done = run(*common, "--out", out, "--all-values", "--output-dist", "--json")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert summary["mode"] == "value" and summary["n_examples"] == 4
    assert 0 < summary["layers"][0]["top_contribution_share"] <= 1
    assert "writes" in run("show", out, "--unit", 0).out
    contributors = run("show", out, "--unit", 0, "--layer", 2).out
    assert "contrib" in contributors and len(contributors.splitlines()) == 3 + 1 + 4

    assert run("export", out, "--format", "pandas-compat", "--out", frame).code == 0
    found = pd.read_feather(frame)
    assert found.shape == (4, 14)
    assert len(found["coeffs_vals"][0]) == 38 and len(found["output_dist_vals"][0]) == VOCAB
    table = pq.read_table(out / "predictions.parquet").to_pylist()
    last = [row for row in table if row["layer"] == 2]
    for row, coefficients in zip(last, found["coeffs_vals"], strict=True):
        assert (coefficients[:-1] > 0).sum() == row["n_active"]
        assert coefficients[-1] == pytest.approx(row["residual_norm"])


def test_the_frame_of_layer_mode(run: Run, model: Path, corpus: Path, tmp_path: Path) -> None:
    common = ["predictions", model, corpus, *UNITS, "--position", "last"]
    out, frame = tmp_path / "run", tmp_path / "frame.parquet"
    assert run(*common, "--out", tmp_path / "without").code == 0
    refused = run("export", tmp_path / "without", "--format", "pandas-compat", "--out", frame)
    assert_one_line(refused, 1, "--mode layer --output-dist")
    assert run(*common, "--out", out, "--output-dist").code == 0
    assert run("export", out, "--format", "pandas-compat", "--out", frame).code == 0
    found = pd.read_parquet(frame)
    assert found.shape == (4, 19)
    assert found["random_pos"].tolist() == [3, 4, 1, 3]
    assert found["text"].tolist() == ["w1 w2 w3", "w4 w5 w6 w7", "w8", "w1 w2 w9"]
    # The last layer's output after the final norm and the head is the model's own prediction.
    top = [dist.argmax() for dist in found["output_dist_vals"]]
    assert [tokens[-1] for tokens in found["layer_output_argmax"]] == top
    table = pq.read_table(out / "predictions.parquet").to_pylist()
    assert found["coeffs_l0"][0].tolist() == [row["n_active"] + 1 for row in table[:3]]


def test_shards_and_merge(run: Run, model: Path, corpus: Path, tmp_path: Path) -> None:
    common = ["predictions", model, corpus, *UNITS, "--position", "all", "--block-tokens", 4]
    assert run(*common, "--out", tmp_path / "whole").code == 0
    parts = [tmp_path / f"part{index}" for index in (0, 1)]
    for index, part in enumerate(parts):
        done = run(*common, "--out", part, "--shard", f"{index}/2")
        assert done.code == 0, done.err
        assert "merge with" in done.err
        assert_one_line(run("show", part), 1, "incomplete", "merge")
    merged = run("merge", *parts, "--out", tmp_path / "merged")
    assert merged.code == 0, merged.err
    assert "merged 11 tokens" in merged.err
    for name in FILES:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "merged" / name).read_bytes()


def test_an_interrupted_run_resumes(
    run: Run, model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["predictions", model, corpus, *UNITS, "--block-tokens", 4]
    assert run(*command, "--out", tmp_path / "whole").code == 0
    whole, blocks = PredictionPass.run, []

    def second_stops(self: PredictionPass, block: int, *rest: object, **more: object) -> object:
        blocks.append(block)
        if len(blocks) == 2:
            raise KeyboardInterrupt
        return whole(self, block, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(PredictionPass, "run", second_stops)
    outcome = run(*command, "--out", tmp_path / "run")
    assert_one_line(outcome, 130, "interrupted", "run the same command again to resume")
    done = run(*command, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert blocks[:3] == [0, 1, 1], "the finished block was done again"
    for name in FILES:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_encoder_and_decoder_are_kept_apart(run: Run, corpus: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "t5", tmp_path / "run"
    tiny_model("t5").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    command = ["predictions", folder, corpus, *UNITS, "--position", "last", "--output-dist"]
    done = run(*command, "--out", out)
    assert done.code == 0, done.err
    shown = run("show", out, "--unit", 1).out
    assert "encoder: final token" in shown and "gold token ' w7'" in shown
    assert "decoder: final token" in shown and "gold token –" in shown
    export = ["--format", "pandas-compat", "--out", tmp_path / "frame.parquet"]
    refused = run("export", out, *export)
    assert_one_line(refused, 1, "--layers 0-1 (encoder) or 2-4 (decoder)")
    assert run(*command, "--out", tmp_path / "decoder", "--layers", "2-4").code == 0
    assert run("export", tmp_path / "decoder", *export).code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mode", "dim"], ["mode", "'dim'", "layer, value"]),
        (["--position", "first"], ["position", "'first'", "random, last, all"]),
        (["--layers", "0-9"], ["layer 3 is out of range"]),
        (["--head", "none"], ["head", "'none'", "full, embedding"]),
        (["--all-values"], ["all_values", "value"]),
        (["--mode", "value", "--final-norm"], ["bare embedding"]),
        (["--mode", "value", "--n", "99"], ["n must be from 1 to 37"]),
        (["--seed", "-1"], ["seed"]),
        (["--plot", "figure.gif"], ["figure.gif", ".png, .svg, .pdf"]),
        (["--batch-tokens", "0"], ["batch_tokens"]),
    ],
)
def test_bad_settings(
    run: Run, model: Path, corpus: Path, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    outcome = run("predictions", model, corpus, "--out", tmp_path / "run", *options)
    assert_one_line(outcome, 1, "error:", *words)
    assert not (tmp_path / "run").exists()


def test_wrong_usage_exits_with_2(run: Run, model: Path, corpus: Path, tmp_path: Path) -> None:
    out, triggers = tmp_path / "run", tmp_path / "triggers"
    for options in (["--shard", "2/2"], ["--layers", "x"], ["--threads", "0"], ["--n", "many"]):
        assert run("predictions", model, corpus, "--out", out, *options).code == 2
    assert run("predictions", model, corpus, *UNITS, "--out", out).code == 0
    assert run("triggers", model, corpus, *UNITS, "--out", triggers).code == 0
    assert run("show", out, "--layer", 0, "--dim", 0).code == 2
    assert run("show", out, "--unit", 0, "--dim", 0).code == 2
    assert run("show", triggers, "--unit", 0).code == 2


def test_help(run: Run) -> None:
    text = " ".join(run("predictions", "--help").out.replace("│", " ").split())
    assert "Example: pyengine predictions" in text


@pytest.mark.parametrize("mode", ["layer", "value"])
def test_the_tables_fit_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    monkeypatch.setattr(predictions_view, "out", Console(width=80, highlight=False))
    found = synthetic_results.predictions(mode, n_layers=12, d_ff=3072, n=10, vocab=50_257)
    predictions_view.print_layers(found)
    for layer in (None, 3):
        predictions_view.show_predictions(found, 0, layer, 10, False)
    printed = capsys.readouterr().out
    tables = [line for line in printed.splitlines() if "…" in line]
    assert all("position" in line for line in tables), "a column was cut"
    assert max(map(len, printed.splitlines())) <= 80
