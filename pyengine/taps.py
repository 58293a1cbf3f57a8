"""Putting a function on a site: it sees the value, and may replace it.

A function that returns None changes no bit: the model's own modules compute everything.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pyengine.errors import PyengineError
from pyengine.families import body_of
from pyengine.sites import INPUT, NORMALIZED, OUTPUT, PATTERN, SCALE, SCORES, STREAM, Site

# Given a site's value; what it returns takes its place, None leaves it.
Tap = Callable[[Tensor], Tensor | None]

_SOFTMAX = (functional.softmax, torch.softmax, Tensor.softmax)


class Handle(Protocol):
    """What undoes an `attach`."""

    def remove(self) -> None:
        """Take the function off again."""


def attach(whole: nn.Module, site: Site, tap: Tap) -> Handle:
    """Have `tap` called with the value of a site in every forward pass.

    Args:
        whole: a Hugging Face model, or a structural copy of one; for a site outside the output head
            its body will do.
        site: from `pyengine.sites.sites_of`.
        tap: takes the value in the site's shape. Functions on one site run in the order in which
            they were attached, each on what the one before left.

    Raises:
        PyengineError: inside the forward pass, if `tap` returns another shape, dtype or type.
    """
    root = whole if site.in_head else body_of(whole)
    return _HOW[site.tap](root.get_submodule(site.module), site, partial(_checked, site, tap))


class StopForwardError(Exception):
    """Raised inside a forward pass once nothing above is needed."""


def attach_until_last(whole: nn.Module, taps: Iterable[tuple[Site, Tap]]) -> None:
    """Attach functions to a structural copy, and end its pass when all have been called.

    Args:
        whole: as `attach` takes it.
        taps: sites and functions; the pass raises `StopForwardError` inside the last.
    """
    taps = list(taps)
    waiting = set(range(len(taps)))

    def ending(number: int, tap: Tap, value: Tensor) -> Tensor | None:
        new = tap(value)
        waiting.discard(number)
        if not waiting:
            raise StopForwardError
        return new

    for number, (site, tap) in enumerate(taps):
        attach(whole, site, partial(ending, number, tap))


def _checked(site: Site, tap: Tap, value: Tensor) -> Tensor | None:
    new = tap(value)
    if new is None:
        return None
    if not isinstance(new, Tensor):
        raise PyengineError(f"a hook on {site.name} returned {type(new).__name__}, not a tensor")
    if new.shape != value.shape or new.dtype != value.dtype:
        raise PyengineError(
            f"a hook on {site.name} returned {new.dtype} {tuple(new.shape)}, "
            f"not {value.dtype} {tuple(value.shape)}"
        )
    return new


def _input(module: nn.Module, site: Site, tap: Tap) -> Handle:
    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value, put = _first(args, kwargs)
        new = _viewed(site, tap, value)
        return None if new is None else put(new)

    return module.register_forward_pre_hook(before, with_kwargs=True)


def _output(module: nn.Module, site: Site, tap: Tap) -> Handle:
    def after(_module: nn.Module, _inputs: Any, out: Any) -> Any:
        first, *rest = out if isinstance(out, tuple) else (out,)
        new = _viewed(site, tap, first)
        if new is None:
            return None
        return (new, *rest) if isinstance(out, tuple) else new

    return module.register_forward_hook(after)


def _stream(module: nn.Module, site: Site, tap: Tap) -> Handle:
    """Edit in place: the block adds its next output to this very tensor."""

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value, _put = _first(args, kwargs)
        new = tap(value)
        if new is not None and new is not value:
            value.copy_(new)

    return module.register_forward_pre_hook(before, with_kwargs=True)


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Callable[..., Any]]:
    """Return a module's main input, and what puts another in its place."""
    if args:
        return args[0], lambda new: ((new, *args[1:]), kwargs)
    return kwargs["hidden_states"], lambda new: (args, {**kwargs, "hidden_states": new})


def _viewed(site: Site, tap: Tap, whole: Tensor) -> Tensor | None:
    """Show `tap` its part of a module's tensor, head by head; return the tensor with the change."""
    i, n = site.part
    parts = list(whole.chunk(n, dim=-1)) if n > 1 else [whole]
    new = tap(parts[i].unflatten(-1, (site.heads, -1)) if site.heads else parts[i])
    if new is None:
        return None
    parts[i] = new.flatten(-2) if site.heads else new
    return torch.cat(parts, dim=-1) if n > 1 else parts[0]


def _scale(module: nn.Module, _site: Site, tap: Tap) -> Handle:
    def after(_module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        centered, scale = _standardized(module, inputs[0])
        new = tap(scale)
        return None if new is None else _affine(module, centered / new, out.dtype)

    return module.register_forward_hook(after)


def _normalized(module: nn.Module, _site: Site, tap: Tap) -> Handle:
    def after(_module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        centered, scale = _standardized(module, inputs[0])
        new = tap(centered / scale)
        return None if new is None else _affine(module, new, out.dtype)

    return module.register_forward_hook(after)


def _standardized(module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a norm divides, and by what, in float32 at least."""
    x = x if x.dtype == torch.float64 else x.float()
    if isinstance(module, nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
    eps = module.eps if isinstance(module, nn.LayerNorm) else module.variance_epsilon
    return x, (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def _affine(module: Any, normalized: Tensor, dtype: torch.dtype) -> Tensor:
    scaled = normalized * module.weight
    bias = getattr(module, "bias", None)
    return (scaled if bias is None else scaled + bias).to(dtype)


def _scores(module: nn.Module, _site: Site, tap: Tap) -> Handle:
    return _SoftmaxTap.on(module, before=tap)


def _pattern(module: nn.Module, _site: Site, tap: Tap) -> Handle:
    return _SoftmaxTap.on(module, after=tap)


class _SoftmaxTap(TorchFunctionMode):
    """Calls functions around the softmax that an attention computes in its own code."""

    def __init__(self, before: Tap | None, after: Tap | None, dtype: torch.dtype) -> None:
        super().__init__()
        self._before, self._after, self._dtype = before, after, dtype

    @classmethod
    def on(cls, module: nn.Module, before: Tap | None = None, after: Tap | None = None) -> Handle:
        inside: list[_SoftmaxTap] = []
        # The last one entered is asked first about scores, and last about patterns.
        outermost_first = before is not None

        def enter(_module: nn.Module, _args: Any) -> None:
            inside.append(cls(before, after, next(module.parameters()).dtype))
            inside[-1].__enter__()

        def leave(_module: nn.Module, _args: Any, _out: Any) -> None:
            while inside:
                inside.pop().__exit__(None, None, None)

        first = module.register_forward_pre_hook(enter, prepend=outermost_first)
        last = module.register_forward_hook(leave, always_call=True)
        return _Both(first, last)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _SOFTMAX:
            return func(*args, **kwargs)
        scores, *rest = args
        if self._before is not None and (new := self._before(scores)) is not None:
            scores = new
        pattern = func(scores, *rest, **kwargs)
        # Where the softmax is in float32, its result is rounded before it meets the values.
        if self._after is not None and (new := self._after(pattern.to(self._dtype))) is not None:
            pattern = new.to(pattern.dtype)
        return pattern


class _Both:
    def __init__(self, *handles: Handle) -> None:
        self._handles = handles

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


_HOW: dict[str, Callable[[nn.Module, Site, Tap], Handle]] = {
    INPUT: _input,
    OUTPUT: _output,
    STREAM: _stream,
    SCALE: _scale,
    NORMALIZED: _normalized,
    SCORES: _scores,
    PATTERN: _pattern,
}
