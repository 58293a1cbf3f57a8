"""Any set of reducers over the activations of a corpus, in one pass."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from pyengine.capture import ACTIVATION_MODES
from pyengine.checks import check_choice, check_count, check_shard
from pyengine.competition import EVERY_TOKEN, Competition
from pyengine.corpus import Corpus
from pyengine.engine import BATCH_TOKENS, BLOCK_TOKENS, Plan
from pyengine.errors import PyengineError
from pyengine.extraction.feeds import Feed, SummedFeed, TopKFeed
from pyengine.extraction.head_start import overlaps, prepared
from pyengine.extraction.reducers import Updates
from pyengine.extraction.result import Extraction
from pyengine.extraction.run import Extractor, carry_out, make_plan
from pyengine.extraction.sites import site_width, sites_of_key
from pyengine.extraction.specs import OURS, Spec
from pyengine.loading import load
from pyengine.manifest import describe, describe_corpus
from pyengine.models import Model
from pyengine.reducers.topk import StreamingTopK
from pyengine.run import verify
from pyengine.sites import Site, sites_of
from pyengine.store import TokenStore
from pyengine.token_text import TokenText


def extract(
    model: Any,
    corpus: Corpus | TokenStore,
    reducers: Mapping[Any, Sequence[Any]],
    *,
    activation: str = "fused",
    bos: bool = False,
    batch_tokens: int | None = None,
    block_tokens: int | None = None,
    out: str | Path | None = None,
    shard: tuple[int, int] = (0, 1),
    checkpoint_blocks: int | None = None,
    cache_dir: str | Path | None = None,
    on_tokenized: Callable[[int, int], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Extraction:
    """Run reducers over the activations of a corpus, all of them in one pass.

    For example, the trigger examples of all layers and the statistics of one residual stream::

        topk = StreamingTopK(k=50, n_keys=12 * 3072)
        moments = Moments(n_keys=768)
        found = pyengine.extract(
            model, corpus, {"blocks.*.mlp.hook_post": [topk], "blocks.5.hook_resid_post": [moments]}
        )
        found["blocks.5.hook_resid_post"][0].mean

    Top-k, counts, minima, maxima and histograms are exact; sums are kept for fixed ranges of the
    corpus and added in a fixed tree. So the result has the same bits for any number of shards, and
    wherever the pass was interrupted.

    Args:
        model: from `pyengine.load`, or what it takes.
        corpus: a `Corpus`, tokenised here, or a `TokenStore`.
        reducers: of a site, or of several, the reducers that take it in. A key is a name in any
            spelling (see `pyengine.site_names.resolve`); a tuple of names, or a pattern that stands
            for several, makes one reducer of all their keys, site after site. Of heads [n_heads,
            d_head] the keys are the heads' side by side. Reducers are `StreamingTopK`, `Moments`,
            or your own (see `pyengine.extraction.reducers.Reducer`). They say what to do, and are
            not changed; those of yours must be fresh.
        activation: `fused`, our kernel computes the coefficients, or `model`, the model's own
            modules, bit for bit.
        bos: put the BOS token before each unit (causal models).
        batch_tokens, block_tokens: as in `pyengine.trigger_examples`.
        out: a run directory; the same call resumes it. None keeps the result in memory.
        shard: (i, n) takes the i-th of n parts of the corpus, from 0; merge with `pyengine merge`.
            Where a reducer adds, a shard takes whole ranges: of more than 16 some have none.
        checkpoint_blocks: save every so many blocks; None saves every 30 seconds.
        cache_dir: where the tokenised corpus is kept; None: the user's cache.
        on_tokenized, on_progress: as in `pyengine.trigger_examples`.

    Returns:
        The results (of this shard only when there are several).

    Raises:
        PyengineError: for an unknown site, one of attention maps or of the output head, a reducer
            of another width than its sites, settings out of range, a corpus that does not fit the
            model, or a run directory that was made with other settings.
    """
    model = load(model)
    device = model.device.type
    batch_tokens = BATCH_TOKENS[device] if batch_tokens is None else batch_tokens
    block_tokens = BLOCK_TOKENS[device] if block_tokens is None else block_tokens
    _check(model, activation, shard, batch_tokens=batch_tokens, block_tokens=block_tokens)
    specs = _specs(model, reducers)
    plan_of = partial(
        make_plan,
        shard=shard,
        batch_tokens=batch_tokens,
        block_tokens=block_tokens,
        bos=bos,
        whole_partials=not all(spec.exact for spec in specs),
    )

    def search_of(store: TokenStore) -> Extractor:
        plan = plan_of(store)
        return Extractor(model, plan, _feeds(model, plan, specs), shard, activation=activation)

    extractor = prepared(
        model,
        corpus,
        search_of,
        plan_of,
        early=overlaps(model, corpus, shard, out) and not any(map(_needs_whole, specs)),
        bos=bos,
        cache_dir=cache_dir,
        on_tokenized=on_tokenized,
    )
    text = TokenText.of(model.tokenizer)
    manifest = describe(
        "extract",
        {"reducers": {str(i): spec.question() for i, spec in enumerate(specs)}, "bos": bos},
        {"activation": activation, "batch_tokens": batch_tokens, "block_tokens": block_tokens},
        model,
        describe_corpus(extractor.plan.store),
    )
    return carry_out(
        extractor,
        manifest,
        text,
        lambda found, manifest: Extraction.from_shard(specs, found, text, manifest),
        lambda folder: Extraction.open(folder, verify(folder), specs),
        out=out,
        checkpoint_blocks=checkpoint_blocks,
        on_progress=on_progress,
    )


def _check(model: Model, activation: str, shard: tuple[int, int], **counts: int) -> None:
    if model.dtype == "float64":
        raise PyengineError("reducers work in float32; load the model in float32 or less")
    check_choice("activation", activation, ACTIVATION_MODES)
    for name, count in counts.items():
        check_count(name, count)
    check_shard(*shard)


def _specs(model: Model, reducers: Mapping[Any, Sequence[Any]]) -> list[Spec]:
    """Describe what is asked for, and check that it fits the model."""
    specs: list[Spec] = []
    asked: dict[tuple[str, ...], Any] = {}
    for key, given in reducers.items():
        sites = sites_of_key(model, key)
        names = tuple(site.name for site in sites)
        if names in asked:
            raise PyengineError(f"{asked[names]!r} and {key!r} are the same: give one list")
        asked[names] = key
        if not isinstance(given, Sequence):
            raise PyengineError(f"the reducers of {key!r} must be a list, not {given!r}")
        found = [Spec.of(names, reducer, key) for reducer in given]
        width = sum(site_width(model, site) for site in sites)
        for spec in found:
            _check_reducer(model, key, spec, width)
        specs += found
    if not specs:
        raise PyengineError("no reducers given")
    return specs


def _check_reducer(model: Model, key: Any, spec: Spec, width: int) -> None:
    n_keys = getattr(spec.fresh, "n_keys", width)
    if n_keys != width:
        raise PyengineError(
            f"{key!r} has {width} keys, the {spec.name} given for it n_keys={n_keys}"
        )
    if spec.name in OURS and spec.settings.get("per") == "prefix" and not model.family.causal:
        raise PyengineError(
            f"per='prefix' is for causal models: in {model.family.model_type} an activation "
            "depends on what follows the prefix"
        )


def _needs_whole(spec: Spec) -> bool:
    """Whether a reducer asks something of the whole corpus: which part is which, what is new."""
    return not spec.exact or spec.settings.get("per") == "prefix"


def _feeds(model: Model, plan: Plan, specs: Sequence[Spec]) -> list[Feed]:
    sites = sites_of(model)
    # Equal rules are one object, so that they share their rows.
    rule = cache(partial(_competition, cache(plan.store.prefix_starts)))
    return [_feed(model, plan, spec, [sites[name] for name in spec.sites], rule) for spec in specs]


def _feed(
    model: Model,
    plan: Plan,
    spec: Spec,
    sites: list[Site],
    rule: Callable[[tuple[int, ...], int, bool], Competition],
) -> Feed:
    widths = [site_width(model, site) for site in sites]
    n_blocks = len(plan.boundaries) - 1
    if spec.name not in OURS:
        own = Updates(deepcopy(spec.fresh), sum(widths))
        if spec.exact:
            return Feed(own, sites, widths)
        return SummedFeed(own, sites, widths, fresh=spec.fresh, n_blocks=n_blocks)
    settings = dict(spec.settings)
    prefix = settings.get("per") == "prefix"
    competition = rule(tuple(settings["exclude"]), settings["skip_first"], prefix)
    if not spec.is_topk:
        moments = OURS[spec.name](**settings, device=model.device)
        return SummedFeed(moments, sites, widths, competition, fresh=spec.fresh, n_blocks=n_blocks)
    # Who competes is decided by the rows here, where a prefix is known to be new.
    settings |= {"exclude": (), "skip_first": 0, "per": "token" if prefix else settings["per"]}
    topk = StreamingTopK(**settings, device=model.device)
    return TopKFeed(topk, sites, widths, competition)


def _competition(
    prefix_starts: Callable[[], np.ndarray], exclude: tuple[int, ...], skip_first: int, prefix: bool
) -> Competition:
    if not (exclude or skip_first or prefix):
        return EVERY_TOKEN
    return Competition(exclude, skip_first, prefix_starts() if prefix else None)
