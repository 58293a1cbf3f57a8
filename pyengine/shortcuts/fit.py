"""Linear shortcuts between layers, fitted in one pass over a corpus.

Din et al. 2023, "Jump to Conclusions: Short-Cutting Transformers With Linear Transformations".
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pyengine.analyses.analysis_inputs import tokenized
from pyengine.checks import check_shard
from pyengine.corpus import Corpus
from pyengine.extraction.run import carry_out
from pyengine.loading import load
from pyengine.run import verify
from pyengine.shortcuts.fit_run import extractor_of, from_shard, manifest_of, sample_of
from pyengine.shortcuts.fit_settings import FitSettings
from pyengine.shortcuts.result import Shortcuts
from pyengine.shortcuts.solve import RCOND
from pyengine.store import TokenStore
from pyengine.token_text import TokenText


def fit_shortcuts(
    model: Any,
    corpus: Corpus | TokenStore,
    *,
    pairs: str = "last",
    sub_modules: bool = False,
    stacks: Sequence[str] | None = None,
    tokens: str = "one",
    n_train: int | None = None,
    n_validation: int | None = None,
    seed: int = 0,
    skip_first: int = 0,
    special: bool = True,
    mask: bool | None = None,
    solver: str = "auto",
    ridge: float = 0.0,
    rcond: float = RCOND,
    preset: str | None = None,
    activation: str | None = None,
    bos: bool = False,
    batch_tokens: int | None = None,
    block_tokens: int | None = None,
    out: str | Path | None = None,
    shard: tuple[int, int] = (0, 1),
    checkpoint_blocks: int | None = None,
    cache_dir: str | Path | None = None,
    on_tokenized: Callable[[int, int], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_solved: Callable[[int, int], None] | None = None,
) -> Shortcuts:
    """Fit least-squares maps from layers to later ones, without (`mat`) and with an intercept.

    One pass takes the states of a sample of units: training rows go into a reducer, validation
    rows are kept for scoring. The last layer's states are those before the final norm. For
    example::

        corpus = pyengine.Corpus.from_wikitext("wiki.train.tokens", unit="sentence")
        shortcuts = pyengine.fit_shortcuts("gpt2", corpus, preset="wikipedia", out="runs/maps")
        guess = shortcuts.apply(h, 5)  # of x_5, what x_12 would be

    The result has the same bits for any number of shards, and wherever the pass was interrupted.

    Args:
        model: from `pyengine.load`, or what it takes.
        corpus: a `Corpus`, tokenised here, or a `TokenStore`.
        pairs: `last`: from every layer to the last one; `all`: to every later one.
        sub_modules: also from tap to tap within each block: over each norm, attention,
            feed-forward layer and residual sum.
        stacks: `encoder`, `decoder`; None: all that the model has.
        tokens: of each unit `one`, drawn at random, or `all`.
        n_train, n_validation: units of each, drawn by hash; None: a quarter, at most 3,000, for
            validation, the rest to train on.
        seed: of units and tokens, 0 to 2**64 - 1.
        skip_first: so many tokens at the beginning of each unit are never taken.
        special: whether special tokens may be taken, too: an encoder's, and what a decoder beside
            an encoder starts with.
        mask: replace the chosen token by the mask token; None: in BERT, under `one`.
        solver: `rows` keeps the training rows and solves by QR; `gram` sums their float64 products
            and solves by Cholesky; `auto` takes what is fewer numbers (those of rows are
            float32, those of products float64); `exact` takes the smaller of rows and of a
            triangular factor (TSQR), neither of which squares the condition.
        ridge: λ ≥ 0 of λ ‖A‖², added to the sum of squared errors.
        rcond: singular values of a source below rcond times the largest count as zero; where some
            do, the map has the least norm.
        preset: `wikipedia`: the original's 9,000 and 3,000 units, one token of each.
        activation: `fused`, our kernel (default), or `model`, the model's own modules, bit for bit
            (default, and all there is, in float64).
        bos: put the BOS token before each unit (causal models); it is never taken.
        batch_tokens, block_tokens: as in `pyengine.trigger_examples`.
        out: a run directory; the same call resumes it. None keeps the result in memory.
        shard: (i, n) takes the i-th of n parts of the sample, from 0; merge with `pyengine merge`.
        checkpoint_blocks: save every so many blocks; None saves every 30 seconds.
        cache_dir: where the tokenised corpus is kept; None: the user's cache.
        on_tokenized: called with (bytes done, bytes in all) while the corpus is tokenised.
        on_progress: called with (content tokens done, in all) whenever a few batches are done.
        on_solved: called with (source points done, in all) while maps are solved.

    Returns:
        The maps and the validation states (of this shard only when there are several).

    Raises:
        PyengineError: for settings out of range or that exclude each other, a corpus that does not
            fit the model or has too few units, or a run directory that was made with other
            settings.
    """
    model = load(model)
    settings = FitSettings.checked(
        model,
        pairs=pairs,
        sub_modules=sub_modules,
        stacks=stacks,
        mask=mask,
        solver=solver,
        ridge=ridge,
        rcond=rcond,
        preset=preset,
        activation=activation,
        bos=bos,
        batch_tokens=batch_tokens,
        block_tokens=block_tokens,
        drawn={
            "tokens": tokens,
            "n_train": n_train,
            "n_validation": n_validation,
            "seed": seed,
            "skip_first": skip_first,
            "special": special,
        },
    )
    check_shard(*shard)
    store = tokenized(model, corpus, bos=bos, cache_dir=cache_dir, on_tokenized=on_tokenized)
    sample = sample_of(model, settings, store)
    manifest = manifest_of(model, settings, store, sample)
    text = TokenText.of(model.tokenizer)
    at_once = out is None and shard[1] == 1
    # Nobody's autocast may round the states.
    with torch.autocast(model.device.type, enabled=False):
        return carry_out(
            extractor_of(model, settings, sample, manifest, shard),
            manifest,
            text,
            lambda shard, manifest: from_shard(
                shard, text, manifest, solve=at_once, on_solved=on_solved
            ),
            lambda folder: Shortcuts.open(folder, verify(folder)),
            out=out,
            checkpoint_blocks=checkpoint_blocks,
            on_progress=on_progress,
        )
