"""A corpus of any size: real WikiText paragraphs, drawn with replacement.

As every paragraph is known, so is the store that must come out: the paragraphs tokenised once, put
together in the order drawn.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pyengine.corpus import Corpus
from pyengine.files import atomic_write
from pyengine.store import TokenStore, tokenize
from pyengine.text import heading_level

DRAWN_AT_ONCE = 4096
# No unit is split, so that each belongs to one paragraph.
MAX_TOKENS = 1 << 20


def paragraphs_in(path: Path) -> list[str]:
    """Return the paragraphs of a WikiText file, or of all `*.tokens` in a folder; no headings."""
    files = sorted(path.glob("*.tokens")) if path.is_dir() else [path]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").split("\n")]
    found = [line.strip() for line in lines if line.strip() and not heading_level(line)]
    if not found:
        raise SystemExit(f"{path} holds no paragraphs of WikiText")
    return found


def drawn(paragraphs: list[str], words: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the numbers of the paragraphs drawn, until they have so many words."""
    lengths = np.array([len(paragraph.split()) for paragraph in paragraphs])
    rng = np.random.default_rng(seed)
    left = words
    while left > 0:
        numbers = rng.integers(0, len(paragraphs), DRAWN_AT_ONCE)
        so_far = np.cumsum(lengths[numbers])
        numbers = numbers[: int(np.searchsorted(so_far, left)) + 1]
        yield numbers
        left -= int(lengths[numbers].sum())


def write_corpus(file: Path, paragraphs: list[str], words: int, seed: int) -> None:
    """Write the paragraphs drawn, one a line as WikiText has them."""
    lines = [f" {paragraph} \n".encode() for paragraph in paragraphs]

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            for numbers in drawn(paragraphs, words, seed):
                stream.writelines(lines[number] for number in numbers.tolist())

    atomic_write(file, write)


def check_store(
    store: TokenStore, paragraphs: list[str], words: int, seed: int, tokenizer: Any, folder: Path
) -> None:
    """Compare every token and every unit of the drawn corpus with the paragraphs' own.

    Raises:
        RuntimeError: if anything differs.
    """
    file = folder / "paragraphs.tokens"
    file.write_text("".join(f" {paragraph} \n" for paragraph in paragraphs), encoding="utf-8")
    corpus = Corpus.from_wikitext(file)
    once = tokenize(corpus, tokenizer, max_tokens=MAX_TOKENS, cache_dir=folder)
    # A part says how far the file was read: all parts of a line say the same.
    units = np.unique([part.done for part in corpus.parts()], return_counts=True)[1]
    last_unit = np.cumsum(units)
    first_unit = last_unit - units
    at = unit = 0
    for numbers in drawn(paragraphs, words, seed):
        for number in numbers.tolist():
            starts = once.offsets[first_unit[number] : last_unit[number] + 1]
            found = store.offsets[unit : unit + len(starts)]
            tokens = once.tokens[starts[0] : starts[-1]]
            same = np.array_equal(found - at, starts - starts[0])
            if not same or not np.array_equal(store.tokens[at : at + len(tokens)], tokens):
                raise RuntimeError(f"the store is wrong at unit {unit}")
            at, unit = at + len(tokens), unit + len(starts) - 1
    if (at, unit) != (store.n_tokens, store.n_units):
        raise RuntimeError(f"the store holds {store.n_units} units, not {unit}")
