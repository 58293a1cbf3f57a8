"""The hard cases of mega002/ff-layers that concern values and their keys' trigger examples."""

from pathlib import Path
from typing import Any

import pytest
import torch
from agreement_cases import SIZE, known_network
from tiny_models import word_tokenizer

import pyengine
from pyengine import Corpus


def key_of(word: str) -> int:
    return word_tokenizer().get_vocab()[word]


def agree_on(texts: list[str], word: str, value: dict[str, float], **settings: Any) -> Any:
    """Give the key of `word` a value, a component per word; return the value's agreement."""
    values = torch.zeros(SIZE, SIZE)
    for written, size in value.items():
        values[key_of(word), key_of(written)] = size
    model = pyengine.load((known_network(values), word_tokenizer()))
    triggers = pyengine.trigger_examples(model, Corpus.from_texts(texts), k=2)
    found = pyengine.key_value_agreement(model, triggers, **settings)
    return found.table.slice(key_of(word), 1).to_pylist()[0]


def read_line(folder: Path, line: str) -> pyengine.Targets:
    folder.mkdir()
    (folder / "6_0.txt").write_text(line)
    model = pyengine.load((known_network(torch.zeros(SIZE, SIZE)), word_tokenizer()))
    return pyengine.read_ff_layers(folder, model)


@pytest.mark.parametrize(("target", "expected"), [(None, "w4"), ("next", "w4"), ("input", "w3")])
def test_case_8_targets_of_the_paper_and_of_the_published_script(
    target: str | None, expected: str
) -> None:
    row = agree_on(["w1 w2 w3 w4 w5"], "w3", {"w4": 5.0}, target=target)
    assert row["targets"] == [key_of(expected), None]
    assert row["agrees"] is (expected == "w4")
    assert row["top_text"] == " w4"


def test_case_8_ff_layers_files_are_read_with_the_starred_word_as_the_next(tmp_path: Path) -> None:
    targets = read_line(tmp_path / "outp", "1.0\tw1 w2 w3 *w4*\n")
    assert (int(targets.next), int(targets.input)) == (key_of("w4"), key_of("w3"))


def test_case_4_and_8_a_start_symbol_that_fired_has_no_input(tmp_path: Path) -> None:
    targets = read_line(tmp_path / "outp", "1.0\t*w7*\n")
    assert (int(targets.next), int(targets.input)) == (key_of("w7"), -1)


def test_case_9_flat_softmax_ranks_the_same_at_any_scale() -> None:
    """ff-layers' adaptive softmax does not: there, scaled and unscaled values can differ."""
    value = {"w1": 1.0, "w4": 0.9, "w5": 0.5, "w6": -0.4}
    rows = [
        agree_on(["w2 w5", "w2 w6"], "w2", {word: scale * x for word, x in value.items()})
        for scale in (0.01, 1.0, 10.0)
    ]
    for row in rows:
        assert row["top_tokens"] == rows[0]["top_tokens"]
        assert row["top_tokens"][:3] == [key_of("w1"), key_of("w4"), key_of("w5")]
        assert row["target_ranks"] == [2, 96]
    probs = [row["top_prob"] for row in rows]
    assert probs == sorted(probs) and probs[-1] > 50 * probs[0]


def test_case_12_duplicates_count_twice_among_the_matches() -> None:
    row = agree_on(["w1 w2", "w1 w2", "w3 w4"], "w1", {"w2": 2.0})
    assert (row["matches"], row["n_targets"]) == (2, 2)
