"""The token store: tokens as the tokenizer gives them, located, and compared by prefix."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import byte_tokenizer, word_tokenizer
from tokenizers import normalizers

from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.store import TokenStore, tokenize, tokenizer_hash

TEXTS = ["the cat sat .", "a dog", "the cat on the mat !", "one"]
UNITS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=25)


def test_holds_what_the_tokenizer_gives(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    store = tokenize(Corpus.from_texts(TEXTS), tokenizer, max_tokens=99, cache_dir=tmp_path)
    for i, text in enumerate(TEXTS):
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert store.unit_tokens(i).tolist() == expected
    assert store.tokens.dtype == np.uint16 and store.offsets.dtype == np.int64
    assert store.n_units == len(TEXTS) and store.n_tokens == store.offsets[-1]
    assert store.lengths.tolist() == [4, 2, 6, 1]
    assert store.adds_special
    assert not store.tokens.flags.writeable
    with pytest.raises(IndexError):
        store.unit_tokens(4)


def test_truncation_and_padding_of_the_tokenizer_do_not_matter() -> None:
    tokenizer = word_tokenizer()
    hashed = tokenizer_hash(tokenizer)
    tokenizer(TEXTS, truncation=True, max_length=2, padding="max_length")
    assert tokenizer.backend_tokenizer.truncation is not None
    store = tokenize(Corpus.from_texts(TEXTS), tokenizer, max_tokens=99)
    assert store.lengths.tolist() == [4, 2, 6, 1]
    assert tokenizer.backend_tokenizer.truncation is not None
    assert tokenizer_hash(tokenizer) == hashed


def test_tokenizer_hash() -> None:
    assert tokenizer_hash(word_tokenizer()) == tokenizer_hash(word_tokenizer())
    assert tokenizer_hash(word_tokenizer()) != tokenizer_hash(byte_tokenizer())
    assert tokenizer_hash(object()) is None


class SlowTokenizer:
    """A tokenizer without a Rust backend."""

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        return {"input_ids": [[ord(char) for char in text] for text in texts]}


def test_a_slow_tokenizer_stays_in_memory(tmp_path: Path) -> None:
    store = tokenize(
        Corpus.from_texts(["ab", "c"]), SlowTokenizer(), max_tokens=9, cache_dir=tmp_path
    )
    assert store.unit_tokens(0).tolist() == [97, 98] and store.adds_special
    assert list(tmp_path.iterdir()) == []


def test_the_hash_does_not_depend_on_the_width_of_the_tokens() -> None:
    tokenizer = byte_tokenizer()
    text = tokenize(Corpus.from_texts(["ab"]), tokenizer, max_tokens=9)
    given_ids = tokenize(Corpus.from_token_ids([tokenizer("ab")["input_ids"]]), max_tokens=9)
    wide = TokenStore.in_memory(
        text.tokens.astype(np.uint32), text.offsets, text.report, adds_special=True
    )
    assert text.content_hash == given_ids.content_hash == wide.content_hash
    other = tokenize(Corpus.from_token_ids([[1, 2], [3]]), max_tokens=9)
    cut = tokenize(Corpus.from_token_ids([[1], [2, 3]]), max_tokens=9)
    assert other.content_hash != cut.content_hash


def test_a_large_vocabulary_needs_32_bits() -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens([f"w{i}" for i in range(1 << 16)])
    store = tokenize(Corpus.from_texts(["w65535"]), tokenizer, max_tokens=9)
    assert store.tokens.dtype == np.uint32
    assert store.tokens.tolist() == tokenizer("w65535")["input_ids"]


def test_units_without_tokens_are_skipped() -> None:
    tokenizer = word_tokenizer()
    corpus = Corpus.from_texts(["a", "\u200b", "the"])
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    store = tokenize(corpus, tokenizer, max_tokens=9)
    assert store.report.skipped_empty == 1 and store.n_units == 2


def test_bad_calls() -> None:
    with pytest.raises(PyengineError, match="needs a tokenizer"):
        tokenize(Corpus.from_texts(TEXTS), None, max_tokens=9)
    with pytest.raises(PyengineError, match="no room"):
        tokenize(Corpus.from_texts(TEXTS), word_tokenizer(), max_tokens=0)
    window = Corpus.from_texts(TEXTS, unit="window", window=10)
    with pytest.raises(PyengineError, match="window=10 is more than the 9"):
        tokenize(window, word_tokenizer(), max_tokens=9)
    with pytest.raises(PyengineError, match=r"all 4 units are longer than 1 .*split"):
        corpus = Corpus.from_texts([*TEXTS[:3], "the cat"], long="drop")
        tokenize(corpus, word_tokenizer(), max_tokens=1)


def test_progress(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("the cat\n\na dog\n")
    seen: list[tuple[int, int]] = []
    corpus = Corpus.from_path(path)
    tokenize(corpus, word_tokenizer(), max_tokens=9, progress=lambda *now: seen.append(now))
    assert seen == [(15, 15)]


@given(UNITS)
def test_locate(units: list[list[int]]) -> None:
    store = tokenize(Corpus.from_token_ids(units), max_tokens=9)
    found, positions = store.locate(np.arange(-1, store.n_tokens))
    expected = [(-1, -1)] + [(u, p) for u, unit in enumerate(units) for p in range(len(unit))]
    assert list(zip(found.tolist(), positions.tolist(), strict=True)) == expected
    assert found.dtype == np.int64 and positions.dtype == np.int32


def test_locate_keeps_the_shape_and_refuses_other_ids() -> None:
    store = tokenize(Corpus.from_token_ids([[1, 2], [3]]), max_tokens=9)
    found, positions = store.locate(np.array([[2, -1], [0, 1]]))
    assert found.tolist() == [[1, -1], [0, 0]] and positions.tolist() == [[0, -1], [0, 1]]
    assert store.locate(np.zeros((2, 0), np.int64))[0].shape == (2, 0)
    for wrong in (3, -2):
        with pytest.raises(IndexError):
            store.locate(np.array([wrong]))


@given(UNITS)
def test_prefix_starts_equals_a_set_of_prefixes(units: list[list[int]]) -> None:
    seen: set[tuple[int, ...]] = set()
    expected = []
    for unit in units:
        prefixes = [tuple(unit[: p + 1]) for p in range(len(unit))]
        new = [p for p, prefix in enumerate(prefixes) if prefix not in seen]
        expected.append(new[0] if new else len(unit))
        seen.update(prefixes)
    starts = tokenize(Corpus.from_token_ids(units), max_tokens=9).prefix_starts()
    assert starts.tolist() == expected
    assert starts.dtype == np.int32


def test_prefix_starts_is_computed_once() -> None:
    store = tokenize(Corpus.from_token_ids([[1], [1]]), max_tokens=9)
    assert store.prefix_starts() is store.prefix_starts()
    assert store.prefix_starts().tolist() == [0, 1]


def test_special_tokens_in_the_text_follow_the_tokenizers_own_setting() -> None:
    tokenizer = byte_tokenizer()
    text = "a<|endoftext|>"
    parsed = tokenize(Corpus.from_texts([text]), tokenizer, max_tokens=99)
    assert parsed.tokens.tolist() == tokenizer(text)["input_ids"]
    tokenizer(text, split_special_tokens=True)  # leaves a trace in the backend
    again = tokenize(Corpus.from_texts([text + "b"]), tokenizer, max_tokens=99)
    assert again.tokens.tolist()[:2] == parsed.tokens.tolist()
