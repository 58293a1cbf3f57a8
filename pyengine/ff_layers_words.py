"""The words of mega002/ff-layers' files, and where they lie among a model's own tokens.

ff-layers counts positions in words of the Moses tokeniser, with every hyphen inside a word split
off and the characters special in XML escaped.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Encoding, Tokenizer

_ENTITIES = {
    "&amp;": "&",
    "&#124;": "|",
    "&lt;": "<",
    "&gt;": ">",
    "&apos;": "'",
    "&quot;": '"',
    "&#91;": "[",
    "&#93;": "]",
}
_ENTITY = re.compile("|".join(map(re.escape, _ENTITIES)))

_ALNUM, _ALPHA = r"[^\W_]", r"[^\W\d_]"
# What stays inside a word: single periods, hyphens that do not join two letters or digits, commas
# between digits, apostrophes between a digit and a letter other than s.
_INSIDE = (
    rf"(?:{_ALNUM}|`|(?<!\.)\.(?!\.)|(?<!{_ALNUM})-|-(?!{_ALNUM})"
    rf"|(?<=\d),(?=\d)|(?<=\d)'(?=(?!s){_ALPHA}))"
)
# An apostrophe between letters begins a word ('s, 't). Anything else is a word of its own.
_WORD = re.compile(rf"\.\.+|(?:(?<={_ALPHA})'(?={_ALPHA})|(?<=\d)'(?=s))?{_INSIDE}+|\S")


def unescape(text: str) -> str:
    """Undo Moses' escaping (its eight entities, nothing else)."""
    return _ENTITY.sub(lambda match: _ENTITIES[match[0]], text)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return [start, stop) of every word as ff-layers counts them, in characters of the text.

    These are the rules of the Moses tokeniser for English, except that a period stays with its
    word: which abbreviations keep theirs is a list of Moses', and WikiText, which went through it
    once, writes every other period as a word of its own.
    """
    return [match.span() for match in _WORD.finditer(text)]


class TokenFinder:
    """Finds the model's tokens on both sides of a place in a text; -1 where there is none.

    Args:
        tokenizer: a fast Hugging Face tokenizer; not touched.
    """

    def __init__(self, tokenizer: Any) -> None:
        # A copy: truncation and padding on the caller's tokenizer change from call to call.
        self._own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._own.no_truncation()
        self._own.no_padding()
        self._own.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))

    def at_character(self, texts: list[str], places: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Yield (token before, token after) of a character offset in each text.

        The token after is the first that starts there or later; a word's own leading space
        belongs to it, so that the place is where the word before ends.
        """
        for encoding, place in zip(self._encode(texts), places, strict=True):
            yield _around(encoding.ids, _first_from(encoding, place))

    def at_token(self, texts: list[str], places: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Yield (token at place - 1, token at place) of each text."""
        for encoding, place in zip(self._encode(texts), places, strict=True):
            yield _around(encoding.ids, place)

    def _encode(self, texts: list[str]) -> Iterator[Encoding]:
        """Tokenise every different text once."""
        different = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        encodings = self._own.encode_batch(list(different), add_special_tokens=False)
        return (encodings[different[text]] for text in texts)


def _around(ids: list[int], index: int) -> tuple[int, int]:
    before = ids[index - 1] if 0 < index <= len(ids) else -1
    after = ids[index] if 0 <= index < len(ids) else -1
    return before, after


def _first_from(encoding: Encoding, place: int) -> int:
    """Return the index of the first token that starts at a character or later."""
    for character in (place, place + 1):  # tokens may or may not cover the space before a word
        index = encoding.char_to_token(character)
        span = None if index is None else encoding.token_to_chars(index)
        if index is not None and span is not None:
            if span[0] >= place:
                return index
            break
    # Several spaces, or a token across the place: rare, so looked up the slow way.
    starts = (start for start, _ in encoding.offsets)
    return next((i for i, start in enumerate(starts) if start >= place), len(encoding))
