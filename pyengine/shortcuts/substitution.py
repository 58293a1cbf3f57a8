"""Replacing one kind of sub-module by its fitted maps, from some layer on, all else exact.

"Jump to Conclusions", §6: from x_i the blocks i … L - 1 run with, say, every attention replaced by
the map over it that was fitted at the sampled positions; the map is applied at every position.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyengine.errors import PyengineError
from pyengine.forward import Forward
from pyengine.layers import Layer
from pyengine.models import Model
from pyengine.shortcuts.block_runs import BlockRuns, blocks_of, run_from
from pyengine.shortcuts.lens import own_stack
from pyengine.shortcuts.linear_map import MAT, LinearMap
from pyengine.shortcuts.points import ATTENTION, CROSS, FFN, NORM
from pyengine.shortcuts.validation_batches import validation_batches

if TYPE_CHECKING:
    from pyengine.shortcuts.result import Shortcuts

# What a mode replaces; T5's cross-attention is none of its attentions.
ENDINGS = {"attn": ATTENTION, "ffn": FFN, "norm": NORM, "cross": CROSS}


@torch.no_grad()
def substituted_states(
    model: Model,
    shortcuts: "Shortcuts",
    *,
    stack: str | None = None,
    kind: str = MAT,
    batch_tokens: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """Run the validation rows of a fit with sub-modules replaced.

    Each mode runs L (L + 1) / 2 blocks; what is replaced is not computed.

    Args:
        model: the one that was fitted.
        shortcuts: a fit with sub-modules.
        stack: whose; None: the only one, or the decoder.
        kind: of the maps, `mat` or `affine`.
        batch_tokens: tokens per batch, padding included; None: 4,096 on the CPU, 16,384 on CUDA.
        on_progress: called with the number of rows done.

    Returns:
        By mode (`mat_attn`, `mat_ffn`, `mat_norm`, and for T5's decoder `mat_cross`) float32
        [n, L + 1, d] (float64 for a float64 model), in the order of the validation's rows: at i the
        last layer's state, before any final norm, where the blocks from i on are substituted; at L
        the exact one.

    Raises:
        PyengineError: if the maps belong to another model, there are none of sub-modules, or hooks
            of the caller's would be lost.
    """
    shortcuts.check(model)
    stack = stack or own_stack(shortcuts)
    bodies = substituted_blocks(model, shortcuts, stack, kind)
    validation = shortcuts.validation(stack)
    last = validation.states[:, shortcuts.n_layers(stack)]
    dtype = torch.float64 if model.dtype == "float64" else torch.float32
    shape = (len(validation), shortcuts.n_layers(stack) + 1, last.shape[1])
    found = {mode: torch.empty(shape, dtype=dtype) for mode in bodies}
    runs, done = BlockRuns(model, stack), 0
    for rows in validation_batches(model, shortcuts, stack, batch_tokens=batch_tokens):
        calls, at = runs.calls(rows.batch, rows.decoder), rows.places(model.device)
        for mode, blocks in bodies.items():
            ends = [run_from(first, blocks, calls)[at] for first in range(len(blocks))]
            found[mode][rows.samples, :-1] = torch.stack(ends, 1).to("cpu", dtype)
            found[mode][rows.samples, -1] = last[rows.samples].to(dtype)
        done += len(rows.samples)
        if on_progress is not None:
            on_progress(done)
    return found


def substituted_blocks(
    model: Model, shortcuts: "Shortcuts", stack: str, kind: str = MAT
) -> dict[str, list[nn.Module]]:
    """Return for each mode the blocks of a stack, with maps in the place of sub-modules.

    Args:
        model, shortcuts, kind: as `substituted_states`.
        stack: whose.
    """
    steps = shortcuts.points(stack).steps
    if not steps:
        raise PyengineError("this fit has no sub-modules to replace; fit with them (--sub-modules)")
    layers = [layer for layer in model.layers if layer.stack.name == stack]
    found = {}
    for ending, step in ENDINGS.items():
        if step not in steps:
            continue
        body = Forward(model).body
        for layer in layers:
            for tap in (tap for tap, made in enumerate(steps) if made == step):
                mapping = shortcuts.sub_module(layer.block, tap, kind, stack=stack)
                number = steps[:tap].count(step)
                _REPLACE[step](body, layer, number, mapping.to(model.device))
        found[f"{kind}_{ending}"] = blocks_of(model, body, stack)
    return found


class _Mapped(nn.Module):
    """Stands where a sub-module stood.

    Args:
        mapping: what it computes.
        outputs: makes of the mapped one what the sub-module returned.
    """

    def __init__(self, mapping: LinearMap, outputs: Callable[[Tensor], Any] | None = None) -> None:
        super().__init__()
        self._mapping, self._outputs = mapping, outputs

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Any:
        mapped = self._mapping(hidden).to(hidden.dtype)
        return mapped if self._outputs is None else self._outputs(mapped)


def _replace_norm(body: nn.Module, layer: Layer, number: int, mapping: LinearMap) -> None:
    _put(body, layer, layer.stack.norms[number], _Mapped(mapping))


def _replace_ffn(body: nn.Module, layer: Layer, _: int, mapping: LinearMap) -> None:
    stack = layer.stack
    if stack.ffn != f"{stack.blocks}.{{}}":
        _put(body, layer, stack.ffn, _Mapped(mapping))
        return
    # BERT's is no module of its own: its parts follow one another.
    _put(body, layer, stack.key[0], nn.Identity())
    _put(body, layer, stack.activation, nn.Identity())
    _put(body, layer, stack.value, _Mapped(mapping))


def _replace_attention(
    which: int, body: nn.Module, layer: Layer, _: int, mapping: LinearMap
) -> None:
    stack = layer.stack
    whole, out = stack.projections[which][0].rpartition(".")[0], stack.attention[which]
    # Its output, the position bias where that is relative, the weights.
    more = [None] * (2 if stack.relative else 1)
    _put(body, layer, whole, _Mapped(mapping, lambda out: stack.returns([out, *more])))
    if not out.startswith(f"{whole}."):  # BERT's output projection comes after it
        _put(body, layer, out, nn.Identity())


def _put(body: nn.Module, layer: Layer, part: str, module: nn.Module) -> None:
    path = part.format(layer.block)
    for inside in body.get_submodule(path).modules():
        if inside._forward_hooks or inside._forward_pre_hooks:
            raise PyengineError(f"the model has hooks on {path}, which its map would pass by")
    parent, _, name = path.rpartition(".")
    setattr(body.get_submodule(parent), name, module)


_REPLACE: dict[str, Callable[[nn.Module, Layer, int, LinearMap], None]] = {
    NORM: _replace_norm,
    FFN: _replace_ffn,
    ATTENTION: partial(_replace_attention, 0),
    CROSS: partial(_replace_attention, 1),
}
