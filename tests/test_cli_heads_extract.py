"""`pyengine heads extract`, and what `show`, `merge`, `verify` and `export` do with a bank."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import Run, assert_one_line
from heads_helpers import bank_hashes, random_sentence
from rank_helpers import one_rank

from pyengine import estimates, open_run


@pytest.fixture
def probing(tmp_path: Path) -> Path:
    """A probing file of random sentences, one of them far too long."""
    rng, path = np.random.default_rng(0), tmp_path / "colours.txt"
    parts = ["tr"] * 20 + ["va"] * 6 + ["te"] * 6
    texts = [random_sentence(rng) for _ in parts]
    texts[3] = " ".join(["w1"] * 50)
    texts[4] = texts[5]
    lines = [
        f"{part}\t{('red', 'blue')[i % 2]}\t{text}"
        for i, (part, text) in enumerate(zip(parts, texts, strict=True))
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


SMALL = ["--block-tokens", 60, "--batch-tokens", 48]


def test_a_bank_is_made_shown_verified_and_exported(
    run: Run, model: Path, probing: Path, tmp_path: Path
) -> None:
    bank = tmp_path / "bank"
    done = run("heads", "extract", model, probing, "--out", bank, *SMALL)
    assert done.code == 0, done.err
    assert "colours" in done.out and "train 20, dev 6, test 6" in done.out
    assert "head (decoder)" in done.out and "4 × 5" in done.out and "last" in done.out
    assert "1 sentences are longer" in done.err and f"→ {bank}" in done.err
    assert f"pyengine heads probe {bank}" in done.err
    found = open_run(bank)
    assert {place.location for place in found.places} == {"head", "block"}

    shown = run("show", bank)
    assert shown.code == 0 and "colours" in shown.out and shown.out == done.out
    assert json.loads(run("show", bank, "--json").out)["analysis"] == "heads"
    assert_one_line(run("show", bank, "--unit", 0), 2, "--unit")
    assert run("verify", bank).code == 0
    assert run("export", bank, "--out", tmp_path / "bank.parquet").code == 0
    assert len(pq.read_table(tmp_path / "bank.parquet")) == found.n_sentences * 15

    again = run("heads", "extract", model, probing, "--out", bank, *SMALL, "--json")
    summary = json.loads(again.out)
    assert summary["sentences"] == found.n_sentences and summary["truncated"] == 1
    assert summary["sentences"] + summary["duplicates"] == 32 and summary["duplicates"] >= 1
    assert summary["bytes"] == found.n_sentences * 6 * 20 * 4 and summary["run"] == str(bank)
    assert summary["tasks"][0]["classes"] == 2 and summary["exact"]


def test_locations_pooling_and_dtype(run: Run, model: Path, probing: Path, tmp_path: Path) -> None:
    more = ["--location", "ffn", "--location", "neurons", "--pooling", "pad"]
    more += ["--save-dtype", "float16"]
    done = run("heads", "extract", model, probing, "--out", tmp_path / "bank", *more)
    assert done.code == 0, done.err
    found = open_run(tmp_path / "bank")
    assert {(p.location, p.width, p.pooling) for p in found.places} == {
        ("ffn", 20, "pad"),
        ("neurons", 37, "pad"),
    }
    assert found.manifest["question"]["save_dtype"] == "float16"


def test_a_dry_run_says_what_a_run_takes_and_leaves_nothing(
    run: Run, model: Path, probing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "SAMPLE_SECONDS", 0.02)
    arguments = ["heads", "extract", model, probing, "--out", tmp_path / "bank"]
    done = run(*arguments, "--dry-run")
    assert done.code == 0, done.err
    assert not (tmp_path / "bank").exists()
    assert "sentences ×" in done.err and "free" in done.err and "vectors" in done.out
    assert "An estimate for extract_heads" in done.out and "of one worker" in done.out
    assert run(*arguments, "--dry-run", "--shard", "0/2").code == 2
    planned = json.loads(run(*arguments, "--dry-run", "--json").out)
    assert planned["free"] > 0 and planned["seconds"]["value"] > 0
    assert planned["disk"] == planned["bytes"] and planned["n_units"] == planned["sentences"]
    written = json.loads(run(*arguments, "--json").out)
    same = planned.keys() & written.keys()
    assert {name: planned[name] for name in same} == {name: written[name] for name in same}
    assert written.keys() - same == {"run", "n_overflow", "n_nan", "exact"}
    sizes = [file.stat().st_size for file in (tmp_path / "bank" / "vectors").iterdir()]
    assert planned["bytes"] < sum(sizes) < planned["bytes"] + 2000 * len(sizes)


def test_shards_are_merged(run: Run, model: Path, probing: Path, tmp_path: Path) -> None:
    arguments = ["heads", "extract", model, probing, *SMALL]
    assert run(*arguments, "--out", tmp_path / "whole").code == 0
    for index in range(3):
        out = tmp_path / str(index)
        done = run(*arguments, "--out", out, "--shard", f"{index}/3")
        assert done.code == 0 and "pyengine merge" in done.err, done.err
    merged = run("merge", *(tmp_path / str(i) for i in range(3)), "--out", tmp_path / "merged")
    assert merged.code == 0 and "tokens" in merged.err, merged.err
    assert bank_hashes(tmp_path / "merged") == bank_hashes(tmp_path / "whole")


def test_a_rank_makes_the_same_bank(
    run: Run, model: Path, probing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["heads", "extract", model, probing, *SMALL]
    assert run(*arguments, "--out", tmp_path / "whole").code == 0
    one_rank(monkeypatch)
    done = run(*arguments, "--out", tmp_path / "ranks", "--tasks", 3)
    assert done.code == 0, done.err
    assert bank_hashes(tmp_path / "ranks") == bank_hashes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["TRECK"], ["unknown task 'TRECK'"]),
        (["colours.txt", "--location", "heads"], ["unknown location 'heads'"]),
        (["colours.txt", "--pooling", "max"], ["unknown pooling 'max'"]),
        (["colours.txt", "colours.txt"], ["two tasks are called colours"]),
    ],
)
def test_bad_arguments_are_one_line(
    run: Run,
    model: Path,
    probing: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(probing.parent)
    assert_one_line(run("heads", "extract", model, *arguments, "--out", "bank"), 1, *words)
    assert not Path("bank").exists()
