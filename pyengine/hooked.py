"""Forward passes with functions on named sites, identical to Hugging Face's where none edits.

The passes run on a structural copy of the whole model: its own modules, its own attention
implementation. The caller's model is not touched, whatever happens.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyengine.activation_cache import ActivationCache
from pyengine.checks import check_choice
from pyengine.errors import PyengineError
from pyengine.forward_order import below, entering
from pyengine.loading import load
from pyengine.model_inputs import model_inputs
from pyengine.models import Model
from pyengine.pos_slice import PosSlice, check_padding, sliced
from pyengine.precision import precision
from pyengine.site_names import Names
from pyengine.sites import Site, sites_of
from pyengine.structural_copy import structural_copy
from pyengine.taps import StopForwardError, Tap, attach, attach_until_last

RETURN_TYPES = ("logits", "loss", "both")

# (name, pattern or filter function; function of the value and its site): as in TransformerLens.
Hook = tuple[Names, Callable[[Tensor, Site], Tensor | None]]


def run_with_cache(
    model: Any,
    inputs: Any,
    names_filter: Names = None,
    *,
    pos_slice: PosSlice = None,
    device: torch.device | str | None = None,
    stop_at_layer: int | None = None,
    return_type: str | None = "logits",
    target: Any = None,
    fwd_hooks: Iterable[Hook] = (),
    padding: str = "right",
    overlong: str = "refuse",
) -> tuple[Any, ActivationCache]:
    """Run a model and keep the values of some sites.

    Args:
        model: from `pyengine.load`, or what it takes; never changed.
        inputs: a text or several, token ids [T] or [B, T], lists of ids, or a mapping with
            `input_ids`; see `pyengine.model_inputs.model_inputs`.
        names_filter: the sites to keep; see `pyengine.site_names.resolve`. None keeps all that the
            pass computes (attention scores and patterns only with eager attention).
        pos_slice: positions to keep: an index (the dimension stays), a slice, or a list; columns
            of the padded rows, of cross-attention's keys and values the encoder's.
        device: where the kept values go; None leaves them.
        stop_at_layer: run only the blocks before this one (layers count through all stacks;
            negative ones from the end). The output is then the residual stream that enters it,
            whatever `return_type` says. Patterns and functions take the sites before it.
        return_type: `logits`; `loss`, the mean over the predicted tokens, padding left out; `both`,
            a pair; None: the output is None, and the pass ends with the last site needed.
        target: T5: text or ids that the decoder reads, shifted right; None: the inputs' own text.
        fwd_hooks: as in `run_with_hooks`; the cache holds what they left.
        padding: `right` or `left`, where inputs differ in length.
        overlong: `refuse` inputs beyond the model's maximum, or `window`: cut them into rows.

    Returns:
        (output, cache). Values are kept as the pass computed them, in their dtypes. Those that are
        one tensor in the pass share memory: copy before you edit one in place.

    Raises:
        PyengineError: for an unknown site, bad inputs, a site beyond `stop_at_layer`, logits of a
            model without output head.
    """
    model = load(model)
    kept: dict[str, Tensor] = {}

    def keep(value: Tensor, site: Site) -> None:
        if site.name in kept:
            raise PyengineError(f"{site.name} is computed more than once in this pass")
        kept[site.name] = _own(sliced(value, site, pos_slice), where)

    hooks = [*fwd_hooks, (names_filter, keep)]
    where = None if device is None else _checked_device(device)
    kwargs = _inputs(model, inputs, target, padding, overlong, return_type)
    check_padding(pos_slice, (kwargs.get(f"{name}attention_mask") for name in ("", "decoder_")))
    output = _run(
        model,
        kwargs,
        expanded(model, hooks, stop_at_layer),
        stop_at_layer,
        return_type,
    )
    order = [*sites_of(model)] if len(kept) > 1 else [*kept]
    return output, ActivationCache({name: kept[name] for name in order if name in kept}, model)


def run_with_hooks(
    model: Any,
    inputs: Any,
    fwd_hooks: Iterable[Hook],
    *,
    stop_at_layer: int | None = None,
    return_type: str | None = "logits",
    target: Any = None,
    padding: str = "right",
    overlong: str = "refuse",
) -> Any:
    """Run a model with functions that read or replace the values of sites.

    Args:
        model, inputs, stop_at_layer, return_type, target, padding, overlong: as `run_with_cache`.
        fwd_hooks: pairs (name, function); a name may also be a pattern or a filter function. The
            function gets the value and its `pyengine.sites.Site`; a tensor that it returns takes
            the value's place, None leaves it. It must not edit the value in place, which other
            sites may share. Those on one site run in the order given.

    Returns:
        The output that `return_type` asks for. Gradients flow to what functions put in.

    Raises:
        PyengineError: as `run_with_cache`, and where a function returns another shape or dtype.
    """
    model = load(model)
    return _run(
        model,
        _inputs(model, inputs, target, padding, overlong, return_type),
        expanded(model, fwd_hooks, stop_at_layer),
        stop_at_layer,
        return_type,
    )


def _inputs(
    model: Model, inputs: Any, target: Any, padding: str, overlong: str, return_type: str | None
) -> dict[str, Tensor]:
    if return_type is not None:
        check_choice("return_type", return_type, RETURN_TYPES)
    loss = return_type in ("loss", "both")
    return model_inputs(
        model, inputs, target=target, padding=padding, overlong=overlong, loss=loss
    ).kwargs


def _run(
    model: Model,
    kwargs: dict[str, Any],
    taps: Sequence[tuple[Site, Tap]],
    stop_at_layer: int | None,
    return_type: str | None,
) -> Any:
    whole = structural_copy(model.hf)
    residual: list[Tensor] = []
    if stop_at_layer is not None:
        taps = [*taps, (entering(model, stop_at_layer), residual.append)]
    if stop_at_layer is not None or return_type is None:
        attach_until_last(whole, taps)
    else:
        check_head(model)
        for site, tap in taps:
            attach(whole, site, tap)
    kwargs = {**kwargs, "return_dict": True}
    if model.family.causal or model.family.encoder_decoder:
        kwargs["use_cache"] = False
    try:
        with own_precision(model):
            out: Any = whole(**kwargs) if return_type is not None or taps else None
    except StopForwardError:
        return residual[0] if residual else None
    return None if return_type is None else _output(out, return_type)


def _output(out: Any, return_type: str) -> Any:
    # BertForPreTraining has two heads.
    logits = out["logits"] if "logits" in out else out["prediction_logits"]
    if return_type == "logits":
        return logits
    if out.loss is None:
        raise PyengineError("the model computes no loss from the labels given")
    return out.loss if return_type == "loss" else (logits, out.loss)


def expanded(
    model: Model, hooks: Iterable[Hook], stop_at_layer: int | None = None
) -> list[tuple[Site, Tap]]:
    """Return the single sites that hooks are for, each with what is called there.

    Raises:
        PyengineError: for what is no pair of names and function, or an unknown name.
    """
    found: list[tuple[Site, Tap]] = []
    for hook in hooks:
        if not isinstance(hook, tuple | list) or len(hook) != 2 or not callable(hook[1]):
            raise PyengineError(f"fwd_hooks holds pairs (name, function), not {hook!r}")
        name, function = hook
        found += [
            (site, partial(_called, function, site)) for site in below(model, name, stop_at_layer)
        ]
    return found


def _called(function: Callable[[Tensor, Site], Tensor | None], site: Site, value: Tensor) -> Any:
    return function(value, site)


def _own(value: Tensor, device: torch.device | None) -> Tensor:
    """Return the value on a device, without the rest of a larger tensor that it is a view of."""
    moved = value if device is None else value.to(device)
    whole = moved.untyped_storage().nbytes()
    return moved if whole == moved.numel() * moved.element_size() else moved.clone()


def _checked_device(name: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise PyengineError(f"device {name!r} cannot be used: {error}") from error


def check_head(model: Model) -> None:
    """Refuse a model whose logits would be none, or random."""
    if "unembed.hook_out" not in sites_of(model) or model.random_head:
        raise PyengineError(
            f"{model.name} has no output head, hence no logits; return_type=None runs without it"
        )


def own_precision(model: Model) -> Any:
    """Allow TF32 where the model was loaded so; otherwise leave the caller's settings."""
    return precision("tf32") if model.dtype == "tf32" else nullcontext()
