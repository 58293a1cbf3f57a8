"""The feed-forward layers of a model, and the module that the families' paths start from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyengine.families import Family, Stack

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Layer:
    """One feed-forward layer of a model: `index` counts through all stacks."""

    index: int
    stack: Stack
    block: int

    def module(self, body: "nn.Module", part: str) -> "nn.Module":
        """Return the module that the path template `part` names in this layer.

        Raises:
            AttributeError: if the model has no such module.
        """
        return body.get_submodule(part.format(self.block))

    def key(self, body: "nn.Module") -> "nn.Module":
        """Return the module whose weight holds the keys (the gate of a gated FFN)."""
        for part in self.stack.key:
            try:
                return self.module(body, part)
            except AttributeError:
                continue
        raise AttributeError(f"no key matrix at any of {self.stack.key} in block {self.block}")

    def up(self, body: "nn.Module") -> "nn.Module | None":
        """Return the up-projection of a gated FFN, None of a plain one."""
        if self.stack.up is None:
            return None
        try:
            return self.module(body, self.stack.up)
        except AttributeError:
            return None


def body_of(hf_model: "nn.Module") -> "nn.Module":
    """Return the module that the table's paths start from: the model without its head."""
    if hasattr(hf_model, "encoder") and hasattr(hf_model, "shared"):
        return hf_model  # T5 keeps encoder, decoder and embedding at the top
    return getattr(hf_model, "base_model", hf_model)


def layers_of(family: Family, body: "nn.Module") -> list[Layer]:
    """List the feed-forward layers of a model, encoder first."""
    return list(_layers(family, body))


def _layers(family: Family, body: "nn.Module") -> Iterator[Layer]:
    index = 0
    for stack in family.stacks:
        if stack.name == "decoder" and not hasattr(body, stack.blocks.split(".")[0]):
            continue  # a T5 encoder loaded on its own has no decoder
        for block in range(len(list(body.get_submodule(stack.blocks).children()))):
            yield Layer(index, stack, block)
            index += 1
