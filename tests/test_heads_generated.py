"""Probing tasks made of a corpus follow SentEval's definitions."""

import pytest
from generated_cases import RARE, SIZES, assert_balanced, corpus, every
from hypothesis import given
from hypothesis import strategies as st

from pyengine.errors import PyengineError
from pyengine.heads.generated_tasks import generate_task
from pyengine.heads.sentence_pool import SentencePool, tokenized

BINS = {"0": (5, 8), "1": (9, 12), "2": (13, 16), "3": (17, 20), "4": (21, 25), "5": (26, 28)}


def test_sentence_length_has_the_published_bins() -> None:
    task = generate_task("sentence_length", corpus(), **SIZES)
    assert task.labels == tuple(BINS)
    assert_balanced(task, 6)
    for label, text in every(task):
        least, most = BINS[label]
        assert least <= len(text.split()) <= most


def test_every_length_is_in_its_bin() -> None:
    texts = [" ".join([f"w{i}"] + ["x"] * (n - 2) + ["."]) for n in range(2, 40) for i in range(9)]
    task = generate_task("sentence_length", texts, n_train=60, n_dev=6, n_test=6)
    lengths = {len(text.split()) for _, text in every(task)}
    assert min(lengths) >= 5 and max(lengths) <= 28
    # Nine of each length; three lengths at least to a class.
    with pytest.raises(PyengineError, match=r"the corpus has 27 of '5'; .* \(in all at most 162\)"):
        generate_task("sentence_length", texts, n_train=6 * 26, n_dev=6, n_test=6)


def shift(text: str, original: str) -> tuple[int, list[str], list[str]] | None:
    """Return where two neighbours have changed places, if that is all that differs."""
    one, other = text.split(), original.split()
    differ = [i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
    if len(one) != len(other) or len(differ) != 2 or differ[1] != differ[0] + 1:
        return None
    i, j = differ
    return (i, one, other) if (one[i], one[j]) == (other[j], other[i]) else None


def test_bigram_shift_swaps_two_neighbouring_words() -> None:
    sentences = corpus()
    task = generate_task("bigram_shift", sentences, **SIZES)
    assert task.labels == ("I", "O")
    assert_balanced(task, 2)
    places = set()
    for label, text in every(task):
        assert '"' not in text
        if label == "O":
            assert text in sentences
            continue
        assert text not in sentences
        found = [one for original in sentences if (one := shift(text, original))]
        assert found
        i, words, _ = found[0]
        assert i >= 1 and not {",", "."} & {words[i], words[i + 1]}
        places.add(i)
    assert len(places) > 5


def test_bigram_shift_leaves_out_what_cannot_be_shifted() -> None:
    stuck = [f"Well , x{i} , no no no ." for i in range(50)]
    sentences = [*corpus(), *stuck]
    task = generate_task("bigram_shift", sentences, **SIZES)
    assert not {text for _, text in every(task)} & set(stuck)
    with pytest.raises(PyengineError, match="the corpus has 0 of 'I'"):
        generate_task("bigram_shift", stuck, **SIZES)


def test_bigram_shift_makes_no_sentence_that_the_corpus_has() -> None:
    # Only one pair of words may be swapped, and both orders occur.
    both = [f"X{i} {a} {b} , yes ." for i in range(40) for a, b in (("p", "q"), ("q", "p"))]
    with pytest.raises(PyengineError, match="the corpus has 0 of 'I'"):
        generate_task("bigram_shift", both, n_train=2, n_dev=2, n_test=2)


def test_word_content_has_exactly_one_target_once() -> None:
    task = generate_task("word_content", corpus(), **SIZES, n_words=6, first_rank=4)
    assert task.labels == tuple(sorted(RARE))
    assert_balanced(task, 6)
    for label, text in every(task):
        assert [word for word in text.lower().split() if word in RARE] == [label]


def test_word_content_takes_words_by_rank() -> None:
    # By falling frequency: w1 ... w9 with letters; the numbers and the short word are no words.
    words = ["alpha", "bravo", "1999", "charlie", "cat", "delta", "echoes"]
    sentences = [
        f"So {word} {word if twice else 'is'} n{i} it ."
        for rank, word in enumerate(words)
        for i in range(40 - rank)
        for twice in (False, True)
    ]
    options = {"n_train": 12, "n_dev": 3, "n_test": 3, "n_words": 3}
    filler = 4  # so, it, "." and is
    for skipped, labels in ((0, "alpha bravo charlie"), (1, "bravo charlie delta")):
        task = generate_task("word_content", sentences, **options, first_rank=filler + 1 + skipped)
        assert task.labels == tuple(labels.split())
        assert all(text.lower().split().count(label) == 1 for label, text in every(task))
    with pytest.raises(PyengineError, match="the corpus has 2 words from rank 10 on, not 3"):
        generate_task("word_content", sentences, **options, first_rank=10)


@pytest.mark.parametrize("kind", ["sentence_length", "bigram_shift", "word_content"])
def test_the_order_of_the_corpus_and_repeats_do_not_matter(kind: str) -> None:
    sentences = corpus()
    options = {**SIZES, "n_words": 6, "first_rank": 4}
    task = generate_task(kind, sentences, **options)
    assert every(generate_task(kind, [*reversed(sentences), *sentences], **options)) == every(task)
    assert every(generate_task(kind, SentencePool.of(sentences), **options)) == every(task)
    assert every(generate_task(kind, sentences, **options, seed=1)) != every(task)
    fewer = generate_task(kind, sentences, **{**options, "n_train": 30})
    for part in ("dev", "test"):
        assert fewer.parts[part].first == task.parts[part].first
    # Classes are mixed.
    assert len(set(task.parts["train"].targets[:12].tolist())) > 1


def test_what_a_pool_takes() -> None:
    texts = [
        "This one is fine.",
        "This one is fine .",
        "Too short.",
        " ".join(["word"] * 28) + " .",
        "== A heading of some words ==",
        "A fragment without an end",
        '" A quotation that goes on .',
        "It has <unk> in it .",
        "Is a question fine ?",
    ]
    assert SentencePool.of(texts).texts == {"This one is fine .", "Is a question fine ?"}


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("He can't go, she'd said.", "He can 't go , she 'd said ."),
        (
            "Teddy's dogs' well-known “trick” (twice)!",
            "Teddy 's dogs ' well-known “ trick ” ( twice ) !",
        ),
        ("In the U.S. it cost $1,000.50.", "In the U.S. it cost $ 1,000.50 ."),
        ("Wait... what -- é?", "Wait ... what -- é ?"),
    ],
)
def test_tokens(text: str, tokens: str) -> None:
    assert tokenized(text) == tokens


@given(st.text(alphabet="ab1.,'’-U \"é$_", max_size=20))
def test_what_is_tokenized_stays(text: str) -> None:
    once = tokenized(text)
    assert tokenized(once) == once
    assert once.replace(" ", "") == "".join(text.split())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_test": 5}, "sentence_length: n_test must be at least its 6 classes"),
        ({"n_train": 0}, "n_train must be a whole number from 1 on"),
        ({"n_train": 10**6}, "give a larger corpus, or fewer examples"),
    ],
)
def test_sizes_that_cannot_be(options: dict[str, int], says: str) -> None:
    with pytest.raises(PyengineError, match=says):
        generate_task("sentence_length", corpus(), **{**SIZES, **options})


def test_an_unknown_kind() -> None:
    with pytest.raises(
        PyengineError, match="unknown task 'tree_depth'; known are: sentence_length"
    ):
        generate_task("tree_depth", corpus())
