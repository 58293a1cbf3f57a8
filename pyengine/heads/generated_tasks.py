"""Three of SentEval's probing tasks made of any corpus, by their published definitions."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from pyengine.checks import check_choice, check_count
from pyengine.errors import PyengineError
from pyengine.heads.sentence_pool import SentencePool, is_punctuation
from pyengine.heads.task import CLASSES, PARTS, SPLIT, Examples, Task, labelled

# Of each class of sentence_length, the most words; the least are those after the class before.
LENGTHS = {"0": 8, "1": 12, "2": 16, "3": 20, "4": 25, "5": 28}
ORIGINAL, INVERTED = "O", "I"
DOUBLE_QUOTES = frozenset(['"', "“", "”", "„", "«", "»", "''", "``"])
LEAST_LETTERS = 4


@dataclass(frozen=True)
class Sampling:
    """How many examples are drawn, and of what.

    Attributes:
        seed: of the draw. Each sentence is drawn by a hash of the seed and its own text, so that
            the order of the corpus is of no account.
        n_train: examples, rounded down to the same number of every class; so are those below.
        n_dev: examples to choose by.
        n_test: examples to test on; test and dev stay the same whatever `n_train` is.
        n_words: classes of word_content.
        first_rank: of word_content, the rank from which words are taken, 1 the most frequent.
    """

    seed: int = 0
    n_train: int = 100_000
    n_dev: int = 10_000
    n_test: int = 10_000
    n_words: int = 1000
    first_rank: int = 2001

    def __post_init__(self) -> None:
        for name in ("n_train", "n_dev", "n_test", "n_words", "first_rank"):
            check_count(name, getattr(self, name))

    def per_class(self, n_classes: int) -> dict[str, int]:
        """Return the examples of each class, by part."""
        totals = {"train": self.n_train, "dev": self.n_dev, "test": self.n_test}
        return {part: totals[part] // n_classes for part in PARTS[SPLIT]}


def generate_task(
    kind: str,
    sentences: Iterable[str] | SentencePool,
    seed: int = 0,
    n_train: int = 100_000,
    n_dev: int = 10_000,
    n_test: int = 10_000,
    n_words: int = 1000,
    first_rank: int = 2001,
) -> Task:
    """Make a probing task of the sentences of a corpus (Conneau et al. 2018).

    Sentences are tokenised and sifted as `SentencePool` says; no text occurs twice. The classes
    are balanced, the examples of a part in random order.

    - `sentence_length`: words with punctuation, in six classes: 5-8, 9-12, 13-16, 17-20, 21-25,
      26-28.
    - `bigram_shift`: whether two neighbouring words have changed places (I) or not (O): neither
      the first word nor punctuation, and not the same word twice. Sentences with double quotes, or
      without such neighbours, are left out of both classes, and so is a changed sentence that the
      corpus itself has.
    - `word_content`: which of `n_words` words is in the sentence: exactly one of them is, once. The
      lower-cased words are ranked by how often the usable sentences have them (ties by alphabet);
      the first from `first_rank` on that have at least 4 characters, all of them letters, are
      taken.

    Args:
        kind: `sentence_length`, `bigram_shift` or `word_content`.
        sentences: texts, or a pool of them if several tasks are made.
        seed: as in `Sampling`; so are those below.
        n_train: examples of train.
        n_dev: examples of dev.
        n_test: examples of test.
        n_words: classes of word_content.
        first_rank: rank of the first word of word_content.

    Raises:
        PyengineError: for an unknown kind, or if the corpus is too small.
    """
    check_choice("task", kind, [*KINDS])
    sampling = Sampling(seed, n_train, n_dev, n_test, n_words, first_rank)
    pool = sentences if isinstance(sentences, SentencePool) else SentencePool.of(sentences)
    return _drawn(kind, KINDS[kind](pool.texts, sampling), sampling)


def _by_length(texts: frozenset[str], sampling: Sampling) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {label: set() for label in LENGTHS}
    for text in texts:
        n_words = text.count(" ") + 1
        found[next(label for label, most in LENGTHS.items() if n_words <= most)].add(text)
    return found


def _by_order(texts: frozenset[str], sampling: Sampling) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {INVERTED: set(), ORIGINAL: set()}
    for text in texts:
        words = text.split()
        if not (places := _places(words)):
            continue
        number, inverted = divmod(_hash(sampling.seed, "place", text), 2)
        if not inverted:
            found[ORIGINAL].add(text)
            continue
        i = places[number % len(places)]
        words[i], words[i + 1] = words[i + 1], words[i]
        if (shifted := " ".join(words)) not in texts:
            found[INVERTED].add(shifted)
    return found


def _places(words: Sequence[str]) -> list[int]:
    """Return where a word and the next one may change places."""
    if not DOUBLE_QUOTES.isdisjoint(words):
        return []
    plain = [not is_punctuation(word) for word in words]
    pairs = range(1, len(words) - 1)
    return [i for i in pairs if plain[i] and plain[i + 1] and words[i] != words[i + 1]]


def _by_word(texts: frozenset[str], sampling: Sampling) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {word: set() for word in _targets(texts, sampling)}
    for text in texts:
        targets = [word for word in text.lower().split() if word in found]
        if len(targets) == 1:
            found[targets[0]].add(text)
    return found


def _targets(texts: frozenset[str], sampling: Sampling) -> list[str]:
    counts = Counter(word for text in texts for word in text.lower().split())
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[sampling.first_rank - 1 :]
    known = [word for word in ranked if len(word) >= LEAST_LETTERS and word.isalpha()]
    if len(known) < sampling.n_words:
        raise PyengineError(
            f"word_content: the corpus has {len(known):,} words from rank {sampling.first_rank} "
            f"on, not {sampling.n_words:,}; give a larger corpus, fewer words or a lower rank"
        )
    return known[: sampling.n_words]


# By name: what finds the usable texts of each class.
KINDS: Mapping[str, Callable[[frozenset[str], Sampling], dict[str, set[str]]]] = {
    "sentence_length": _by_length,
    "bigram_shift": _by_order,
    "word_content": _by_word,
}


def _drawn(kind: str, found: Mapping[str, set[str]], sampling: Sampling) -> Task:
    """Draw the same number of every class for each part, no text twice."""
    labels = tuple(sorted(found))
    per_class = sampling.per_class(len(labels))
    _check_enough(kind, found, per_class)
    drawn: dict[str, list[tuple[int, str, str]]] = {part: [] for part in per_class}
    for label in labels:
        ranked = iter(sorted((_hash(sampling.seed, kind, text), text) for text in found[label]))
        for part in reversed(per_class):
            drawn[part] += [(*one, label) for one in islice(ranked, per_class[part])]
    parts = {part: _examples(sorted(rows), labels) for part, rows in drawn.items()}
    return Task(kind, CLASSES, SPLIT, labels, parts)


def _check_enough(kind: str, found: Mapping[str, set[str]], per_class: Mapping[str, int]) -> None:
    for part, count in per_class.items():
        if not count:
            raise PyengineError(f"{kind}: n_{part} must be at least its {len(found)} classes")
    needed = sum(per_class.values())
    rarest = min(found, key=lambda label: (len(found[label]), label))
    if (least := len(found[rarest])) < needed:
        fewer = "fewer words or examples" if kind == "word_content" else "fewer examples"
        raise PyengineError(
            f"{kind}: {needed:,} sentences of each class are needed, the corpus has {least:,} of "
            f"{rarest!r}; give a larger corpus, or {fewer} (in all at most {least * len(found):,})"
        )


def _examples(rows: Sequence[tuple[int, str, str]], labels: Sequence[str]) -> Examples:
    texts = tuple(text for _, text, _ in rows)
    return Examples(texts, None, labelled([label for *_, label in rows], labels))


def _hash(seed: int, purpose: str, text: str) -> int:
    key = f"{seed} {purpose} {text}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
