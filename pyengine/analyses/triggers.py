"""Trigger examples: for every FFN key, the k prefixes of a corpus that activate it most.

Geva et al. 2021, "Transformer Feed-Forward Layers Are Key-Value Memories", §3: the trigger
examples of key i of layer l are the prefixes x_1 … x_j with the largest memory coefficient
f(x_j^l · k_i^l).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from pyengine.analyses.trigger_result import Example as Example
from pyengine.analyses.trigger_result import TriggerExamples
from pyengine.analyses.trigger_search import Settings, trigger_plan, trigger_search
from pyengine.corpus import Corpus
from pyengine.extraction.head_start import overlaps, prepared
from pyengine.extraction.run import carry_out
from pyengine.manifest import describe, describe_corpus
from pyengine.models import Model
from pyengine.run import open_run
from pyengine.store import TokenStore
from pyengine.token_text import TokenText


def trigger_examples(
    model: Model,
    corpus: "Corpus | TokenStore",
    k: int = 50,
    *,
    per: str = "unit",
    value: str = "post",
    sign: str = "max",
    floor: float | None = None,
    activation: str = "fused",
    layers: Sequence[int] | None = None,
    dims: Sequence[int] | None = None,
    bos: bool = False,
    batch_tokens: int | None = None,
    block_tokens: int | None = None,
    out: str | Path | None = None,
    shard: tuple[int, int] = (0, 1),
    checkpoint_blocks: int | None = None,
    cache_dir: str | Path | None = None,
    on_tokenized: Callable[[int, int], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TriggerExamples:
    """Find the k inputs that activate each feed-forward key most.

    Args:
        model: from `pyengine.load`.
        corpus: a `Corpus`, tokenised here, or a `TokenStore`.
        k: examples per key, 1 to 1024.
        per: `unit`: each unit competes with its best position (ties: the earliest); `token`:
            every position; `prefix`: equal prefixes compete once, at their first occurrence
            (causal models only).
        value: `post`, the input of the down-projection, or `pre`, before the non-linearity.
        sign: `max`, `min`, or `both` (minima are then in `.minima`).
        floor: keep only scores strictly above it (for minima: below its negative).
        activation: `fused`, our kernel, or `model`, the model's own modules, bit for bit.
        layers, dims: limit the keys; None takes all.
        bos: put the BOS token before each unit (causal models).
        batch_tokens: tokens per batch, padding included; part of what decides the last bits.
            Default: 4096 on the CPU, 16384 on CUDA.
        block_tokens: content tokens per block, inside which units are sorted by length.
            Default: 131,072 on the CPU, 524,288 on CUDA.
        out: a run directory; the same call resumes it. None keeps the result in memory.
        shard: (i, n) takes the i-th of n parts of the corpus, from 0; merge with `pyengine merge`.
        checkpoint_blocks: save every so many blocks; None saves every 30 seconds.
        cache_dir: where the tokenised corpus is kept; None: the user's cache.
        on_tokenized: called with (bytes done, bytes in all) while the corpus is tokenised; from
            another thread where blocks are computed meanwhile (`pyengine.extraction.head_start`).
        on_progress: called with (content tokens done, in all) whenever a few batches are done, once
            the corpus is tokenised.

    Returns:
        The examples (of this shard only when there are several).

    Raises:
        PyengineError: for settings out of range, a corpus that does not fit the model, or a run
            directory that was made with other settings.
    """
    settings = Settings.checked(
        model,
        k=k,
        per=per,
        value=value,
        sign=sign,
        floor=floor,
        activation=activation,
        layers=layers,
        dims=dims,
        bos=bos,
        batch_tokens=batch_tokens,
        block_tokens=block_tokens,
    )
    search = prepared(
        model,
        corpus,
        lambda store: trigger_search(model, settings, store, shard),
        lambda store: trigger_plan(settings, store, shard),
        # Whether a prefix is new is asked of the whole corpus.
        early=overlaps(model, corpus, shard, out) and per != "prefix",
        bos=bos,
        cache_dir=cache_dir,
        on_tokenized=on_tokenized,
    )
    text = TokenText.of(model.tokenizer)
    manifest = describe(
        "triggers",
        settings.question(),
        settings.numerics(),
        model,
        describe_corpus(search.plan.store),
    )
    return carry_out(
        search,
        manifest,
        text,
        lambda found, manifest: TriggerExamples.from_shard(found, text, manifest),
        open_run,
        out=out,
        checkpoint_blocks=checkpoint_blocks,
        on_progress=on_progress,
    )
