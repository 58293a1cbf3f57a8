"""Sentences of a corpus that probing tasks can be made of, tokenised as SentEval's."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

# Words that SentEval's sentences have, the least and the most; punctuation counts.
LEAST_WORDS, MOST_WORDS = 5, 28
FINAL = frozenset(".?!")
UNKNOWN = "<unk>"

_TOKEN = re.compile(
    r"""
    (?:[^\W\d_]\.){2,}                                       # U.S.
    | ['’](?:s|t|d|m|ll|re|ve)\b                             # don 't, as Moses cuts it
    | \w+ (?: (?: - | (?<=\d)[.,](?=\d) ) \w+ )*            # well-known, 1,000.5
    | \.{2,} | -{2,}
    | [^\w\s]
    """,
    re.VERBOSE | re.IGNORECASE,
)


def tokenized(text: str) -> str:
    """Return a text with spaces between its words and around its punctuation.

    Much as the Moses tokenizer does it; what is tokenised already stays as it is.
    """
    return " ".join(_TOKEN.findall(text))


def is_punctuation(token: str) -> bool:
    """Whether a token has neither letters nor digits."""
    return not any(map(str.isalnum, token))


@dataclass(frozen=True)
class SentencePool:
    """Different sentences, tokenised; their order is of no account."""

    texts: frozenset[str]

    @classmethod
    def of(cls, sentences: Iterable[str]) -> Self:
        """Take the sentences that can be used.

        These have 5 to 28 words with punctuation, begin with a word, end in `.`, `?` or `!` (which
        headings and fragments do not), and hold no `<unk>`. They are kept in memory.
        """
        known = (tokenized(text) for text in sentences if UNKNOWN not in text)
        return cls(frozenset(text for text in known if _usable(text.split())))


def _usable(words: list[str]) -> bool:
    if not LEAST_WORDS <= len(words) <= MOST_WORDS:
        return False
    return words[-1] in FINAL and not is_punctuation(words[0])
