"""ff-layers' procedure for layer and value predictions, step by step, on a GPT-2: our peer.

It follows the steps of the scorer of mega002/ff-layers (2021), in our own code: one unit after
the other, and inside a step vectorised as there, with no autograd. Per batch: a forward pass and
the probability of every next token. Per unit: the whole batch forwarded again; at each position a
full distribution and its entropy, brought to the host; per layer three full distributions and two
sorts at the chosen position; every memory of every layer projected onto the vocabulary, in 16
parts, to count those that agree with the layer; activations and the final distribution turned into
Python lists. In value mode besides, per memory of the last layer, two full distributions and a
sort.

Milder than the original: a batch holds only the units to be measured, where the original fills its
token budget and forwards all of it once per unit; no JSON is written and parsed again. Readouts are
those of `pyengine.ffn_predictions`, so that results can be compared: distributions through the
final norm, memories through the bare embedding, agreement counted among active memories.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

PARTS = 16
SOFTMAX_BATCH = 1_024

Record = dict[str, Any]


class Passed(NamedTuple):
    """What a forward pass leaves behind; lists over layers of [B, T, d_model or d_ff]."""

    residual: list[Tensor]
    ffn: list[Tensor]
    coefficients: list[Tensor]

    @property
    def features(self) -> Tensor:
        """[B, T, d_model], the output of the last layer."""
        return self.residual[-1] + self.ffn[-1]


class Procedure:
    """The original's procedure, and two milder ones.

    Args:
        hf: a `GPT2LMHeadModel`.
        waste: do what the results do not need: one forward of the batch per unit, the distribution
            at every position, lists of activations.
        top_tokens: [L, d_ff], what every value says, from `values_once`; None projects every
            memory anew for every unit.
    """

    def __init__(self, hf: Any, waste: bool = True, top_tokens: Tensor | None = None) -> None:
        self.hf, self.waste, self.top_tokens = hf, waste, top_tokens
        self.embedding: Tensor = hf.lm_head.weight.detach()
        self.values: list[Tensor] = [block.mlp.c_proj.weight.detach() for block in hf.transformer.h]

    @torch.no_grad()
    def layers(self, units: Sequence[np.ndarray], positions: Sequence[int]) -> list[Record]:
        """Return per unit what is found at its position, a list over layers under each name."""
        ids = padded(units)
        passed = self.forward(ids)
        if self.waste:
            self._next_token_probs(passed.features, ids)
        norms = [values.norm(dim=1) for values in self.values]
        records = []
        for row, (unit, position) in enumerate(zip(units, positions, strict=True)):
            record: Record = {}
            if self.waste:
                record["activations"] = _aggregate(passed.coefficients, row, len(unit), position)
                passed = self.forward(ids)
                dists = [self._dist(hidden) for hidden in passed.features[row]]
                record["entropies"] = [_entropy(dist) for dist in dists[: len(unit)]]
                final = dists[position]
            else:
                final = self._dist(passed.features[row, position])
            record["output_dist"] = final.cpu().numpy().tolist()
            word = int(final.argmax())
            found = [
                self._layer(passed, index, (row, position), word, norms[index])
                for index in range(len(self.values))
            ]
            record |= {name: [layer[name] for layer in found] for name in found[0]}
            records.append(record)
        return records

    @torch.no_grad()
    def dims(self, passed: Passed, position: int, dims: Sequence[int]) -> Record:
        """Return, for the first unit passed, what some of the last layer's memories say."""
        hidden, ffn = passed.features[0, position], passed.ffn[-1][0, position]
        coefficients = passed.coefficients[-1][0, position].relu()
        word, by_ffn = int(self._dist(hidden).argmax()), int(self._bare(ffn).argmax())
        record: Record = {"tokens": [], "final_ranks": [], "ffn_ranks": [], "ffn_probs": []}
        for dim in dims:
            memory = self.values[-1][dim] * coefficients[dim]
            self._dist(hidden - memory)  # computed there too, and never used
            dist = self._bare(memory)
            record["tokens"].append(int(dist.argmax()))
            order = dist.argsort(descending=True)
            record["final_ranks"].append(_rank(order, word))
            record["ffn_ranks"].append(_rank(order, by_ffn))
            record["ffn_probs"].append(float(dist[by_ffn]))
        return record | {"coefficients": coefficients[list(dims)].tolist()}

    @torch.no_grad()
    def values_once(self) -> Tensor:
        """Return what every value says, [L, d_ff]: for a `Procedure` that does not ask again."""
        return torch.stack([self._tops(values) for values in self.values])

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Passed:
        """Run the model without its head, and keep what every layer's FFN reads and writes."""
        passed = Passed([], [], [])
        with _hooks(self.hf, passed):
            self.hf.transformer(input_ids=ids, use_cache=False)
        return passed

    def _layer(
        self, passed: Passed, index: int, at: tuple[int, int], word: int, norms: Tensor
    ) -> Record:
        residual, ffn = passed.residual[index][at], passed.ffn[index][at]
        coefficients = passed.coefficients[index][at].relu()
        by_layer, by_ffn = self._dist(residual + ffn), self._dist(ffn)
        by_residual = self._dist(residual)
        layer_token, ffn_token = int(by_layer.argmax()), int(by_ffn.argmax())
        residual_token = int(by_residual.argmax())
        residual_order = by_residual.argsort(descending=True)
        ffn_order = by_ffn.argsort(descending=True)
        contributions = [*(coefficients * norms).tolist(), float(residual.norm())]
        ascending = np.array(contributions).argsort()
        return {
            "layer_token": layer_token,
            "layer_prob": float(by_layer[layer_token]),
            "residual_token": residual_token,
            "residual_prob": float(by_residual[residual_token]),
            "ffn_token": ffn_token,
            "ffn_prob": float(by_ffn[ffn_token]),
            "residual_final_rank": _rank(residual_order, word),
            "residual_final_prob": float(by_residual[word]),
            "ffn_final_rank": _rank(ffn_order, word),
            "ffn_final_prob": float(by_ffn[word]),
            "ffn_residual_rank": _rank(ffn_order, residual_token),
            "ffn_residual_prob": float(by_ffn[residual_token]),
            "changed_without_residual": layer_token != ffn_token,
            "n_active": sum(value > 0 for value in contributions[:-1]),
            "residual_norm": contributions[-1],
            "residual_norm_rank": int(np.where(ascending[::-1] == len(norms))[0][0]),
            "n_matching_layer": self._matching(index, coefficients, layer_token),
        }

    def _matching(self, index: int, coefficients: Tensor, token: int) -> int:
        if self.top_tokens is None:
            tops = self._tops(self.values[index] * coefficients[:, None])
        else:
            tops = self.top_tokens[index]
        return int(((tops == token) & (coefficients > 0)).sum())

    def _tops(self, memories: Tensor) -> Tensor:
        parts = memories.chunk(PARTS)
        return torch.cat([linear(part, self.embedding).softmax(-1).argmax(-1) for part in parts])

    def _dist(self, hidden: Tensor) -> Tensor:
        return self._bare(self.hf.transformer.ln_f(hidden))

    def _bare(self, hidden: Tensor) -> Tensor:
        dist = linear(hidden, self.embedding).softmax(-1)
        return dist / dist.sum()

    def _next_token_probs(self, features: Tensor, ids: Tensor) -> Tensor:
        following = ids.roll(-1, dims=1).flatten()
        hidden = self.hf.transformer.ln_f(features).flatten(0, 1)
        chunks = zip(hidden.split(SOFTMAX_BATCH), following.split(SOFTMAX_BATCH), strict=True)
        logs = [
            linear(rows, self.embedding).log_softmax(-1).gather(1, words[:, None])
            for rows, words in chunks
        ]
        return torch.cat(logs)


def _aggregate(activations: list[Tensor], row: int, length: int, position: int) -> list[Any]:
    """Reduce every layer's activations over the unit, into Python lists."""
    found = []
    for layer in activations:
        own = layer[row, :length]
        best, where = own.max(dim=0)
        found.append([t.cpu().numpy().tolist() for t in (own.mean(dim=0), best, where)])
        found[-1].append(own[position].cpu().numpy().tolist())
    return found


def _entropy(dist: Tensor) -> float:
    return float(torch.distributions.Categorical(probs=dist).entropy().cpu())


def _rank(order: Tensor, token: int) -> int:
    return int((order == token).nonzero())


def padded(units: Sequence[np.ndarray]) -> Tensor:
    """Put the units into one batch; what follows a unit cannot reach it in a causal model."""
    rows = [torch.from_numpy(np.asarray(unit, np.int64)) for unit in units]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


@contextmanager
def _hooks(hf: Any, passed: Passed) -> Iterator[None]:
    def keep(into: list[Tensor], inputs: bool) -> Callable[..., None]:
        return lambda _module, given, out=None: into.append(given[0] if inputs else out)

    handles = []
    for block in hf.transformer.h:
        handles += [
            block.ln_2.register_forward_pre_hook(keep(passed.residual, True)),
            block.mlp.register_forward_hook(keep(passed.ffn, False)),
            block.mlp.c_proj.register_forward_pre_hook(keep(passed.coefficients, True)),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
