"""Putting a function on a site: it sees the value, and may replace it.

A function that returns None changes no bit: the model's own modules compute everything.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pyengine.errors import PyengineError
from pyengine.layers import body_of
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
    if (new.shape, new.dtype, new.device) != (value.shape, value.dtype, value.device):
        raise PyengineError(
            f"a hook on {site.name} returned {new.dtype} {tuple(new.shape)} on {new.device}, "
            f"not {value.dtype} {tuple(value.shape)} on {value.device}"
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


class _Inside:
    """Stands in the place of a module's forward, to show what it computes on the way.

    Forward hooks on the module come after it, and see what it returns.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.inner = module, module.forward
        self.first: list[Tap] = []  # scores, or scale
        self.second: list[Tap] = []  # pattern, or normalized

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Return the one that a module has, or give it one."""
        if not isinstance(vars(module).get("forward"), cls):
            vars(module)["forward"] = cls(module)
        found: Any = module.forward
        return found

    def add(self, stage: list[Tap], tap: Tap) -> Handle:
        stage.append(tap)
        return _Removal(partial(self._remove, stage, tap))

    def _remove(self, stage: list[Tap], tap: Tap) -> None:
        stage.remove(tap)
        if not self.first and not self.second:
            del vars(self.module)["forward"]


class _Removal:
    def __init__(self, remove: Callable[[], None]) -> None:
        self.remove = remove


class _InsideNorm(_Inside):
    """Shows the scale, then the normalised values; recomputes the output where one is edited."""

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        centered, scale = _standardized(self.module, x)
        new_scale = _through(self.first, scale)
        normalized = centered / (scale if new_scale is None else new_scale)
        new = _through(self.second, normalized)
        if new_scale is None and new is None:
            return out
        return _affine(self.module, normalized if new is None else new, out.dtype)


class _InsideAttention(_Inside):
    """Shows what goes into and out of the softmax that an attention computes in its own code."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _SoftmaxMode(self.first, self.second, next(self.module.parameters()).dtype):
            return self.inner(*args, **kwargs)


class _SoftmaxMode(TorchFunctionMode):
    def __init__(self, scores: list[Tap], pattern: list[Tap], dtype: torch.dtype) -> None:
        super().__init__()
        self._scores, self._pattern, self._dtype = scores, pattern, dtype

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _SOFTMAX:
            return func(*args, **kwargs)
        scores, *rest = args
        new = _through(self._scores, scores)
        pattern = func(scores if new is None else new, *rest, **kwargs)
        # Where the softmax is in float32, its result is rounded before it meets the values.
        new = _through(self._pattern, pattern.to(self._dtype)) if self._pattern else None
        return pattern if new is None else new.to(pattern.dtype)


def _through(taps: Iterable[Tap], value: Tensor) -> Tensor | None:
    """Call functions one after the other; None if none of them replaces the value."""
    edited = None
    for tap in taps:
        new = tap(value)
        if new is not None:
            value = edited = new
    return edited


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


_HOW: dict[str, Callable[[nn.Module, Site, Tap], Handle]] = {
    INPUT: _input,
    OUTPUT: _output,
    STREAM: _stream,
    SCALE: lambda module, _, tap: (inside := _InsideNorm.of(module)).add(inside.first, tap),
    NORMALIZED: lambda module, _, tap: (inside := _InsideNorm.of(module)).add(inside.second, tap),
    SCORES: lambda module, _, tap: (inside := _InsideAttention.of(module)).add(inside.first, tap),
    PATTERN: lambda module, _, tap: (inside := _InsideAttention.of(module)).add(inside.second, tap),
}
