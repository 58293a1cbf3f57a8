"""Adaptive quadrature along every path by itself: nested Clenshaw-Curtis, 5, 9, ... 65 nodes.

Most layers are smooth and done with five nodes; the one that carries a fact switches sharply on the
way and needs more. Each level keeps the gradients of the one before. A layer that writes more than
the stream held before it bends the path most and begins with nine. A path is done when

- the error of its scores is estimated at tolerance × the largest score of its prompt, or less,
- and its completeness residual is at most tolerance × the prompt's largest |F(a) - F(b)|.

The estimate: with moves Δ' and then Δ from level to level and r = Δ/Δ', the moves still to come add
up to Δ (r + r² + ...) = Δ r/(1 - r), if convergence goes on as it did. It is geometric or better
where the path is smooth, but r = 1/4 at a kink of a ReLU: r is taken to be at least that; unless it
is at most 1/2, the estimate is Δ itself. The moves before the first level are those of the rules of
every other and every fourth node.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyengine.analyses.cloze_scores import ClozeScores
from pyengine.gradients.integration import Paths
from pyengine.gradients.points import Points, points_on
from pyengine.gradients.quadrature import (
    CLENSHAW_CURTIS_LEVELS,
    clenshaw_curtis,
    nested_weights,
)

FIRST_LEVEL, FAR_LEVEL = 5, 9
MIN_RATIO, MAX_RATIO = 0.25, 0.5


class _Open(NamedTuple):
    """Paths that are not done: Q of them, at one level.

    Attributes:
        layers, items: int64 [Q], on the CPU, ordered by layer.
        gradients: [Q, n, d_model], at the nodes of the level, ascending.
        scores: [Q, d_ff], of the level.
        moved: [Q], how far they are from those of the level before.
        moved_before: [Q], how far those were from the ones before them.
    """

    layers: Tensor
    items: Tensor
    gradients: Tensor
    scores: Tensor
    moved: Tensor
    moved_before: Tensor

    @property
    def n_nodes(self) -> int:
        return self.gradients.shape[1]

    def keep(self, left: Tensor) -> "_Open":
        """Return some of them; `left` is bool [Q], on the CPU."""
        return self._at(torch.nonzero(left)[:, 0])

    def merged(self, other: "_Open") -> "_Open":
        """Return them with others of the same level."""
        both = _Open(*(torch.cat(pair) for pair in zip(self, other, strict=True)))
        return both._at(both.layers.argsort(stable=True))

    def _at(self, rows: Tensor) -> "_Open":
        here = rows.to(self.gradients.device)
        return _Open(self.layers[rows], self.items[rows], *(tensor[here] for tensor in self[2:]))


def integrate_adaptively(paths: Paths, tolerance: float) -> ClozeScores:
    """Integrate all paths; see the module."""
    begun, change, probability = _begin(paths)
    n_paths = (*change.shape,)
    found = ClozeScores(
        change.new_empty(*n_paths, paths.layers[0].activations.shape[1]),
        torch.empty_like(change),
        change,
        torch.empty(n_paths, dtype=torch.int32),
        torch.zeros(n_paths, dtype=torch.bool),
        probability,
    )
    for part in begun.values():
        found.scores[part.layers, part.items] = part.scores
    open_paths = begun[FIRST_LEVEL]
    for n in CLENSHAW_CURTIS_LEVELS:
        if n > FIRST_LEVEL:
            open_paths = _refined(paths, open_paths, n)
        if n == FAR_LEVEL:
            open_paths = open_paths.merged(begun[FAR_LEVEL])
        open_paths = open_paths.keep(~_enter(found, open_paths, tolerance))
        if n >= FAR_LEVEL and not len(open_paths.items):
            break
    return found


def _begin(paths: Paths) -> tuple[dict[int, _Open], Tensor, Tensor]:
    """Evaluate the first nodes of all paths.

    Returns:
        The paths by level; F(a) - F(b), [n_layers, P]; the probability of the answers, [P].
    """
    far = torch.stack([path.reach() for path in paths.layers]).cpu() > 1
    chosen = {FIRST_LEVEL: torch.nonzero(~far), FAR_LEVEL: torch.nonzero(far)}
    points = [points_on(pairs[:, 0], pairs[:, 1], _nodes(n)[:-1]) for n, pairs in chosen.items()]
    inner, ends = paths.at_with_ends(
        Points(*(torch.cat(column) for column in zip(*points, strict=True)))
    )
    sizes = [len(part.items) for part in points]
    change, begun = ends.value.expand(far.shape).clone(), {}
    parts = zip(chosen.items(), inner.value.split(sizes), inner.gradient.split(sizes), strict=True)
    for (n, pairs), value, gradient in parts:
        layers, items = pairs.unbind(1)
        change[layers, items] -= value.view(-1, n - 1)[:, 0]
        between = gradient.view(len(pairs), n - 1, gradient.shape[1])
        gradients = torch.cat([between, ends.gradient[layers, items][:, None]], 1)
        scores, half, quarter = _scores(paths, layers, items, gradients, 3)
        moved, before = (scores - half).abs().amax(1), (half - quarter).abs().amax(1)
        begun[n] = _Open(layers, items, gradients, scores, moved, before)
    return begun, change, ends.probability


def _refined(paths: Paths, coarse: _Open, n: int) -> _Open:
    """Evaluate the nodes that the next level adds, which lie between those of the last."""
    added = _nodes(n)[1::2]
    found = paths.at(points_on(coarse.layers, coarse.items, added)).gradient
    gradients = found.new_empty(len(coarse.items), n, found.shape[-1])
    gradients[:, ::2] = coarse.gradients
    gradients[:, 1::2] = found.view(len(coarse.items), len(added), found.shape[-1])
    (scores,) = _scores(paths, coarse.layers, coarse.items, gradients, 1)
    moved = (scores - coarse.scores).abs().amax(1)
    return _Open(coarse.layers, coarse.items, gradients, scores, moved, coarse.moved)


def _nodes(n: int) -> Tensor:
    return torch.from_numpy(clenshaw_curtis(n)[0])


def _scores(
    paths: Paths, layers: Tensor, items: Tensor, gradients: Tensor, n_levels: int
) -> Tensor:
    """Return the scores by the rules of the last levels, the newest first, [n_levels, Q, d_ff]."""
    device, n = gradients.device, gradients.shape[1]
    alpha = _nodes(n).to(device)
    weights = torch.from_numpy(nested_weights(n, n_levels)).to(device)
    counts = layers.bincount(minlength=len(paths.layers)).tolist()
    parts = zip(paths.layers, items.to(device).split(counts), gradients.split(counts), strict=True)
    return torch.cat([path.scores(own, alpha, weights, g) for path, own, g in parts], 1)


def _enter(found: ClozeScores, open_paths: _Open, tolerance: float) -> Tensor:
    """Enter a level's scores; return which of the paths are done, bool [Q] on the CPU."""
    at = (open_paths.layers, open_paths.items)
    residual = open_paths.scores.sum(1) - found.change[at]
    found.scores[at] = open_paths.scores
    found.completeness[at] = residual
    found.nodes[at] = open_paths.n_nodes
    items = open_paths.items
    largest_score = found.scores.abs().amax((0, 2))[items]
    largest_change = found.change.abs().amax(0)[items]
    good = _error(open_paths.moved, open_paths.moved_before) <= tolerance * largest_score
    done = (good & (residual.abs() <= tolerance * largest_change)).cpu()
    found.converged[at] = done
    return done


def _error(moved: Tensor, before: Tensor) -> Tensor:
    """Estimate the error of scores from their last two moves."""
    ratio = (moved / before).clamp(min=MIN_RATIO)
    steady = ratio <= MAX_RATIO  # False for NaN, too
    return torch.where(steady, moved * ratio / (1 - ratio), moved)
