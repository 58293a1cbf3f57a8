"""What fine-tuning reads: pairs, cutting, and tasks without a dev set."""

import numpy as np
import pytest
import torch
from finetune_cases import easy_task, special_tokenizer, tuned_model
from tiny_models import tiny_model, word_tokenizer

from pyengine import PyengineError, load
from pyengine.heads.finetune_data import Reader, collated, labelled_rows, split
from pyengine.heads.task import (
    CLASSES,
    INNER_K_FOLD,
    K_FOLD,
    SIMILARITY,
    UNSUPERVISED,
    Examples,
    Task,
)

BEGIN, END = 2, 3  # what the tokenizer puts before and after a text
FIRST_WORD = 4  # the token of w0


def words(*numbers: int) -> list[int]:
    return [FIRST_WORD + number for number in numbers]


def numbered(n: int) -> Examples:
    return Examples(tuple(f"w{i}" for i in range(n)), None, np.arange(n, dtype=np.int64) % 2)


def test_bert_reads_a_pair_in_its_own_format() -> None:
    reader = Reader(tuned_model("bert"), 16)
    (row,) = reader.rows(["w1 w2"], ["w3"])
    assert reader.joint is None
    assert row["input_ids"] == [BEGIN, *words(1, 2), END, *words(3), END]
    assert row["token_type_ids"] == [0, 0, 0, 0, 1, 1]


def test_t5_reads_a_pair_without_token_types() -> None:
    (row,) = Reader(tuned_model("t5"), 16).rows(["w1"], ["w3"])
    assert row == {"input_ids": [BEGIN, *words(1), END, *words(3), END]}


def test_a_tokenizer_without_a_format_for_pairs_has_a_token_between() -> None:
    causal = Reader(tuned_model("gpt2"), 16)
    assert causal.joint == END
    assert causal.rows(["w1 w2"], ["w3"]) == [{"input_ids": [*words(1, 2), END, *words(3)]}]
    plain = load((tiny_model("bert"), special_tokenizer(pairs=False)))
    (row,) = Reader(plain, 16).rows(["w1"], ["w3"])
    assert row["input_ids"] == [BEGIN, *words(1), END, *words(3), END]


def test_the_token_between_is_one_that_the_model_has() -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"sep_token": "<sep>"})  # has no row in the embedding
    tokenizer.eos_token = tokenizer.bos_token = None
    model = load((tiny_model("gpt2", vocab_size=94), tokenizer))
    assert tokenizer.sep_token_id >= model.vocab_size
    assert Reader(model, 16).joint == tokenizer.unk_token_id


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_of_a_pair_the_longer_sentence_is_cut_first(family: str) -> None:
    reader = Reader(tuned_model(family), 9)
    long, short = " ".join(f"w{i}" for i in range(12)), "w50 w51"
    around = 3 if family == "bert" else 1
    for pair in ((long, short), (short, long)):
        (row,) = reader.rows([pair[0]], [pair[1]])
        assert len(row["input_ids"]) == 9
        kept = [token for token in row["input_ids"] if token > END]
        assert [token for token in kept if token >= FIRST_WORD + 50] == words(50, 51)
        assert len(kept) == 9 - around
    (row,) = reader.rows([long], [long])
    kept = [token for token in row["input_ids"] if token > END]
    assert kept.count(FIRST_WORD) == 2
    assert len(row["input_ids"]) == 9


def test_a_single_text_is_cut_inside_its_special_tokens() -> None:
    model = tuned_model("bert")
    before = model.tokenizer_fingerprint
    (row,) = Reader(model, 5).rows(["w1 w2 w3 w4 w5 w6"])
    assert row["input_ids"] == [BEGIN, *words(1, 2, 3), END]
    Reader(model, 5).rows(["w1 w2 w3 w4 w5 w6"], ["w1"])
    assert model.tokenizer.backend_tokenizer.truncation is None  # type: ignore[union-attr]
    assert load((model.hf, model.tokenizer)).tokenizer_fingerprint == before


def test_an_empty_sentence_is_a_full_stop() -> None:
    (empty,) = Reader(tuned_model("gpt2"), 16).rows([" "])
    assert empty["input_ids"] == [1]  # unknown to this tokenizer


def test_lengths_that_cannot_be_are_refused() -> None:
    for length in (3, 33):
        with pytest.raises(PyengineError, match="between 4 and 32"):
            Reader(tuned_model("gpt2"), length)


def test_rows_are_padded_on_the_right() -> None:
    reader = Reader(tuned_model("bert"), 16)
    part = Examples(("w1", "w1 w2"), ("w3", "w4"), np.array([0.5, 2.0]))
    batch = collated(labelled_rows(reader, part, "scores"), pad_id=0)
    assert batch["input_ids"][0].tolist() == [BEGIN, *words(1), END, *words(3), END, 0]
    assert batch["attention_mask"].tolist() == [[1] * 5 + [0], [1] * 6]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1]]
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == [0.5, 2.0]


def test_given_parts_are_used_as_they_are() -> None:
    task = easy_task()
    assert split(task) == task.parts


def test_dev_is_drawn_from_train() -> None:
    parts = {"train": numbered(40), "test": numbered(7)}
    found = split(Task("t", CLASSES, K_FOLD, ("a", "b"), parts))
    assert {name: len(part) for name, part in found.items()} == {"train": 38, "dev": 2, "test": 7}
    assert sorted(found["train"].first + found["dev"].first) == sorted(parts["train"].first)


def test_dev_and_test_are_drawn_from_all() -> None:
    whole = numbered(40)
    task = Task("t", CLASSES, INNER_K_FOLD, ("a", "b"), {"all": whole})
    found, again = split(task), split(task)
    assert {name: len(part) for name, part in found.items()} == {"train": 32, "dev": 4, "test": 4}
    texts = [text for part in found.values() for text in part.first]
    assert sorted(texts) == sorted(whole.first)
    assert found["test"].first == again["test"].first
    target = dict(zip(whole.first, whole.targets, strict=True))
    for part in found.values():
        assert [target[text] for text in part.first] == part.targets.tolist()


def test_what_cannot_be_trained_is_refused() -> None:
    pairs = Examples(("w1",), ("w2",), np.array([1.0]))
    with pytest.raises(PyengineError, match="nothing to train on"):
        split(Task("STS12", SIMILARITY, UNSUPERVISED, (), {"MSRpar": pairs}))
    few = {"train": numbered(1), "test": numbered(1)}
    with pytest.raises(PyengineError, match="too few"):
        split(Task("t", CLASSES, K_FOLD, ("a", "b"), few))
