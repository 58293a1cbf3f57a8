"""Generating text with functions on named sites."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from pyengine.errors import PyengineError
from pyengine.hooked import Hook, check_head, expanded, own_precision
from pyengine.loading import load
from pyengine.model_inputs import model_inputs
from pyengine.models import Model
from pyengine.structural_copy import structural_copy
from pyengine.taps import attach


def generate(
    model: Any,
    inputs: Any,
    *,
    fwd_hooks: Iterable[Hook] = (),
    **options: Any,
) -> Any:
    """Generate with functions on sites: they are called in every step, on its new positions.

    Args:
        model, inputs, fwd_hooks: as `run_with_hooks`; prompts of a causal model are padded on the
            left. T5 takes `decoder_input_ids` to go on from; positions come from the mask.
        options: of Hugging Face's `generate` (`max_new_tokens`, `do_sample`, ...).

    Returns:
        What `generate` returns: token ids [B, T], prompt included for causal models.

    Raises:
        PyengineError: as `run_with_hooks`, for a model that does not generate, inputs that have no
            part in it, or more tokens than the model reads.
    """
    model = load(model)
    if not (model.family.causal or model.family.encoder_decoder):
        raise PyengineError(f"{model.name} is a {model.family.model_type}: it does not generate")
    check_head(model)
    given = inputs if isinstance(inputs, Mapping) else {}
    if idle := [name for name in ("labels", "position_ids") if name in given]:
        raise PyengineError(f"generate does not read {idle[0]}")
    kwargs = model_inputs(
        model, inputs, padding="left", decoder="decoder_input_ids" in given
    ).kwargs
    kwargs.pop("position_ids", None)  # made from the mask, step by step
    _check_room(model, kwargs["input_ids"].shape[1], options)
    whole = structural_copy(model.hf)
    for site, tap in expanded(model, fwd_hooks):
        attach(whole, site, tap)
    with own_precision(model), torch.no_grad():
        return whole.generate(**kwargs, **{"pad_token_id": model.pad_id, **options})


def _check_room(model: Model, n_prompt: int, options: dict[str, Any]) -> None:
    if model.family.stacks[0].relative:
        return
    wanted = options.get("max_length", n_prompt + (options.get("max_new_tokens") or 0))
    if wanted > model.max_positions:
        raise PyengineError(
            f"prompt and new tokens are {wanted}; {model.name} reads at most {model.max_positions}"
        )
