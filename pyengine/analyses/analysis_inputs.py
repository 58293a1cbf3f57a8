"""What every analysis of a corpus is given: checked indices, and the corpus as a token store."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.store import TokenStore, tokenize, tokenize_ahead
from pyengine.tokenizing import is_cached


def chosen_indices(what: str, wanted: Sequence[int] | None, n: int) -> tuple[int, ...] | None:
    """Check the layers or dims asked for and return them in ascending order; None takes all.

    Raises:
        PyengineError: if there are none, one is out of range, or given twice.
    """
    if wanted is None:
        return None
    chosen = tuple(int(index) for index in wanted)
    if not chosen:
        raise PyengineError(f"no {what}s given; leave the option out to take all {n}")
    for index in chosen:
        if not 0 <= index < n:
            raise PyengineError(f"{what} {index} is out of range; the model has 0 to {n - 1}")
    if len(set(chosen)) < len(chosen):
        raise PyengineError(f"{what}s are given twice: {', '.join(map(str, chosen))}")
    return tuple(sorted(chosen))


def tokenized(
    model: Model,
    corpus: Corpus | TokenStore,
    *,
    bos: bool = False,
    cache_dir: str | Path | None = None,
    on_tokenized: Callable[[int, int], None] | None = None,
) -> TokenStore:
    """Tokenise a corpus for a model, leaving room for the special tokens.

    Raises:
        PyengineError: if the corpus cannot be read, or holds a token that the model lacks.
    """
    if isinstance(corpus, TokenStore):
        store = corpus
    else:
        room = _room(model, bos)
        store = tokenize(
            corpus, model.tokenizer, max_tokens=room, cache_dir=cache_dir, progress=on_tokenized
        )
    check_ids(model, store.tokens)
    return store


def tokenized_ahead(
    model: Model,
    corpus: Corpus,
    *,
    bos: bool = False,
    cache_dir: str | Path | None = None,
    on_tokenized: Callable[[int, int], None] | None = None,
) -> Generator[TokenStore]:
    """Do what `tokenized` does as `pyengine.store.tokenize_ahead` does it."""
    n_checked, room = 0, _room(model, bos)
    stores = tokenize_ahead(
        corpus, model.tokenizer, max_tokens=room, cache_dir=cache_dir, progress=on_tokenized
    )
    with closing(stores):
        for store in stores:
            check_ids(model, store.tokens[n_checked:])
            n_checked = store.n_tokens
            yield store


def is_tokenized(model: Model, corpus: Corpus, *, bos: bool, cache_dir: str | Path | None) -> bool:
    """Whether a text is in the cache already, as a model reads it."""
    return is_cached(corpus, model.tokenizer, _room(model, bos), cache_dir)


def _room(model: Model, bos: bool) -> int:
    return model.max_positions - len(model.special_tokens(bos))


def check_ids(model: Model, tokens: np.ndarray) -> None:
    """Refuse tokens that a model lacks.

    Raises:
        PyengineError: naming the largest.
    """
    if len(tokens) and (top := int(tokens.max())) >= model.vocab_size:
        raise PyengineError(
            f"the corpus holds token id {top}, but {model.name} has only {model.vocab_size}"
        )
