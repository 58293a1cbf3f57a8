"""Drawn corpora: what they hold, and the stages that take them to batches, at toy size."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from benchmarks import _corpus_scale, _corpus_text, _machine, corpus
from pyengine import Corpus
from pyengine.embedded import EXCERPT, MODEL
from pyengine.store import TokenStore, tokenize
from pyengine.text import heading_level


@pytest.fixture(scope="module")
def paragraphs() -> list[str]:
    return _corpus_text.paragraphs_in(EXCERPT)


def test_paragraphs_are_those_of_the_file(paragraphs: list[str], tmp_path: Path) -> None:
    lines = [line.strip() for line in EXCERPT.read_text(encoding="utf-8").split("\n")]
    assert set(paragraphs) == {line for line in lines if line and not heading_level(line)}
    for name in ("b", "a"):
        (tmp_path / f"{name}.tokens").write_text(f" = Title = \n \n {name} . \n")
    assert _corpus_text.paragraphs_in(tmp_path) == ["a .", "b ."]
    (tmp_path / "empty").write_text(" = Title = \n")
    with pytest.raises(SystemExit, match="no paragraphs"):
        _corpus_text.paragraphs_in(tmp_path / "empty")


@pytest.mark.parametrize("words", [1, 5_000, 700_000])
def test_drawing_stops_at_the_words_asked_for(
    words: int, paragraphs: list[str], tmp_path: Path
) -> None:
    _corpus_text.write_corpus(tmp_path / "a", paragraphs, words, seed=3)
    lines = (tmp_path / "a").read_text(encoding="utf-8").split("\n")[:-1]
    lengths = [len(line.split()) for line in lines]
    assert sum(lengths) >= words > sum(lengths[:-1])
    assert {line.strip() for line in lines} <= set(paragraphs)
    _corpus_text.write_corpus(tmp_path / "b", paragraphs, words, seed=3)
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    _corpus_text.write_corpus(tmp_path / "c", paragraphs, words, seed=4)
    assert (tmp_path / "c").read_bytes() != (tmp_path / "a").read_bytes()


@pytest.mark.parametrize("damage", ["none", "a token", "a unit", "the end"])
def test_a_wrong_store_is_found(damage: str, paragraphs: list[str], tmp_path: Path) -> None:
    words, tokenizer = 4_000, AutoTokenizer.from_pretrained(MODEL)
    _corpus_text.write_corpus(tmp_path / "drawn.tokens", paragraphs, words, seed=0)
    store = tokenize(Corpus.from_wikitext(tmp_path / "drawn.tokens"), tokenizer, max_tokens=1024)
    tokens, offsets = store.tokens.copy(), store.offsets.copy()
    if damage == "a token":
        tokens[len(tokens) // 2] ^= 1
    elif damage == "a unit":
        offsets = np.delete(offsets, 5)
    elif damage == "the end":
        tokens, offsets = tokens[: offsets[-2]], offsets[:-1]
    given = TokenStore.in_memory(tokens, offsets, store.report, adds_special=True)
    arguments = (given, paragraphs, words, 0, tokenizer, tmp_path)
    if damage == "none":
        _corpus_text.check_store(*arguments)
        return
    with pytest.raises(RuntimeError, match="the store"):
        _corpus_text.check_store(*arguments)


@pytest.mark.slow
def test_all_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = _corpus_scale.measure

    def toy(scale: _corpus_scale.Scale, folder: Path) -> dict[str, Any]:
        assert scale == _corpus_scale.Scale(str(EXCERPT), 9000, 2, str(MODEL))
        return measure(replace(scale, chunk_units=64), folder)

    monkeypatch.setattr(_corpus_scale, "measure", toy)
    monkeypatch.setattr(_machine, "RESULTS", tmp_path / "results")
    keep = tmp_path / "kept"
    corpus.main(["--words", "9000", "--seed", "2", "--keep", str(keep), "--save", "toy"])
    assert "tokenised after a kill half-way, right" in capsys.readouterr().out
    assert [path.name for path in keep.iterdir()] == ["drawn-9000-2.tokens"]
    record = json.loads((tmp_path / "results" / "toy.json").read_text())
    assert record["command"].endswith("--words 9000 --seed 2 --keep kept --save toy")
    found = record["figures"]
    assert found["words"] == 9000
    assert found["tokens"] > 9000 and found["units"] > 100
    for figures in (found, found["batches_cpu"], found["batches_cuda"]):
        assert figures["cpu_seconds"] > 0 and figures["peak_bytes"] > 1 << 20


def test_results_are_of_drawn_corpora() -> None:
    with pytest.raises(SystemExit):
        corpus.main(["--save", "toy"])
