"""A copy of a model that may be hooked and taken apart: new modules, the same memory.

The caller's model keeps its modules, hooks and mode; nothing has to be undone. Hooks that the
caller has put on modules are carried along and see the copies.
"""

from typing import Any

from torch import nn

from pyengine.errors import PyengineError


def structural_copy(model: nn.Module) -> Any:
    """Copy the modules of a model, in evaluation mode; parameters are frozen aliases.

    Compiled modules are run uncompiled in the copy.

    Raises:
        PyengineError: for a model whose forward passes have been replaced by somebody's own (as
            for a model that accelerate spreads over devices): the copy would run the original.
    """
    for name, module in model.named_modules():
        if "forward" in vars(module) or "_hf_hook" in vars(module):
            raise PyengineError(
                f"the forward pass of {name or type(model).__name__} has been replaced (by "
                "accelerate's device map or offloading, or a tool that wraps modules); load the "
                "model afresh on one device"
            )
    return _copied(model, {}).eval()


def _copied(part: Any, seen: dict[int, Any]) -> Any:
    """Copy modules, and the tables they hold; parameters keep their memory, all else is shared.

    `copy.deepcopy` does the same in ten times the time, mostly for configurations.
    """
    if id(part) in seen:  # shared modules and tied parameters stay so
        return seen[id(part)]
    if isinstance(part, nn.Parameter):
        # Frozen, so that gradients of activations do not drag those of weights along.
        copied: Any = nn.Parameter(part.detach(), requires_grad=False)
    elif isinstance(part, nn.Module):
        copied = object.__new__(type(part))
        seen[id(part)] = copied
        own = {name: value for name, value in vars(part).items() if name != "_compiled_call_impl"}
        copied.__dict__ = {name: _copied(value, seen) for name, value in own.items()}
    elif isinstance(part, dict):  # of parameters, modules, hooks, each of its own kind
        copied = part.copy()
        copied.update((key, _copied(own, seen)) for key, own in part.items())
    else:
        return part
    seen[id(part)] = copied
    return copied
