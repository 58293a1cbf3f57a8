"""The batches of a pass, known from the lengths of units alone: how much is computed, how large."""

import itertools
from collections.abc import Iterator

import numpy as np

from pyengine.batches import cut, plan_blocks
from pyengine.corpus import Corpus
from pyengine.floors import BodyShape, LayerShape
from pyengine.models import Model
from pyengine.store import TokenStore

# Numbers of a layer that are alive at once, per token, in units of its widths. An FFN holds the
# residual stream, its norm and sum; its input and output, and on the way there the eight steps of
# GELU as Hugging Face writes it keep up to four; the maxima and a float32 copy of half precision
# take one more each. An attention holds queries, keys and values, twice where they are laid out
# anew, and the context twice; scores three times, in float32 at least.
RESIDUALS, ACTIVATIONS, PROJECTIONS, SCORES = 6, 6, 8, 3
FLOAT, LONG = 4, 8
LONGS = 3  # token ids, mask and who competes, of a stack


def batch_shapes(
    store: TokenStore, special: int, *, batch_tokens: int, block_tokens: int
) -> Iterator[tuple[int, int]]:
    """Yield the rows and the width of every batch of a pass.

    Args:
        store: the units.
        special: tokens that the model adds to each.
        batch_tokens, block_tokens: as the pass has them.
    """
    boundaries = plan_blocks(store.offsets, block_tokens)
    for first, last in itertools.pairwise(boundaries.tolist()):
        widths = np.sort(store.lengths[first:last]) + special
        for rows in cut(np.arange(len(widths)), widths, batch_tokens):
            yield len(rows), int(widths[rows[-1]])


def n_special(model: Model, corpus: Corpus | TokenStore | None, bos: bool) -> int:
    """Return how many special tokens a unit gets."""
    fed_as_given = isinstance(corpus, TokenStore) and not corpus.adds_special
    return 0 if fed_as_given else len(model.special_tokens(bos))


def batch_bytes(
    model: Model,
    corpus: Corpus | TokenStore | None,
    batch_tokens: int,
    bos: bool = False,
    n_appended: int = 0,
) -> int:
    """Return how much a batch takes at most while it is run; those that wait take more.

    Args:
        model: of any family.
        corpus: what is read, None: not known; of a token store it is known how long its units are.
        batch_tokens: tokens per batch; a longer unit makes one of its own.
        bos: as the pass has it.
        n_appended: tokens that the pass puts after each unit.
    """
    special, longest = n_special(model, corpus, bos) + n_appended, model.max_positions
    if isinstance(corpus, TokenStore):
        longest = int(corpus.lengths.max(initial=1)) + special
        batch_tokens = min(batch_tokens, corpus.n_units * longest)
    n_tokens = max(batch_tokens, longest)
    if model.family.encoder_decoder and not special:  # the decoder has one slot more
        n_tokens, longest = 2 * n_tokens, longest + 1
    itemsize = max(next(model.hf.parameters()).element_size(), FLOAT)
    most = max(_layer_numbers(model, layer, longest) for layer in BodyShape.of(model.hf).layers)
    n_longs = LONGS * len(model.family.stacks)
    return n_tokens * (most * itemsize + n_longs * LONG)


def _layer_numbers(model: Model, layer: LayerShape, longest: int) -> int:
    """Return what a layer keeps alive per token."""
    width = max(attention.width for attention in layer.attentions)
    inside = max(ACTIVATIONS * layer.ffn[-1].n_in, PROJECTIONS * width)
    scores = SCORES * int(model.config.num_attention_heads) * longest
    return RESIDUALS * layer.d_model + inside + scores
