"""The mean coefficient of every neuron over a corpus: a baseline for attribution."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pyengine.analyses.analysis_inputs import tokenized
from pyengine.corpus import Corpus
from pyengine.engine import BATCH_TOKENS
from pyengine.errors import PyengineError
from pyengine.ffn_sites import FFNSite, FFNSites
from pyengine.model_batches import model_batches
from pyengine.models import Model
from pyengine.positions import choose_positions
from pyengine.precision import precision
from pyengine.store import TokenStore


def mean_activations(
    model: Model,
    corpus: Corpus | TokenStore,
    *,
    cache_dir: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Average the coefficients (inputs of the down-projections) over all content tokens.

    Args:
        model: from `pyengine.load`. T5's decoder reads the same text, shifted right.
        corpus: a `Corpus`, tokenised here, or a `TokenStore`.
        cache_dir: where the tokenised corpus is kept; None: the user's cache.
        on_progress: called with (content tokens done, in all).

    Returns:
        float32 (float64 models: float64) [n_layers, d_ff], on the CPU; summed in float64.

    Raises:
        PyengineError: for an empty corpus, or one that does not fit the model.
    """
    store = tokenized(model, corpus, cache_dir=cache_dir)
    if not store.n_tokens:
        raise PyengineError("the corpus is empty: it has no mean activations")
    sums = torch.zeros(model.n_layers, model.d_ff, dtype=torch.float64)

    def add(site: FFNSite) -> None:
        sums[site.layer.index] += site.coefficients.sum(0, dtype=torch.float64).cpu()

    activation = "model" if model.dtype == "float64" else "fused"
    sites = FFNSites(model, range(model.n_layers), add, activation=activation)
    done = 0
    with precision(model.dtype):
        for batch, decoder in model_batches(
            model,
            store,
            (0, store.n_units),
            batch_tokens=BATCH_TOKENS[model.device.type],
            decoder=model.family.encoder_decoder,
        ):
            sites.run(batch, decoder, *choose_positions("all", 0, batch.units, batch.lengths))
            done += batch.n_tokens
            if on_progress is not None:
                on_progress(done, store.n_tokens)
    mean = sums / store.n_tokens
    return mean if model.dtype == "float64" else mean.float()
