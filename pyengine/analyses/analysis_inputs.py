"""What every analysis of a corpus is given: checked indices, and the corpus as a token store."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.store import TokenStore, tokenize


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
        room = model.max_positions - len(model.special_tokens(bos))
        store = tokenize(
            corpus, model.tokenizer, max_tokens=room, cache_dir=cache_dir, progress=on_tokenized
        )
    if store.n_tokens and (top := int(store.tokens.max())) >= model.vocab_size:
        raise PyengineError(
            f"the corpus holds token id {top}, but {model.name} has only {model.vocab_size}"
        )
    return store
