"""The batches of a block as a model reads them: with its special tokens, T5's decoder beside."""

from collections.abc import Iterator

from pyengine.batches import Batch, form_batches
from pyengine.models import Model
from pyengine.store import TokenStore


def model_batches(
    model: Model,
    store: TokenStore,
    units: tuple[int, int],
    *,
    batch_tokens: int,
    bos: bool = False,
    decoder: bool = False,
    base: int = 0,
) -> Iterator[tuple[Batch, Batch | None]]:
    """Yield the batches of a block and, if asked, the decoder's input for the same units.

    Args:
        model: what reads them.
        store: the tokenised corpus.
        units: first unit, and the one after the last.
        batch_tokens: tokens per batch, padding included.
        bos: put the BOS token before each unit.
        decoder: also feed the decoder of an encoder-decoder.
        base: as `pyengine.batches.form_batches` takes them.
    """
    special = model.special_tokens(bos) if store.adds_special else None
    for batch in form_batches(
        store,
        units,
        prefix=list(special.prefix) if special else [],
        suffix=list(special.suffix) if special else [],
        batch_tokens=batch_tokens,
        base=base,
        pad_id=model.pad_id,
    ):
        yield batch, batch.shifted(model.decoder_start_id) if decoder else None
