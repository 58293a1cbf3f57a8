"""Predictions: what every feed-forward layer, or every single memory, says at a position.

Geva et al. 2021, "Transformer Feed-Forward Layers Are Key-Value Memories", §5: how a layer's output
is composed of its memories, and refined from layer to layer through the residual stream.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from pyengine.analyses.analysis_inputs import chosen_indices, tokenized
from pyengine.analyses.prediction_pass import PredictionPass
from pyengine.analyses.prediction_result import Predictions
from pyengine.analyses.prediction_run import from_blocks, from_parts, run_in_memory, run_into_parts
from pyengine.analyses.prediction_settings import PredictionSettings
from pyengine.batches import shard_blocks
from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.manifest import describe, describe_corpus
from pyengine.models import Model
from pyengine.run import RunFolder, open_run
from pyengine.store import TokenStore
from pyengine.token_text import TokenText


def ffn_predictions(
    model: Model,
    corpus: Corpus | TokenStore,
    mode: str = "layer",
    *,
    position: str = "random",
    seed: int = 0,
    layers: Sequence[int] | None = None,
    final_norm: str | None = None,
    head: str | None = None,
    n: int = 10,
    all_values: bool = False,
    output_dist: bool = False,
    bos: bool = False,
    activation: str | None = None,
    batch_tokens: int | None = None,
    block_tokens: int | None = None,
    out: str | Path | None = None,
    shard: tuple[int, int] = (0, 1),
    cache_dir: str | Path | None = None,
    on_tokenized: Callable[[int, int], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Read out what the feed-forward layers predict at positions of a corpus.

    Args:
        model: from `pyengine.load`.
        corpus: a `Corpus`, tokenised here, or a `TokenStore`.
        mode: `layer`: residual stream, FFN output and layer output of every layer; `value`: every
            single memory, beside residual stream and FFN output.
        position: where in each unit: `random`, one position that depends on the seed and the
            unit's number only; `last`; or `all`.
        seed: of the random positions, 0 to 2**64 - 1.
        layers: limit the layers; None takes all.
        final_norm: `on` or `off`: put vectors through the stack's final norm before reading them
            (BERT: the layer's own output norm). Default: `on` in `layer` mode; `value` mode takes
            `off` only.
        head: `full`, the model's output head, or `embedding`, the bare output embedding.
            Default: `full` in `layer` mode; `value` mode takes `embedding` only.
        n: the largest contributors kept per example and layer, in `value` mode.
        all_values: also keep lists over all of d_ff, in `value` mode.
        output_dist: also write the model's own distribution at each position (T5: of the last
            stack that was asked for); needs `out`.
        bos: put the BOS token before each unit (causal models).
        activation: `fused`, our kernel (default), or `model`, the model's own modules, bit for bit
            (default, and all there is, in float64).
        batch_tokens: tokens per batch, padding included; part of what decides the last bits.
            Default: 4096 on the CPU, 16384 on CUDA.
        block_tokens: content tokens per block, inside which units are sorted by length, and of
            which a kill costs one. Default: 32,768; on CUDA 524,288 for one position per unit;
            with `all_values` 8192.
        out: a run directory; the same call resumes it, block by block. None keeps the result in
            memory.
        shard: (i, n) takes the i-th of n parts of the corpus, from 0; merge with `pyengine merge`.
        cache_dir: where the tokenised corpus is kept; None: the user's cache.
        on_tokenized: called with (bytes done, bytes in all) while the corpus is tokenised.
        on_progress: called with (content tokens done, in all) after each batch.

    Returns:
        The predictions (of this shard only when there are several).

    Raises:
        PyengineError: for settings out of range or that exclude each other, a corpus that does not
            fit the model, a model without the head that was asked for, or a run directory that was
            made with other settings.
    """
    settings = PredictionSettings(
        mode=mode,
        position=position,
        seed=seed,
        layers=chosen_indices("layer", layers, model.n_layers),
        final_norm=final_norm,
        head=head,
        n=n,
        all_values=all_values,
        output_dist=output_dist,
        bos=bos,
        activation=activation,
        batch_tokens=batch_tokens,
        block_tokens=block_tokens,
    ).resolved(model)
    if output_dist and out is None:
        raise PyengineError("output_dist=True is streamed to disk; give a run directory with out=")
    store = tokenized(model, corpus, bos=bos, cache_dir=cache_dir, on_tokenized=on_tokenized)
    search = PredictionPass(model, settings, store)
    blocks = shard_blocks(len(search.boundaries) - 1, *shard)
    manifest = describe(
        "predictions",
        settings.question(),
        settings.numerics(),
        model,
        describe_corpus(store),
    )
    text = TokenText.of(model.tokenizer)
    progress = _Progress(sum(map(search.n_tokens, blocks)), on_progress)
    if out is None:
        return from_blocks(run_in_memory(search, blocks, progress), text, manifest)
    run = RunFolder.begin(Path(out), manifest)
    if run.complete:
        found: Predictions = open_run(run.path)
        return found
    text.save(run.path)
    with run.lock(*shard):
        parts = run_into_parts(search, blocks, run.path, progress)
        found = from_parts(parts, text, run.manifest)
        if shard[1] > 1:
            return found
        found.write(run)
    return Predictions.open(run.path, run.manifest)


class _Progress:
    """Adds up the tokens that are done."""

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._report = 0, total, report

    def __call__(self, n_tokens: int) -> None:
        self._done += n_tokens
        if self._report is not None:
            self._report(self._done, self._total)
