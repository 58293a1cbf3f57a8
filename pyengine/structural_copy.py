"""A copy of a model that may be hooked and taken apart: new modules, the same memory.

The caller's model keeps its modules, hooks and mode; nothing has to be undone. Hooks that the
caller has put on modules are carried along and see the copies.
"""

from typing import Any

from torch import Tensor, nn

from pyengine.errors import PyengineError

# Most of what a module holds; skipped quickly.
_PLAIN = frozenset({bool, int, float, str, tuple, type(None)})


def structural_copy(model: nn.Module) -> Any:
    """Copy the modules of a model, in evaluation mode; parameters are frozen aliases.

    Compiled modules are run uncompiled in the copy.

    Raises:
        PyengineError: for a model whose forward passes have been replaced by somebody's own (as
            for a model that accelerate spreads over devices): the copy would run the original; for
            one that runs its feed-forward layers in chunks, where a hook would see the last only.
    """
    for name, module in model.named_modules():
        if "forward" in vars(module) or "_hf_hook" in vars(module):
            raise PyengineError(
                f"the forward pass of {name or type(model).__name__} has been replaced (by "
                "accelerate's device map or offloading, or a tool that wraps modules); load the "
                "model afresh on one device"
            )
        if getattr(module, "chunk_size_feed_forward", 0):
            raise PyengineError(
                f"{name} runs in chunks (chunk_size_feed_forward="
                f"{module.chunk_size_feed_forward}); set it to 0 in the configuration"
            )
    return _copied(model, {}).eval()


def _copied(part: Any, seen: dict[int, Any]) -> Any:
    """Copy modules, and the tables they hold; parameters keep their memory, all else is shared.

    `copy.deepcopy` does the same in twenty times the time, mostly for configurations.
    """
    if not isinstance(part, (dict, nn.Module, Tensor)):
        return part
    if id(part) in seen:  # shared modules and tied parameters stay so
        return seen[id(part)]
    if isinstance(part, dict):  # of parameters, modules, hooks, each of its own kind
        copied: Any = _table(part, seen)
    elif isinstance(part, nn.Module):
        copied = object.__new__(type(part))
        seen[id(part)] = copied
        copied.__dict__ = _table(vars(part), seen)
        copied.__dict__.pop("_compiled_call_impl", None)
    elif isinstance(part, nn.Parameter):
        # Frozen, so that gradients of activations do not drag those of weights along.
        copied = nn.Parameter(part.detach(), requires_grad=False)
    else:
        return part
    seen[id(part)] = copied
    return copied


def _table(entries: dict[Any, Any], seen: dict[int, Any]) -> dict[Any, Any]:
    copied = entries.copy()
    for name, value in entries.items():
        if type(value) not in _PLAIN:
            copied[name] = _copied(value, seen)
    return copied
