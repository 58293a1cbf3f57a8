"""Gradients of an answer along straight paths, one per cloze and layer, batched over all of them.

::

    z(α) = mid + W (b + α (a - b)) + bias

a is the vector of coefficients where the answer is read, b its baseline. z is linear in α: a path
costs one product with W, the gradient needed at each of its points has d_model numbers, and Wᵀ is
multiplied once, after the sum over the points (`Paths.scores`).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyengine.cloze import Cloze
from pyengine.forward import Forward
from pyengine.gradients.answer_head import AnswerHead
from pyengine.gradients.attention import PositionBias
from pyengine.gradients.blocks import Block, blocks_of
from pyengine.gradients.causal_tail import CausalTail
from pyengine.gradients.clean_pass import CleanPass, CleanStack
from pyengine.gradients.decoder_tail import EncoderTail
from pyengine.gradients.dense_tail import DenseTail
from pyengine.gradients.layer_paths import LayerPath, PostPath, PrePath
from pyengine.gradients.points import Evaluated, Points
from pyengine.gradients.tail import Join, Tail
from pyengine.models import Model
from pyengine.out_of_memory import is_out_of_memory

# Positions × layers whose activations are held for the backward pass at once.
BUDGETS = {"cpu": 3072, "cuda": 262_144}


class PathEngine:
    """What the paths of any clozes of a model have in common.

    Args:
        model: the model; a structural copy of it is run, in evaluation mode.
        objective: F, one of `answer_head.OBJECTIVES`.
        value: `post`, coefficients; or `pre`, inputs of the non-linearity.
        baseline: None (zero), `mean` (over the content of each input), or [n_layers, d_ff].
        budget: positions × layers held for a backward pass.
    """

    def __init__(
        self,
        model: Model,
        *,
        objective: str,
        value: str,
        baseline: Tensor | str | None,
        budget: int,
    ) -> None:
        self.model = model
        self.value = value
        self.baseline = baseline
        self.budget = budget
        forward = Forward(model)
        self.body = forward.body
        self.clean = CleanPass(forward, mean_of=value if isinstance(baseline, str) else None)
        self.head = AnswerHead(model, objective)
        self.dtype = torch.float64 if model.dtype == "float64" else torch.float32
        names = [stack.name for stack in model.family.stacks]
        self.blocks = {name: blocks_of(model, self.body, name) for name in names}
        self.biases = {
            name: PositionBias(self.body, blocks[0].layer) for name, blocks in self.blocks.items()
        }

    def paths(self, items: list[Cloze]) -> "Paths":
        """Run the clozes as they are; return their paths."""
        return Paths(self, items, self.clean.run(items))


class Paths:
    """The paths of P clozes through all layers.

    Attributes:
        layers: the path of each layer.
        exact: False if memory was short and rows were split, which moves the last bits.
    """

    def __init__(
        self, engine: PathEngine, items: list[Cloze], clean: dict[str, CleanStack]
    ) -> None:
        self.exact = True
        self._engine = engine
        self._device = engine.model.device
        targets = torch.tensor([cloze.target for cloze in items])
        self._targets = targets.to(self._device)
        self._clean = clean
        self._tails = {name: _tail(engine, name, clean) for name in engine.blocks}
        kind = PostPath if engine.value == "post" else PrePath
        self.layers: list[LayerPath] = [
            kind(
                engine.model,
                block,
                clean[name].layers[block.layer.block],
                _baseline(engine, block),
                engine.dtype,
            )
            for name, blocks in engine.blocks.items()
            for block in blocks
        ]

    @property
    def n_items(self) -> int:
        return len(self._targets)

    def at(self, points: Points) -> Evaluated:
        """Evaluate points of paths."""
        found = self._empty(len(points.items))
        self._evaluate(points, found, None)
        return found

    def at_with_ends(self, points: Points) -> tuple[Evaluated, Evaluated]:
        """Evaluate points, and the ends (α = 1) of all paths.

        The paths of a cloze all end in the model as it is: one row per stack serves all its layers.

        Returns:
            The points; and the ends: F [P], and its gradients, [n_layers, P, d_model].
        """
        found = self._empty(len(points.items))
        ends = self._empty(self.n_items, len(self.layers))
        firsts = torch.tensor([blocks[0].layer.index for blocks in self._engine.blocks.values()])
        items = torch.arange(self.n_items).repeat(len(firsts))
        both = Points(
            torch.cat([points.items, items]),
            torch.cat([points.layers, firsts.repeat_interleave(self.n_items)]),
            torch.cat([points.alpha, points.alpha.new_ones(len(items))]),
        )
        self._evaluate(both, found, ends)
        return found, ends

    def _empty(self, n: int, *layers: int) -> Evaluated:
        width = self._engine.model.values(0).shape[1]
        value = torch.empty(n, dtype=self._engine.dtype, device=self._device)
        return Evaluated(value, value.new_empty(*layers, n, width), torch.empty_like(value))

    def _evaluate(self, points: Points, found: Evaluated, ends: Evaluated | None) -> None:
        """Fill in what was found; rows beyond its length are the ends."""
        todo = list(self._chunks(points))
        while todo:
            name, rows = todo.pop()
            is_end = rows >= len(found.value)
            try:
                run = self._run(name, Points(*(column[rows] for column in points)), is_end)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or len(rows) == 1:
                    raise
                self.exact = False
                todo += [(name, part) for part in rows.chunk(2)]
                torch.cuda.empty_cache()
                continue
            own, inner = rows[~is_end], ~is_end.to(self._device)
            found.value[own] = run.value[inner]
            found.gradient[own] = run.gradient[inner]
            found.probability[own] = run.probability[inner]
            if ends is not None and run.through is not None:
                blocks = self._engine.blocks[name]
                span = slice(blocks[0].layer.index, blocks[-1].layer.index + 1)
                items = points.items[rows[is_end]].to(self._device)
                ends.value[items] = run.value[~inner]
                ends.probability[items] = run.probability[~inner]
                ends.gradient[span, items] = run.through

    def _chunks(self, points: Points) -> Iterator[tuple[str, Tensor]]:
        """Cut rows, clozes together, into what the budget allows; each ordered by layer."""
        for name, blocks in self._engine.blocks.items():
            first, last = blocks[0].layer.index, blocks[-1].layer.index
            mine = torch.nonzero((points.layers >= first) & (points.layers <= last))[:, 0]
            mine = mine[points.items[mine].argsort(stable=True)]
            costs = torch.tensor([self._tails[name].cost(i) for i in range(len(blocks))])
            total = costs[points.layers[mine] - first].cumsum(0)
            for rows in _cut(mine, total, self._engine.budget):
                yield name, rows[points.layers[rows].argsort(stable=True)]

    def _run(self, name: str, rows: Points, is_end: Tensor) -> "_Run":
        """Evaluate rows of one stack, ordered by layer; ends are among those of the first."""
        joins = [self._join(block, rows) for block in self._engine.blocks[name]]
        leaves = [z for _, z in joins if len(z)]
        with torch.enable_grad():
            run = self._tails[name].run(joins)
            prepared = self._engine.head.prepare(run.stream)
            found = self._engine.head.answer(prepared.detach(), self._targets[run.items])
            wanted = [*leaves, *run.passed] if is_end.any() else leaves
            gradients = torch.autograd.grad(prepared, wanted, found.seed)
        own = torch.cat(gradients[: len(leaves)]).to(found.value) * found.factor[:, None]
        through = None
        if is_end.any():
            ends = torch.nonzero(is_end)[:, 0].to(self._device)
            positions = self._clean[name].positions[run.items[ends]]
            after = [_at_answer(g[ends], positions) for g in gradients[len(leaves) :]]
            factor = found.factor[ends, None]
            through = torch.stack([own[ends], *(g.to(factor) * factor for g in after)])
        return _Run(found.value, own, found.probability, through)

    def _join(self, block: Block, rows: Points) -> Join:
        mine = rows.layers == block.layer.index
        items = rows.items[mine].to(self._device)
        z = self.layers[block.layer.index].z(items, rows.alpha[mine].to(self._device))
        return items, z.requires_grad_()


class _Run(NamedTuple):
    """As `Evaluated`, gradients at the rows' own layers; and those of rows that are ends at every
    layer of the stack, [n_blocks, ends, d_model]."""

    value: Tensor
    gradient: Tensor
    probability: Tensor
    through: Tensor | None


def _tail(engine: PathEngine, name: str, clean: dict[str, CleanStack]) -> Tail:
    blocks, bias = engine.blocks[name], engine.biases[name]
    stack = blocks[0].layer.stack
    if stack.causal:
        return CausalTail(blocks, clean[name], bias, clean.get("encoder"))
    if not engine.model.family.encoder_decoder:
        return DenseTail(blocks, clean[name], bias, whole=False)
    assert stack.final_norm is not None
    return EncoderTail(
        DenseTail(blocks, clean[name], bias, whole=True),
        engine.body.get_submodule(stack.final_norm),
        engine.blocks["decoder"],
        clean,
        engine.biases["decoder"],
    )


def _baseline(engine: PathEngine, block: Block) -> Tensor | None:
    """Return a layer's given baseline, [d_ff]; None: zero, or that of each cloze."""
    if not isinstance(engine.baseline, Tensor):
        return None
    return engine.baseline[block.layer.index].to(engine.model.device, engine.dtype)


def _cut(rows: Tensor, total: Tensor, budget: int) -> list[Tensor]:
    """Cut rows, whose costs add up to `total` so far, into pieces that cost about a budget."""
    if not len(rows):
        return []
    piece = (total - 1) // budget
    return list(rows.split(piece.bincount()[piece.unique()].tolist()))


def _at_answer(gradient: Tensor, positions: Tensor) -> Tensor:
    """Return [R, d_model] of [R, d_model], [R, 1, d_model] or [R, T, d_model]."""
    if gradient.ndim == 2:
        return gradient
    if gradient.shape[1] == 1:
        return gradient[:, 0]
    return gradient[torch.arange(len(gradient), device=gradient.device), positions]
