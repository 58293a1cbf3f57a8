"""`pyengine cache`: texts into a file, a corpus into a run."""

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Run, assert_one_line
from prediction_helpers import FOLDERS
from tiny_models import FAMILIES, tiny_model, word_tokenizer

from pyengine import load, open_run
from pyengine.analyses import cached_activations
from pyengine.analyses.cached_activations_result import CachedActivations
from pyengine.cache_files import cache_facts, load_cache
from pyengine.cli import cache_view
from pyengine.hooked import run_with_cache

TEXTS = ["--text", "w1 w2 w3", "--text", "w4 w5"]
POST = ["--names", "*.mlp.hook_post"]


@pytest.mark.parametrize("family", FAMILIES)
def test_texts(run: Run, tmp_path: Path, family: str) -> None:
    folder, path = tmp_path / "model", tmp_path / "c.safetensors"
    tiny_model(family).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    names = ["--names", "*.0.mlp.hook_post", "--names", "*.0.*.hook_q"]
    done = run("cache", folder, *TEXTS, *names, "--out", path)
    assert done.code == 0, done.err
    assert "text 0:" in done.out and "0 ' w1'" in done.out and ".0.mlp.hook_post" in done.out
    assert f"→ {path}" in done.err

    filters = ["*.0.mlp.hook_post", "*.0.*.hook_q"]
    _, cache = run_with_cache(load(folder), ["w1 w2 w3", "w4 w5"], filters, return_type=None)
    found = load_cache(path)
    assert found.keys() == dict(cache).keys()
    assert all(torch.equal(found[name], value) for name, value in cache.items())
    mask = cache_facts(path)["inputs"]["attention_mask"]
    assert sorted(map(sum, mask)) == [2, 3]


def test_the_target_of_an_encoder_decoder(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    texts = ["--text", "A house", "--target", "Two houses", "--names", "decoder_blocks.0.hook_*"]
    done = run("cache", FOLDERS["t5"], *texts, "--out", path)
    assert done.code == 0, done.err
    assert "text 0, decoder:" in done.out
    _, cache = run_with_cache(
        load(FOLDERS["t5"]),
        ["A house"],
        "decoder_blocks.0.hook_*",
        target=["Two houses"],
        return_type=None,
    )
    found = load_cache(path)
    assert found.keys() == dict(cache).keys() and len(found) > 4
    assert all(torch.equal(found[name], value) for name, value in cache.items())


def test_positions_layers_padding_and_json(run: Run, model: Path, tmp_path: Path) -> None:
    more = ["--pos", 0, "--pos", "-1", "--stop-at-layer", 1, "--padding", "left"]
    path = tmp_path / "c.safetensors"
    done = run("cache", model, *TEXTS, *more, "--json", "--out", path)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["file"] == str(path) and found["rows"] == [0, 1]
    assert found["inputs"]["attention_mask"] == [[1, 1, 1], [0, 1, 1]]
    assert found["inputs"]["position_ids"] == [[0, 1, 2], [0, 0, 1]]
    shapes = {site["name"]: site["shape"] for site in found["sites"]}
    assert shapes["blocks.0.mlp.hook_post"] == [2, 2, 37]
    assert [*shapes][-1] == "blocks.0.hook_resid_post"
    assert all(site["min"] <= site["mean"] <= site["max"] for site in found["sites"])
    how: dict[str, Any] = {"pos_slice": [0, -1], "stop_at_layer": 1, "padding": "left"}
    _, cache = run_with_cache(load(model), ["w1 w2 w3", "w4 w5"], return_type=None, **how)
    assert all(torch.equal(value, cache[name]) for name, value in load_cache(path).items())
    assert json.loads(run("cache", model, *TEXTS, *more, "--json").out)["file"] is None


def test_patterns_need_eager_attention(run: Run, model: Path) -> None:
    common = ["cache", model, "--text", "w1 w2", "--names", "blocks.0.attn.hook_pattern"]
    assert_one_line(run(*common), 1, "'sdpa' has no attention probabilities", "eager")
    done = run(*common, "--attention", "eager")
    assert done.code == 0 and "[1, 4, 2, 2]" in done.out


def test_windows(run: Run, model: Path) -> None:
    common = ["cache", model, "--text", " ".join(["w1"] * 40), *POST]
    assert_one_line(run(*common), 1, "has 40 tokens", "at most 32", "window")
    done = run(*common, "--overlong", "window")
    assert done.code == 0 and "row 1, of text 0:" in done.out and "[2, 32, 37]" in done.out


def test_the_list_of_sites(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("cache", model, "--list")
    assert done.code == 0, done.err
    lines = {line.split()[0]: line for line in done.out.splitlines() if line.strip()}
    assert "[B, T, 37]" in lines["blocks.2.mlp.hook_post"]
    assert "[B, T, 4, 5]" in lines["blocks.0.attn.hook_q"]
    assert "[B, T, 97]" in lines["unembed.hook_out"]
    assert "[B, 4, T, S]" in lines["blocks.0.attn.hook_pattern"]
    assert "with --attention eager" in lines["blocks.0.attn.hook_pattern"]
    assert not done.err.strip()
    some = json.loads(run("cache", model, "--list", *POST, "--json").out)
    assert [site["name"] for site in some] == [f"blocks.{i}.mlp.hook_post" for i in range(3)]
    monkeypatch.setattr(cache_view.out, "width", 40)
    narrow = run("cache", FOLDERS["t5"], "--list").out
    assert "decoder_blocks.0.cross_attn.hook_attn_scores  [B, 4, T, S]" in narrow
    relative = json.loads(run("cache", FOLDERS["t5"], "--list", "--json").out)
    shapes = {site["name"]: site["shape"] for site in relative}
    assert shapes["hook_pos_embed"].startswith("[T, S, ")


def test_a_corpus(run: Run, model: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    common = ["cache", model, corpus, "--unit", "line", *POST, "--out", out]
    done = run(*common)
    assert done.code == 0, done.err
    assert "11 tokens × 444 bytes = 4.88 kB" in done.err
    assert "11 tokens of 4 units" in done.err and f'pyengine.open_run("{out}")' in done.err
    assert "blocks.2.mlp.hook_post" in done.out
    found = open_run(out)
    assert isinstance(found, CachedActivations)
    assert [len(found.tokens(unit)) for unit in range(4)] == [3, 4, 1, 3]
    _, cache = run_with_cache(load(model), "w4 w5 w6 w7", POST[1], return_type=None)
    for name, values in found.unit(1).items():
        torch.testing.assert_close(values, cache[name][0], atol=1e-5, rtol=1e-5)
    assert "intact" in run("verify", out).out
    summary = json.loads(run(*common, "--json").out)
    assert summary["n_units"] == 4 and summary["sites"][0]["bytes"] == 11 * 37 * 4
    half = run(*common[:-1], tmp_path / "half", "--save-dtype", "bfloat16", "--max-units", 2)
    assert half.code == 0 and "7 tokens × 222 bytes" in half.err and "bfloat16" in half.out


def test_shards(run: Run, model: Path, corpus: Path, tmp_path: Path) -> None:
    common = ["cache", model, corpus, "--unit", "line", *POST, "--block-tokens", 3]
    assert run(*common, "--out", tmp_path / "whole").code == 0
    for index in range(2):
        done = run(*common, "--out", tmp_path / str(index), "--shard", f"{index}/2")
        assert done.code == 0 and f"shard {index}/2 is done" in done.err
    done = run("merge", tmp_path / "0", tmp_path / "1", "--out", tmp_path / "merged")
    assert done.code == 0 and "merged 11 tokens" in done.err
    names = sorted(path.name for path in (tmp_path / "whole" / "activations").iterdir())
    assert len(names) == 3
    for name in names:
        pair = [tmp_path / folder / "activations" / name for folder in ("whole", "merged")]
        assert pair[0].read_bytes() == pair[1].read_bytes()


def test_showing_a_run(
    run: Run, model: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("cache", model, corpus, "--unit", "line", *POST, "--out", tmp_path / "run")
    found = open_run(tmp_path / "run")
    cache_view.show_activations(found, None, False)
    assert "blocks.1.mlp.hook_post" in capsys.readouterr().out
    cache_view.show_activations(found, 1, False)
    shown = capsys.readouterr().out
    assert "unit 1: w4 w5 w6 w7" in shown and "[4, 37]" in shown
    cache_view.show_activations(found, 1, True)
    assert json.loads(capsys.readouterr().out)["tokens"] == found.tokens(1)


def test_an_interruption_says_how_to_resume(
    run: Run, model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cached_activations, "run_into_parts", interrupt)
    done = run("cache", model, corpus, *POST, "--out", tmp_path / "run")
    assert done.code == 130 and "run the same command again to resume" in done.err


def test_errors_are_one_line(
    run: Run, model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--out", tmp_path / "run"]
    text = ["cache", model, "--text", "w1 w2"]
    assert_one_line(run(*text, "--names", "blocks.0.mlp.hook_pots"), 1, "did you mean blocks.0")
    assert_one_line(run("cache", model, "--text", "", *POST), 1, "has no tokens")
    assert_one_line(run(*text, *POST, "--pos", 2), 1, "2 is not one of them")
    assert_one_line(run(*text, *POST, "--target", "w1"), 1, "target is for")
    assert_one_line(run("cache", model), 2, "give --text, or a corpus")
    assert_one_line(run("cache", model, corpus, "--text", "w1"), 2, "give --text, or a corpus")
    assert_one_line(run("cache", model, corpus, *out), 2, "needs --names and --out")
    assert_one_line(run("cache", model, corpus, *POST), 2, "needs --names and --out")
    assert_one_line(run(*text, *POST, "--max-units", 3), 2, "--max-units is for a corpus")
    assert_one_line(run("cache", model, corpus, *POST, *out, "--pos", 1), 2, "--pos is for texts")
    logits = ["--names", "unembed.hook_out"]
    assert_one_line(run("cache", model, corpus, *logits, *out), 1, "output head", "--text")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(0, 0, 100))
    full = run("cache", model, corpus, *POST, *out)
    assert full.code == 1 and "error:" in full.err.splitlines()[-1]
    assert "100 bytes left; take fewer units (--max-units)" in full.err
    assert not (tmp_path / "run").exists()
