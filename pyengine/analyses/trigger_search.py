"""The search of trigger examples: its settings, and the pass that they ask for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pyengine.analyses.analysis_inputs import chosen_indices
from pyengine.capture import ACTIVATION_MODES, VALUES, coefficient_sites
from pyengine.checks import check_choice
from pyengine.competition import EVERY_TOKEN, Competition
from pyengine.engine import BATCH_TOKENS, BLOCK_TOKENS, Plan
from pyengine.errors import PyengineError
from pyengine.extraction.feeds import TopKFeed
from pyengine.extraction.run import Extractor, make_plan
from pyengine.models import Model
from pyengine.reducers.topk import MAX_K, SIGNS, StreamingTopK
from pyengine.store import TokenStore

PER = ("unit", "token", "prefix")


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

    @classmethod
    def checked(
        cls,
        model: Model,
        *,
        floor: float | None,
        layers: Sequence[int] | None,
        dims: Sequence[int] | None,
        batch_tokens: int | None,
        block_tokens: int | None,
        **more: Any,
    ) -> "Settings":
        """Fill in what is left out, for a model.

        Raises:
            PyengineError: for settings out of range, or that do not fit the model.
        """
        device = model.device.type
        settings = cls(
            floor=None if floor is None else float(floor),
            layers=chosen_indices("layer", layers, model.n_layers) or tuple(range(model.n_layers)),
            dims=chosen_indices("dim", dims, model.d_ff),
            batch_tokens=BATCH_TOKENS[device] if batch_tokens is None else batch_tokens,
            block_tokens=BLOCK_TOKENS[device] if block_tokens is None else block_tokens,
            **more,
        )
        _check(settings, model)
        return settings

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


def trigger_plan(settings: Settings, store: TokenStore, shard: tuple[int, int]) -> Plan:
    """Say what one shard of a search reads.

    Raises:
        PyengineError: if the shard does not exist or has too many tokens.
    """
    return make_plan(
        store,
        shard,
        batch_tokens=settings.batch_tokens,
        block_tokens=settings.block_tokens,
        bos=settings.bos,
    )


def trigger_search(
    model: Model, settings: Settings, store: TokenStore, shard: tuple[int, int]
) -> Extractor:
    """Prepare one shard of a search: one top-k over the coefficients of all layers.

    Raises:
        PyengineError: if the shard does not exist or has too many tokens.
    """
    plan = trigger_plan(settings, store, shard)
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


def _check(settings: Settings, model: Model) -> None:
    if model.dtype == "float64":
        raise PyengineError(
            "trigger examples are ranked in float32; load the model in float32 or less"
        )
    check_choice("per", settings.per, PER)
    check_choice("value", settings.value, VALUES)
    check_choice("sign", settings.sign, tuple(SIGNS))
    check_choice("activation", settings.activation, ACTIVATION_MODES)
    if not 1 <= settings.k <= MAX_K:
        raise PyengineError(f"k must be from 1 to {MAX_K}, got {settings.k}")
    if settings.floor is not None and math.isnan(settings.floor):
        raise PyengineError("floor must be a number, got nan")
    for name in ("batch_tokens", "block_tokens"):
        if getattr(settings, name) < 1:
            raise PyengineError(f"{name} must be at least 1, got {getattr(settings, name)}")
    if settings.per == "prefix" and not model.family.causal:
        raise PyengineError(
            f"per='prefix' is for causal models: in {model.family.model_type} an activation "
            "depends on what follows the prefix"
        )
