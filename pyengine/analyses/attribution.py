"""Attribution scores of every feed-forward neuron for an answer: integrated gradients.

Dai et al. 2022, "Knowledge Neurons in Pretrained Transformers", equation 3::

    score(l, i) = (a_i - b_i) * integral over α from 0 to 1 of ∂F/∂a_i (b + α (a - b))

where a is the whole vector of layer l where the answer is read (all its neurons are scaled
together, as in both published codes), b a baseline, F the probability of the answer. The scores of
a layer add up to F(a) - F(b); how far they miss is its completeness residual, the error bar.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyengine.analyses.adaptive import integrate_adaptively
from pyengine.analyses.attribution_settings import SINGLE_PASS, AttributionSettings
from pyengine.analyses.cloze_scores import ClozeScores
from pyengine.cloze import Cloze
from pyengine.gradients.integration import PathEngine, Paths
from pyengine.gradients.points import points_on_all
from pyengine.gradients.quadrature import RULES
from pyengine.models import Model
from pyengine.precision import precision

# Tokens of the clean pass whose tensors are held together.
CLEAN_TOKENS = {"cpu": 1024, "cuda": 65_536}
MIN_FILL = 0.9


@dataclass(frozen=True, eq=False)
class Attribution:
    """Scores of n prompts; tensors on the CPU, detached.

    Attributes:
        scores: float32 (float64 models: float64) [n, n_layers, d_ff]; a prompt with several target
            tokens has the mean over them.
        completeness: [n, n_layers], the sum of a layer's scores minus `change`: 0 if the integral
            were exact. NaN for the single-pass methods, which are no integrals.
        change: [n, n_layers], F(activations) - F(baseline); NaN for them, too.
        nodes: int32 [n, n_layers], gradients that were evaluated (the most, over target tokens).
        converged: bool [n, n_layers], whether `adaptive` met its tolerance; True for fixed rules.
        probability: [n], of the whole target.
        targets: the token ids of each prompt's target.
        exact: False if memory was short and batches were split, which moves the last bits.
        settings: what decided the result.
    """

    scores: Tensor
    completeness: Tensor
    change: Tensor
    nodes: Tensor
    converged: Tensor
    probability: Tensor
    targets: list[tuple[int, ...]]
    exact: bool
    settings: dict[str, Any]


def attribute(
    model: Model,
    prompts: Sequence[Sequence[Cloze]],
    settings: AttributionSettings,
    on_progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Attribute the answers of prompts; see `KnowledgeNeurons.attribute`.

    Args:
        model: the model.
        prompts: each as the clozes of its target tokens.
        settings: checked.
        on_progress: called with (clozes done, in all).
    """
    flat = [(index, cloze) for index, items in enumerate(prompts) for cloze in items]
    done, exact = 0, True
    # Gradients are recorded where they are needed, whatever mode the caller is in.
    with torch.inference_mode(False), torch.no_grad(), precision(model.dtype):
        engine = settings.engine(model)
        found = _Sums(engine, len(prompts))
        for chosen in _batches(model, [cloze for _, cloze in flat]):
            paths = engine.paths([flat[i][1] for i in chosen])
            found.add([flat[i][0] for i in chosen], _scores(paths, settings))
            exact &= paths.exact
            done += len(chosen)
            if on_progress is not None:
                on_progress(done, len(flat))
    return found.attribution(prompts, settings, exact)


def _scores(paths: Paths, settings: AttributionSettings) -> ClozeScores:
    if settings.method == "adaptive":
        return integrate_adaptively(paths, settings.tolerance)
    if settings.method in SINGLE_PASS:
        return _single_pass(paths, settings.method)
    return _fixed_rule(paths, *map(torch.from_numpy, RULES[settings.method](settings.steps)))


def _fixed_rule(paths: Paths, nodes: Tensor, weights: Tensor) -> ClozeScores:
    """Apply one rule to all paths."""
    # F(b) is needed for the error bar, and F(a); a rule may do without their gradients.
    inner = torch.cat([nodes.new_zeros(1), nodes[(nodes > 0) & (nodes < 1)]])
    shape = (len(paths.layers), paths.n_items)
    found, ends = paths.at_with_ends(points_on_all(*shape, inner))
    start = found.value.view(*shape, -1)[:, :, 0]
    gradients = torch.cat([found.gradient.unflatten(0, (*shape, -1)), ends.gradient[:, :, None]], 2)
    alpha = torch.cat([inner, inner.new_ones(1)])
    weight = torch.where(alpha[:, None] == nodes, weights, 0.0).sum(1)
    scores = _weighted(paths, alpha, weight, gradients)
    change = ends.value - start
    return ClozeScores(
        scores,
        scores.sum(-1) - change,
        change,
        torch.full(shape, len(nodes), dtype=torch.int32),
        torch.ones(shape, dtype=torch.bool),
        ends.probability,
    )


def _single_pass(paths: Paths, method: str) -> ClozeScores:
    shape = (len(paths.layers), paths.n_items)
    _, ends = paths.at_with_ends(points_on_all(*shape, torch.zeros(0, dtype=torch.float64)))
    if method == "max_activation":
        scores = torch.stack([path.activations for path in paths.layers])
    else:
        one = torch.ones(1, dtype=torch.float64)
        scores = _weighted(paths, one, one, ends.gradient[:, :, None])
    unknown = scores.new_full(shape, torch.nan)
    nodes = torch.full(shape, int(method != "max_activation"), dtype=torch.int32)
    converged = torch.ones(shape, dtype=torch.bool)
    return ClozeScores(scores, unknown, unknown, nodes, converged, ends.probability)


def _weighted(paths: Paths, alpha: Tensor, weights: Tensor, gradients: Tensor) -> Tensor:
    """Return the scores of all paths by one rule, [n_layers, P, d_ff]; gradients at its nodes."""
    device = gradients.device
    alpha, weights = alpha.to(device), weights.to(device)[None]
    items = torch.arange(paths.n_items, device=device)
    return torch.stack(
        [
            path.scores(items, alpha, weights, own)[0]
            for path, own in zip(paths.layers, gradients, strict=True)
        ]
    )


class _Sums:
    """Means over the target tokens of each prompt."""

    def __init__(self, engine: PathEngine, n_prompts: int) -> None:
        model, dtype = engine.model, engine.dtype
        shape = (n_prompts, model.n_layers)
        self._scores = torch.zeros(*shape, model.d_ff, dtype=dtype)
        self._completeness = torch.zeros(shape, dtype=dtype)
        self._change = torch.zeros(shape, dtype=dtype)
        self._nodes = torch.zeros(shape, dtype=torch.int32)
        self._converged = torch.ones(shape, dtype=torch.bool)
        self._probability = torch.ones(n_prompts, dtype=dtype)

    def add(self, prompts: list[int], found: ClozeScores) -> None:
        """Add the clozes of a batch to their prompts."""
        scores, completeness, change = (
            tensor.transpose(0, 1).cpu()
            for tensor in (found.scores, found.completeness, found.change)
        )
        for row, prompt in enumerate(prompts):
            self._probability[prompt] *= found.probability[row].cpu()
            self._scores[prompt] += scores[row]
            self._completeness[prompt] += completeness[row]
            self._change[prompt] += change[row]
            self._nodes[prompt] = self._nodes[prompt].maximum(found.nodes[:, row])
            self._converged[prompt] &= found.converged[:, row]

    def attribution(
        self, prompts: Sequence[Sequence[Cloze]], settings: AttributionSettings, exact: bool
    ) -> Attribution:
        """Divide by the number of target tokens."""
        counts = torch.tensor([len(items) for items in prompts])
        return Attribution(
            self._scores / counts[:, None, None],
            self._completeness / counts[:, None],
            self._change / counts[:, None],
            self._nodes,
            self._converged,
            self._probability,
            [tuple(cloze.target for cloze in items) for items in prompts],
            exact,
            settings.record(),
        )


def _batches(model: Model, items: Sequence[Cloze]) -> Iterator[list[int]]:
    """Yield indices of clozes of similar length, under a constant number of padded tokens.

    Where every position is computed again, padding costs: no more than a share of it is accepted.
    """
    limit = CLEAN_TOKENS[model.device.type]
    fill = 0.0 if model.family.causal else MIN_FILL
    lengths = [(len(cloze.input_ids), len(cloze.decoder_ids)) for cloze in items]
    batch: list[int] = []
    used = 0
    for index in sorted(range(len(items)), key=lengths.__getitem__):
        own = sum(lengths[index])
        padded = (len(batch) + 1) * own
        if batch and (padded > limit or used + own < fill * padded):
            yield batch
            batch, used = [], 0
        batch.append(index)
        used += own
    if batch:
        yield batch
