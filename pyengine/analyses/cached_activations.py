"""Activations of a whole corpus on disk: for work that needs the values, not their largest.

What can be reduced on the way should be (`pyengine.extract`): one layer of GPT-2's coefficients
takes 12 kB per token.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyengine.analyses.analysis_inputs import tokenized
from pyengine.analyses.cached_activations_pass import CachePass
from pyengine.analyses.cached_activations_result import CachedActivations
from pyengine.analyses.cached_activations_run import from_parts, run_into_parts
from pyengine.analyses.cached_activations_settings import CacheSettings, DiskNeed, token_sites
from pyengine.batches import shard_blocks
from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.loading import load
from pyengine.manifest import MANIFEST, describe, describe_corpus
from pyengine.parts import counting, parts_done
from pyengine.run import RunFolder, open_run
from pyengine.site_names import Names
from pyengine.store import TokenStore
from pyengine.token_text import TokenText


def cache_activations(
    model: Any,
    corpus: Corpus | TokenStore,
    names: Names,
    *,
    out: str | Path,
    save_dtype: str | None = None,
    bos: bool = False,
    batch_tokens: int | None = None,
    block_tokens: int | None = None,
    shard: tuple[int, int] = (0, 1),
    cache_dir: str | Path | None = None,
    on_tokenized: Callable[[int, int], None] | None = None,
    on_need: Callable[[DiskNeed], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CachedActivations:
    """Keep the values of some sites at every content token of a corpus.

    The model's own modules compute them, as Hugging Face does. One block of the corpus is in memory
    at a time, and each becomes a safetensors file of the run directory.

    Args:
        model: from `pyengine.load`, or what it takes; never changed.
        corpus: a `Corpus`, tokenised here, or a `TokenStore`. T5's decoder reads the same text,
            shifted right.
        names: sites, as `run_with_cache` takes them: those with one row per token, outside the
            output head.
        out: a run directory; the same call resumes it, block by block.
        save_dtype: `float32`, `float16` or `bfloat16`, rounded to the nearest (ties to even; what
            is too large for float16 becomes infinite, and is counted). None: as computed.
        bos: put the BOS token before each unit (causal models); its own row is not kept.
        batch_tokens: tokens per batch, padding included; part of what decides the last bits.
            Default: 4096 on the CPU, 16384 on CUDA.
        block_tokens: content tokens per block, inside which units are sorted by length, and of
            which a kill costs one. Default: 256 MiB of values on the CPU, 1 GiB on CUDA.
        shard: (i, n) takes the i-th of n parts of the corpus, from 0; merge with `pyengine merge`.
        cache_dir: where the tokenised corpus is kept; None: the user's cache.
        on_tokenized: called with (bytes done, bytes in all) while the corpus is tokenised.
        on_need: called with the room that is needed, before the pass.
        on_progress: called with (content tokens done, in all) after each batch.

    Returns:
        The activations (of this shard only when there are several).

    Raises:
        PyengineError: for sites that are unknown or have no row per token, a corpus that does not
            fit the model, a run directory made with other settings, or one whose file system has
            too little room.
    """
    model = load(model)
    settings = CacheSettings.checked(model, save_dtype, bos, batch_tokens, block_tokens)
    sites, folder = token_sites(model, names), Path(out)
    store = tokenized(model, corpus, bos=bos, cache_dir=cache_dir, on_tokenized=on_tokenized)
    if not store.n_tokens:
        raise PyengineError("the corpus is empty: there is nothing to keep")
    search = CachePass(model, sites, store, settings)
    blocks = shard_blocks(len(search.boundaries) - 1, *shard)
    manifest = describe(
        "activations",
        {**search.layout.question(), "bos": bos},
        {"batch_tokens": settings.batch_tokens, "block_tokens": search.block_tokens},
        model,
        describe_corpus(store),
    )
    if (folder / MANIFEST).exists() and RunFolder.begin(folder, manifest).complete:
        found: CachedActivations = open_run(folder)
        return found
    done = parts_done(folder, blocks)
    n_tokens = sum(map(search.n_tokens, blocks))
    n_left = n_tokens - sum(map(search.n_tokens, done))
    # Before the directory is made: a smaller corpus would be refused in it.
    _announce(DiskNeed.of(folder, search.layout.token_bytes, n_tokens, n_left), folder, on_need)
    run = RunFolder.begin(folder, manifest)
    text = TokenText.of(model.tokenizer)
    text.save(run.path)
    with run.lock(*shard):
        on_batch = counting(n_tokens, on_progress)
        parts = run_into_parts(search, blocks, done, run.path, on_batch)
        found = from_parts(parts, text, run.manifest)
        if shard[1] > 1:
            return found
        found.write(run)
    return CachedActivations.open(run.path, run.manifest)


def _announce(need: DiskNeed, folder: Path, on_need: Callable[[DiskNeed], None] | None) -> None:
    if on_need is not None:
        on_need(need)
    need.check(folder)
