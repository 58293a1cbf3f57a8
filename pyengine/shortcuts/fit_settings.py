"""The settings of a fit, checked against the model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyengine.capture import ACTIVATION_MODES
from pyengine.checks import check_choice, check_count
from pyengine.engine import BATCH_TOKENS, BLOCK_TOKENS
from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.shortcuts.points import ALL, TO_LAST, stacks_of
from pyengine.shortcuts.sample import TOKENS, Draw
from pyengine.shortcuts.solvers import ASKED

# What the original draws: of its 20,000 sentences of Wikipedia, in random order, the first 9,000
# and the next 3,000, one token of each.
PRESETS: dict[str, dict[str, Any]] = {
    "wikipedia": {"tokens": "one", "n_train": 9000, "n_validation": 3000}
}


@dataclass(frozen=True)
class FitSettings:
    """What decides the result of a fit; as the arguments of `fit_shortcuts`, defaults filled in.

    Attributes:
        stacks: encoder before decoder.
        draw: which units and tokens.
        mask_id: what the chosen token is replaced by; None: it stays.
    """

    pairs: str
    sub_modules: bool
    stacks: tuple[str, ...]
    draw: Draw
    mask_id: int | None
    solver: str
    ridge: float
    rcond: float
    activation: str
    bos: bool
    batch_tokens: int
    block_tokens: int

    @classmethod
    def checked(
        cls,
        model: Model,
        *,
        stacks: Sequence[str] | None,
        mask: bool | None,
        preset: str | None,
        activation: str | None,
        batch_tokens: int | None,
        block_tokens: int | None,
        drawn: Mapping[str, Any],
        **more: Any,
    ) -> "FitSettings":
        """Check settings and fill in defaults.

        Args:
            model: what is to be fitted.
            drawn: `tokens`, `n_train`, `n_validation`, `seed`, `skip_first`, `special`.
            stacks, mask, preset, activation, batch_tokens, block_tokens, more: as in
                `fit_shortcuts`.

        Raises:
            PyengineError: naming the first that cannot be.
        """
        for name, count in (("batch_tokens", batch_tokens), ("block_tokens", block_tokens)):
            check_count(name, count)
        check_choice("pairs", more["pairs"], (TO_LAST, ALL))
        check_choice("solver", more["solver"], ASKED)
        if not (more["ridge"] >= 0 and math.isfinite(more["ridge"])):
            raise PyengineError(f"ridge must be a number from 0 on, got {more['ridge']}")
        if not 0 <= more["rcond"] < 1:
            raise PyengineError(f"rcond must be from 0 to 1, got {more['rcond']}")
        draw, device = Draw(**_with_preset(preset, drawn)), model.device.type
        return cls(
            stacks=_chosen(model, stacks),
            draw=draw,
            mask_id=_mask_id(model, mask, draw.tokens),
            activation=_activation(model, activation),
            batch_tokens=BATCH_TOKENS[device] if batch_tokens is None else batch_tokens,
            block_tokens=BLOCK_TOKENS[device] if block_tokens is None else block_tokens,
            **more,
        )

    def question(self) -> dict[str, Any]:
        """The settings that define the result, but for what the corpus and the model decide."""
        draw = {name: getattr(self.draw, name) for name in ("tokens", "seed", "skip_first")}
        names = ("pairs", "mask_id", "ridge", "rcond", "bos")
        special = self.draw.special
        return {name: getattr(self, name) for name in names} | draw | {"special": special}

    def numerics(self) -> dict[str, Any]:
        """The settings that only move the last bits."""
        names = ("activation", "batch_tokens", "block_tokens")
        return {name: getattr(self, name) for name in names}


def _with_preset(preset: str | None, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what a preset says; what was given otherwise is refused."""
    if preset is None:
        return dict(drawn)
    check_choice("preset", preset, [*PRESETS])
    fixed = PRESETS[preset]
    for name, value in fixed.items():
        if drawn[name] not in (None, value):
            raise PyengineError(f"preset {preset} has {name} = {value}, not {drawn[name]}")
    return {**drawn, **fixed, "preset": preset}


def _chosen(model: Model, stacks: Sequence[str] | None) -> tuple[str, ...]:
    known = stacks_of(model)
    for stack in stacks or ():
        if stack not in known:
            raise PyengineError(f"{model.name} has no {stack}; its stacks are: {', '.join(known)}")
    if stacks is not None and (not stacks or len(set(stacks)) < len(stacks)):
        raise PyengineError(f"stacks must be some of {', '.join(known)}, each once, got {stacks}")
    return tuple(stack for stack in known if stacks is None or stack in stacks)


def _mask_id(model: Model, mask: bool | None, tokens: str) -> int | None:
    """Return the mask token's id where it is to be put: by default in BERT, at the one token."""
    masked_model = not (model.family.causal or model.family.encoder_decoder)
    wanted = masked_model and tokens == TOKENS[0] if mask is None else mask
    if not wanted:
        return None
    if not masked_model:
        raise PyengineError(f"a mask is for masked language models; {model.name} is not one")
    if tokens != TOKENS[0]:
        raise PyengineError("a mask needs one token of each unit: of all tokens none would be left")
    found = getattr(model.tokenizer, "mask_token_id", None)
    if found is None:
        raise PyengineError(
            f"{model.name} has no tokenizer with a mask token; leave the chosen token as it is: "
            "without mask (--no-mask, or mask=False)"
        )
    return int(found)


def _activation(model: Model, wanted: str | None) -> str:
    if wanted is None:
        return "model" if model.dtype == "float64" else "fused"
    check_choice("activation", wanted, ACTIVATION_MODES)
    if wanted == "fused" and model.dtype == "float64":
        raise PyengineError(
            "the activation fused computes in float32 at most; in float64 it has to be model"
        )
    return wanted
