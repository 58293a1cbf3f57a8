"""Finds what would make the host wait for a GPU, on a machine without one."""

import sys
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose result, or its size, the host has to know.
WAITS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "argwhere"}
WAITS |= {"masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}
# Copies from the device, of which a CPU tensor makes none; and to it, of what is not pinned.
COPIES = {"cpu", "numpy", "tolist", "item", "tensor", "as_tensor"}
COPIES |= {"__bool__", "__float__", "__int__", "__index__"}
PACKAGES = ("pyengine", "transformers")


class Waits:
    """Records where torch was asked for what the host would wait for: `found`, function names."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._modes = (_Operations(self), _Functions(self))

    def __enter__(self) -> "Waits":
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def note(self, what: str) -> None:
        self.found.append(f"{what} in {_caller()}")


class _Operations(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITS or _by_mask(name, args) or _of_unknown_size(func, args, kwargs or {}):
            self._waits.note(name)
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in COPIES:
            self._waits.note(func.__name__)
        return func(*args, **(kwargs or {}))


def _by_mask(name: str, args: tuple[Any, ...]) -> bool:
    """Whether elements are picked by a mask, whose number is not known."""
    if not name.startswith(("index", "_index_put", "_unsafe_index")) or len(args) < 2:
        return False
    picked = args[1] if isinstance(args[1], list | tuple) else ()
    return any(isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in picked)


def _of_unknown_size(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if func.overloadpacket is not torch.ops.aten.repeat_interleave:
        return False
    return func._overloadname != "self_int" and kwargs.get("output_size") is None


def _caller() -> str:
    """Name the innermost function of ours or of transformers."""
    frame = sys._getframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in PACKAGES:
            return f"{module}.{frame.f_code.co_qualname}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"
