"""A copy of a model that may be hooked and taken apart: new modules, the same memory.

The caller's model keeps its modules, hooks and mode; nothing has to be undone. Hooks that the
caller has put on modules are carried along and see the copies.
"""

import copy
from typing import Any

from torch import nn

from pyengine.errors import PyengineError


def structural_copy(model: nn.Module) -> Any:
    """Copy the modules of a model, in evaluation mode; parameters are frozen aliases.

    Compiled modules are run uncompiled in the copy. A hook that is itself a module is not copied.

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
    copied = _copied(model, {}).eval()
    if getattr(getattr(model, "config", None), "return_dict", True) is False:
        _return_dicts(copied)
    return copied


def _return_dicts(copied: nn.Module) -> None:
    """Have modules answer each other by name, whatever the caller's configuration says."""
    configurations: dict[int, Any] = {}
    for module in copied.modules():
        if (own := vars(module).get("config")) is not None:
            configuration = configurations.setdefault(id(own), copy.copy(own))
            configuration.return_dict = True
            vars(module)["config"] = configuration


def _copied(module: nn.Module, seen: dict[int, Any]) -> Any:
    """Copy a module and those inside; parameters keep their memory, all else is shared.

    `copy.deepcopy` does the same in twenty times the time, mostly for configurations.
    """
    # An embedding that two stacks share (T5's, once it was resized) becomes one for each, so that
    # they can be told apart.
    if id(module) in seen and not isinstance(module, nn.Embedding):
        return seen[id(module)]
    copied = object.__new__(type(module))
    seen[id(module)] = copied
    own = {
        name: value.copy() if isinstance(value, dict) else value  # hooks among them
        for name, value in vars(module).items()
        if name != "_compiled_call_impl"
    }
    for name, part in own["_modules"].items():
        own["_modules"][name] = None if part is None else _copied(part, seen)
    for name, parameter in own["_parameters"].items():
        own["_parameters"][name] = None if parameter is None else _frozen(parameter, seen)
    copied.__dict__ = own
    return copied


def _frozen(parameter: nn.Parameter, seen: dict[int, Any]) -> Any:
    """Alias a parameter, without gradient, so that those of activations drag none along."""
    if id(parameter) not in seen:  # tied parameters stay so
        seen[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return seen[id(parameter)]
