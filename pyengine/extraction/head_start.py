"""A pass that begins while its corpus is still being tokenised.

Blocks are ranges of units that depend on nothing after them, so they can be computed once the
tokenizer has passed their end. The pass runs on what there is, again and again; when the store is
complete it goes on like one that was taken up in the middle, with the same bits.
"""

import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from pyengine.analyses.analysis_inputs import tokenized, tokenized_ahead
from pyengine.corpus import Corpus
from pyengine.engine import Plan
from pyengine.extraction.run import Extractor
from pyengine.manifest import MANIFEST
from pyengine.models import Model
from pyengine.store import TokenStore

# By device type. On the CPU both would take the same cores.
OVERLAP = {"cpu": False, "cuda": True}

# So long is computed, to the end of a segment, before it is asked whether the store is complete and
# the run can be saved. Then the device waits for a batch to be formed.
ROW_SECONDS = 10.0


def overlaps(
    model: Model, corpus: Corpus | TokenStore, shard: tuple[int, int], out: str | Path | None
) -> bool:
    """Whether tokenising and computing overlap: in a new pass over the whole of a text."""
    return (
        OVERLAP[model.device.type]
        and isinstance(corpus, Corpus)
        and corpus.is_text
        and tuple(shard) == (0, 1)
        and (out is None or not (Path(out) / MANIFEST).exists())
    )


def prepared(
    model: Model,
    corpus: Corpus | TokenStore,
    search_of: Callable[[TokenStore], Extractor],
    plan_of: Callable[[TokenStore], Plan],
    *,
    early: bool,
    **reading: Any,
) -> Extractor:
    """Tokenise a corpus and prepare a pass over it.

    Args:
        model: what computes it.
        corpus: what it reads.
        search_of: makes the pass over a store.
        plan_of: the plan of a pass over a store.
        early: begin the pass meanwhile, unless the store is in the cache; see `overlaps`.
        reading: `bos`, `cache_dir`, `on_tokenized`, as `tokenized` takes them.

    Returns:
        The pass over the complete store; what was computed early it has behind it.

    Raises:
        PyengineError: as tokenising and the pass do.
    """
    if not early or not isinstance(corpus, Corpus):
        return search_of(tokenized(model, corpus, **reading))
    search: Extractor | None = None
    with closing(tokenized_ahead(model, corpus, **reading)) as stores:
        for store in stores:
            search = search or search_of(store)
            search.plan = plan_of(store)
            if not store.complete:
                _run_row(search)
    assert search is not None
    return search


class _Enough(Exception):
    """Ends a row."""


def _run_row(search: Extractor) -> None:
    """Compute the next segments, as far as they are there, for a while."""
    end = time.monotonic() + ROW_SECONDS

    def after_segment(*_: int) -> None:
        if time.monotonic() >= end:
            raise _Enough

    with suppress(_Enough):
        search.run(on_progress=after_segment)
