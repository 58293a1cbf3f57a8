"""The search of trigger examples: its settings, and the pass that they ask for."""

from dataclasses import dataclass
from typing import Any

import torch

from pyengine.capture import coefficient_sites
from pyengine.competition import EVERY_TOKEN, Competition
from pyengine.engine import BATCH_TOKENS, BLOCK_TOKENS
from pyengine.extraction.feeds import TopKFeed
from pyengine.extraction.run import Extractor, make_plan
from pyengine.models import Model
from pyengine.reducers.topk import StreamingTopK
from pyengine.store import TokenStore


@dataclass(frozen=True)
class Settings:
    """What decides the result. Defaults are those of `trigger_examples`."""

    k: int = 50
    per: str = "unit"
    value: str = "post"
    sign: str = "max"
    floor: float | None = None
    activation: str = "fused"
    layers: tuple[int, ...] = ()
    dims: tuple[int, ...] | None = None
    bos: bool = False
    batch_tokens: int = BATCH_TOKENS["cpu"]
    block_tokens: int = BLOCK_TOKENS["cpu"]

    def question(self) -> dict[str, Any]:
        """The settings that define the result mathematically."""
        names = ("k", "per", "value", "sign", "floor", "bos")
        dims = None if self.dims is None else list(self.dims)
        return {name: getattr(self, name) for name in names} | {
            "layers": list(self.layers),
            "dims": dims,
        }

    def numerics(self) -> dict[str, Any]:
        """The settings that only move the last bits of an activation."""
        names = ("activation", "batch_tokens", "block_tokens")
        return {name: getattr(self, name) for name in names}


def trigger_search(
    model: Model, settings: Settings, store: TokenStore, shard: tuple[int, int]
) -> Extractor:
    """Plan one shard of a search: one top-k over the coefficients of all layers.

    Raises:
        PyengineError: if the shard does not exist or has too many tokens.
    """
    plan = make_plan(
        store,
        shard,
        batch_tokens=settings.batch_tokens,
        block_tokens=settings.block_tokens,
        bos=settings.bos,
    )
    dims = settings.dims
    widths = [model.d_ff if dims is None else len(dims)] * len(settings.layers)
    topk = StreamingTopK(
        settings.k,
        sum(widths),
        per="unit" if settings.per == "unit" else "token",
        sign=settings.sign,
        floor=settings.floor,
        device=model.device,
    )
    feed = TopKFeed(
        topk,
        coefficient_sites(model, settings.layers, settings.value),
        widths,
        Competition(starts=store.prefix_starts()) if settings.per == "prefix" else EVERY_TOKEN,
        None if dims is None else torch.tensor(dims, device=model.device),
    )
    return Extractor(model, plan, [feed], shard, activation=settings.activation)
