"""Greedy generation that stops at the first layer that is sure enough, and stays exact.

A token that stops at layer l is read from x_l. Later tokens that go further need the keys and
values of all positions before them there: positions that stopped early wait, and are run through a
block, all at once, when a later token first needs it. So every state is what the whole model would
have computed, and no block computes a position twice.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from pyengine.attention_masks import GIVEN
from pyengine.checks import check_count
from pyengine.errors import PyengineError
from pyengine.forward import Forward
from pyengine.hooked import own_precision
from pyengine.loading import load
from pyengine.model_inputs import model_inputs
from pyengine.models import Model
from pyengine.shortcuts.block_runs import blocks_of, stream_of
from pyengine.shortcuts.lens import Kind
from pyengine.shortcuts.linear_map import MAT
from pyengine.shortcuts.stopping import Stopping

if TYPE_CHECKING:
    from pyengine.shortcuts.result import Shortcuts


@dataclass(frozen=True, eq=False)
class Generated:
    """The continuation of one prompt.

    Attributes:
        tokens: int64 [T], the prompt, then the new tokens.
        layers: int64 [new tokens], where each stopped: blocks that were run for it.
        n_computed: positions × blocks computed.
        n_whole: positions × blocks that whole passes with a cache compute.
    """

    tokens: Tensor
    layers: Tensor
    n_computed: int
    n_whole: int

    @property
    def new_tokens(self) -> Tensor:
        """int64 [new tokens]."""
        return self.tokens[len(self.tokens) - len(self.layers) :]


@torch.no_grad()
def generate(
    model: Any,
    shortcuts: "Shortcuts",
    inputs: Any,
    *,
    early_exit: float,
    max_new_tokens: int,
    kind: Kind = MAT,
    eos_token_id: int | Sequence[int] | None = None,
    mean_length: float | None = None,
) -> list[Generated]:
    """Continue prompts greedily, each token read from the first layer that is sure enough.

    The same tokens as recomputing every prefix from its first layer on would give; with
    `early_exit` = 1.112 those of plain greedy generation.

    Args:
        model: a causal model, or what `pyengine.load` takes; the one that was fitted.
        shortcuts: its maps.
        inputs: prompts, as `pyengine.run_with_cache` takes them; they are continued one by one.
        early_exit: λ: the lower, the earlier; see `pyengine.shortcuts.early_exit`.
        max_new_tokens: of each prompt, at least 1.
        kind: how states are read, as `Lens` takes it.
        eos_token_id: what ends a continuation; None: what the model's generation configuration
            names, () nothing.
        mean_length: N of the rule; None: of the fit's validation rows.

    Returns:
        One for each prompt.

    Raises:
        PyengineError: for a model that is not causal, maps of another model, inputs that have no
            part in it, more tokens than the model reads, or attention that is neither `eager` nor
            `sdpa`.
    """
    model = load(model)
    prompts = _prompts(model, inputs)
    check_count("max_new_tokens", max_new_tokens)
    _check(model, max(map(len, prompts)) + max_new_tokens)
    stopping = Stopping(model, shortcuts, early_exit, kind=kind, mean_length=mean_length)
    ends = _ends(model, eos_token_id)
    forward = Forward(model)
    with own_precision(model):
        return [
            _continued(_Stack(forward), stopping, prompt, max_new_tokens, ends)
            for prompt in prompts
        ]


class _Stack:
    """A causal stack on one sequence: each block has computed as many positions as were needed.

    `_waiting[b]` are the streams of the positions that block b has not computed yet; those before
    are in its cache. No block is ahead of the one below it.
    """

    def __init__(self, forward: Forward) -> None:
        stack = forward.model.layers[-1].stack
        self._embedding = forward.body.get_submodule(stack.embedding)
        self._places = forward.body.get_submodule(stack.positions)
        self._blocks = blocks_of(forward.model, forward.body, stack.name)
        self._cache = DynamicCache()
        self._waiting: list[list[Tensor]] = [[] for _ in self._blocks]
        self._computed = [0] * len(self._blocks)
        self._length = 0

    @property
    def n_computed(self) -> int:
        """Positions × blocks so far."""
        return sum(self._computed)

    @property
    def n_blocks(self) -> int:
        return len(self._blocks)

    def add(self, tokens: Tensor) -> None:
        """Append tokens, int64 [n]: they wait before the first block."""
        positions = torch.arange(self._length, self._length + len(tokens), device=tokens.device)
        self._waiting[0].append((self._embedding(tokens) + self._places(positions))[None])
        self._length += len(tokens)

    def run(self, block: int) -> Tensor:
        """Run a block on what waits before it, after the one below; return the last, [1, d]."""
        waiting = torch.cat(self._waiting[block], 1)
        mask = self._mask(self._computed[block], waiting)
        out = stream_of(self._blocks[block](waiting, self._cache, mask))
        self._waiting[block] = []
        self._computed[block] += waiting.shape[1]
        if block + 1 < len(self._blocks):
            self._waiting[block + 1].append(out)
        return out[:, -1]

    def _mask(self, before: int, waiting: Tensor) -> Tensor | None:
        """Return what is added to the scores, [1, 1, n, before + n]; one query sees all keys."""
        n = waiting.shape[1]
        if n == 1:
            return None
        keys = torch.arange(before + n, device=waiting.device)
        unseen = keys > keys[before:, None]
        mask = waiting.new_zeros(unseen.shape)
        return mask.masked_fill(unseen, torch.finfo(mask.dtype).min)[None, None]


def _continued(
    stack: _Stack, stopping: Stopping, prompt: Tensor, n_new: int, ends: frozenset[int]
) -> Generated:
    tokens, layers = prompt, []
    stack.add(prompt)
    while True:
        token, layer = _next(stack, stopping, len(tokens) - 1)
        new = prompt.new_tensor([token])
        tokens = torch.cat([tokens, new])
        layers.append(layer)
        if token in ends or len(layers) == n_new:
            n_whole = (len(tokens) - 1) * stack.n_blocks
            return Generated(tokens, torch.tensor(layers), stack.n_computed, n_whole)
        stack.add(new)


def _next(stack: _Stack, stopping: Stopping, position: int) -> tuple[int, int]:
    """Return the next token and the layer that it was read from."""
    layer, token = 0, None
    while token is None:  # at the last layer there is one
        state = stack.run(layer)
        layer += 1
        token = stopping.token(state, layer, position)
    return token, layer


def _prompts(model: Model, inputs: Any) -> list[Tensor]:
    given = inputs if isinstance(inputs, Mapping) else {}
    if idle := [name for name in ("labels", "position_ids") if name in given]:
        raise PyengineError(f"generate does not read {idle[0]}")
    kwargs = model_inputs(model, inputs).kwargs
    ids, mask = kwargs["input_ids"], kwargs.get("attention_mask")
    return list(ids) if mask is None else [row[m.bool()] for row, m in zip(ids, mask, strict=True)]


def _check(model: Model, n_tokens: int) -> None:
    if not model.family.causal:
        raise PyengineError(
            f"{model.name} is a {model.family.model_type}: early exit generates with causal models"
        )
    if "past_key_values" not in inspect.signature(model.body.forward).parameters:
        raise PyengineError(
            f"{model.name} is a {model.family.model_type}, which keeps no keys and values: early "
            "exit generates with models that do"
        )
    if n_tokens > model.max_positions:
        raise PyengineError(
            f"prompt and new tokens are {n_tokens}; {model.name} reads at most "
            f"{model.max_positions}"
        )
    if (attention := model.config._attn_implementation) not in GIVEN:
        raise PyengineError(
            f"early exit generates with {' or '.join(GIVEN)} attention, not {attention}; load the "
            "model with attn_implementation='sdpa'"
        )


def _ends(model: Model, given: int | Sequence[int] | None) -> frozenset[int]:
    named = getattr(model.hf.generation_config, "eos_token_id", None) if given is None else given
    return frozenset([named] if isinstance(named, int) else named or ())
