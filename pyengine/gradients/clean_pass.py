"""One pass of the model as it is, and what the paths of integration need of it."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pyengine.cloze import Cloze, batch_clozes
from pyengine.families import Stack
from pyengine.forward import Forward, to_device
from pyengine.layers import Layer
from pyengine.models import Model


@dataclass(eq=False)
class CleanLayer:
    """One layer's tensors for P clozes, padded to T positions; "here" is where the answer is read.

    Attributes:
        stream: [P, T, d_model], what enters the block.
        projected: of each attention, queries, keys and values, each [P, T, H * W] (of T5's
            cross-attention: keys and values of the encoder's T positions).
        mid: [P, d_model], what the FFN's output is added to, here.
        post: [P, d_ff], the coefficients here: the input of the down-projection.
        written: [P, d_model], the down-projection's output here, bias included.
        pre: [P, d_ff], the input of the non-linearity here (a gated FFN's gate).
        up: [P, d_ff], the linear half of a gated FFN, here.
        mean: of `post` or `pre`, whichever is on the path, over the content of each input.
    """

    stream: Tensor | None = None
    projected: list[tuple[Tensor, ...]] = field(default_factory=list)
    mid: Tensor | None = None
    post: Tensor | None = None
    written: Tensor | None = None
    pre: Tensor | None = None
    up: Tensor | None = None
    mean: Tensor | None = None


@dataclass(eq=False)
class CleanStack:
    """A stack's inputs.

    Attributes:
        valid: bool [P, T], False at padding.
        positions: int64 [P], where the answer is read.
        layers: in order.
        end: [P, T, d_model], the stream that the final norm reads; None where there is none.
    """

    valid: Tensor
    positions: Tensor
    layers: list[CleanLayer]
    end: Tensor | None = None


class CleanPass:
    """Runs clozes through a structural copy of a model and keeps what later passes start from.

    Args:
        forward: the copy; it is tapped while the pass runs only.
        mean_of: also average `post` or `pre` over the content of each input.
    """

    def __init__(self, forward: Forward, mean_of: str | None = None) -> None:
        model = forward.model
        self._model = model
        self._mean_of = mean_of
        self._forward = forward
        self._hooks: list[RemovableHandle] = []
        self._special = _special_ids(model)
        self._stacks: dict[str, CleanStack] = {}
        self._content: dict[str, Tensor] = {}

    @torch.no_grad()
    def run(self, items: list[Cloze]) -> dict[str, CleanStack]:
        """Run the clozes as one batch; return what was seen, by name of the stack."""
        batch = batch_clozes(self._model, items)
        device = self._model.device
        stacks = self._model.family.stacks
        for stack, part in zip(stacks, (batch.batch, batch.decoder), strict=False):
            assert part is not None
            valid = to_device(part.attention_mask, device).bool()
            n_layers = sum(layer.stack is stack for layer in self._model.layers)
            self._stacks[stack.name] = CleanStack(
                valid,
                to_device(batch.positions[stack.name], device),
                [CleanLayer() for _ in range(n_layers)],
            )
            ids = to_device(part.input_ids, device)
            self._content[stack.name] = valid & ~torch.isin(ids, self._special.to(device))
        try:
            self._tap_all()
            self._forward.run(batch.batch, batch.decoder)
            return self._stacks
        finally:
            for hook in self._hooks:
                hook.remove()
            self._hooks, self._stacks, self._content = [], {}, {}

    def _tap_all(self) -> None:
        for layer in self._model.layers:
            self._tap(layer)
        for stack in self._model.family.stacks:
            self._tap_end(stack)

    def _tap(self, layer: Layer) -> None:
        body, stack = self._forward.body, layer.stack
        pre_norm = stack.final_norm is not None

        def seen() -> CleanLayer:
            return self._stacks[stack.name].layers[layer.block]

        def stream(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen().stream = inputs[0]

        def mid(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen().mid = self._here(stack.name, inputs[0])

        def post(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen().post = self._here(stack.name, inputs[0])
            self._average(stack.name, seen(), "post", inputs[0])

        def written(_module: nn.Module, _inputs: Any, out: Tensor) -> None:
            seen().written = self._here(stack.name, out)

        def pre(_module: nn.Module, _inputs: Any, out: Tensor) -> None:
            seen().pre = self._here(stack.name, out)
            self._average(stack.name, seen(), "pre", out)

        def up(_module: nn.Module, _inputs: Any, out: Tensor) -> None:
            seen().up = self._here(stack.name, out)

        first = layer.module(body, stack.norms[0] if pre_norm else stack.projections[0][0])
        self._hooks.append(first.register_forward_pre_hook(stream))
        for paths in stack.projections:
            self._tap_projections(layer, [layer.module(body, path) for path in paths])
        entry = layer.module(body, stack.norms[-1]) if pre_norm else layer.key(body)
        self._hooks += [
            entry.register_forward_pre_hook(mid),
            layer.key(body).register_forward_hook(pre),
            layer.module(body, stack.value).register_forward_pre_hook(post),
            layer.module(body, stack.value).register_forward_hook(written),
        ]
        if (gated := layer.up(body)) is not None:
            self._hooks.append(gated.register_forward_hook(up))

    def _tap_end(self, stack: Stack) -> None:
        def end(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._stacks[stack.name].end = inputs[0]

        if stack.final_norm is not None:
            norm = self._forward.body.get_submodule(stack.final_norm)
            self._hooks.append(norm.register_forward_pre_hook(end))

    def _tap_projections(self, layer: Layer, modules: list[nn.Module]) -> None:
        """Keep queries, keys and values, in this order, whatever the order of computing them."""
        outputs: dict[int, Tensor] = {}

        def take(index: int, out: Tensor) -> None:
            outputs[index] = out
            if len(outputs) == len(modules):
                found = [outputs.pop(i) for i in range(len(modules))]
                parts = found if len(found) == 3 else found[0].chunk(3, -1)
                self._stacks[layer.stack.name].layers[layer.block].projected.append(tuple(parts))

        for index, module in enumerate(modules):
            hook = module.register_forward_hook(lambda _m, _i, out, index=index: take(index, out))
            self._hooks.append(hook)

    def _here(self, stack: str, tensor: Tensor) -> Tensor:
        positions = self._stacks[stack].positions
        return tensor[torch.arange(len(tensor), device=tensor.device), positions]

    def _average(self, stack: str, seen: CleanLayer, name: str, tensor: Tensor) -> None:
        if self._mean_of == name:
            content = self._content[stack].to(tensor.dtype)
            total = torch.einsum("pt,ptf->pf", content, tensor)
            seen.mean = total / content.sum(1, keepdim=True)


def _special_ids(model: Model) -> Tensor:
    """Ids that are not content: what the tokenizer adds, and what starts T5's decoder."""
    special = model.special_tokens()
    ids = [*special.prefix, *special.suffix]
    if model.family.encoder_decoder:
        ids.append(model.decoder_start_id)
    return torch.tensor(ids, dtype=torch.int64)
