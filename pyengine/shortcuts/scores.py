"""What mapped states say about the vocabulary, beside what the unmodified model says in the end.

No logits are kept. KL(final || mapped) = Σ p (z - lse) - Σ p (z' - lse'), and as Σ p z' is linear
in what the mapped state is read through, (Σ p W) · x' + Σ p b, one more product per row with the
final distribution serves every layer and every map.

Products are float32, in float64 for a float64 model; what cancels is subtracted in float64. So a
score in nats is off by a few units in the last place of the largest logit: 1e-4 where that is 200.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyengine.readout import Readout
from pyengine.shortcuts.lens import Maps
from pyengine.shortcuts.linear_map import LinearMap
from pyengine.torch_vocab import block_rows
from pyengine.vocab_project import Projection, vocab_project

TOP = 10
# Rows that are mapped, and whose float64 products are held, at once.
ROWS = 8192
# Units in the last place that a product of a state with a token's embedding may be off by.
ROUNDING = 16

# Of one mapping: name -> [L + 1, n] (top_tokens: [L + 1, n, TOP]).
Scores = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Final:
    """What the unmodified model says of n rows.

    Attributes:
        x: [n, d], what is multiplied with the output embedding.
        top: the best TOP tokens, lse and entropy.
        embedding: [n, d], Σ p W over the vocabulary.
        bias: [n], Σ p b; 0 without a bias.
    """

    x: Tensor
    top: Projection
    embedding: Tensor
    bias: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, read: Readout, last: Tensor) -> "Final":
        """Read the last layer's states, [n, d], as the model does."""
        x = read.prepare(last)
        top = vocab_project(x, read.weight, read.bias, m=min(TOP, len(read.weight)))
        weight = read.weight.to(x.dtype)
        embedding, bias = torch.empty_like(x), x.new_zeros(len(x), dtype=torch.float64)
        step = block_rows(len(weight), x.element_size(), x.device.type)
        for first in range(0, len(x), step):
            part = slice(first, first + step)
            logits = x[part] @ weight.t()
            logits = logits if read.bias is None else logits.add_(read.bias)
            p = logits.sub_(top.lse[part, None]).exp_()
            # They add up to 1 but for rounding, which what is about -100 would enlarge.
            whole = p.sum(1, dtype=torch.float64)
            embedding[part] = ((p @ weight).double() / whole[:, None]).to(x.dtype)
            if read.bias is not None:
                bias[part] = (p @ read.bias.to(x.dtype)).double() / whole
        return cls(x, top, embedding, bias)

    def rows(self, part: slice) -> "Final":
        """Return some of the rows."""
        top = Projection(*(tensor[part] for tensor in self.top))
        return Final(self.x[part], top, self.embedding[part], self.bias[part])


def score_maps(
    read: Readout,
    final: Final,
    states: Tensor,
    maps: Mapping[str, Maps],
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Scores]:
    """Score maps to the last layer on the same rows.

    Args:
        read: how the model reads the last layer.
        final: what it says of these rows.
        states: [n, L + 1, d], x_0 … x_L.
        maps: by name.
        on_progress: called with (rows read so far, all that will be).

    Returns:
        Of each mapping, arrays over the layers 0 … L and the rows; at L the model's own
        distribution for all of them: top_tokens (int32; -1 where a logit is NaN), confidence
        (probability of the best one), gap (to the second's), surprisal (-ln of the final
        probability of the mapped distribution's best token), kl (final || mapped), entropy (nats,
        like those), rank (of the final distribution's best token, 0 the top), place (of the mapped
        best token among the TOP of the final distribution; TOP where it is none).
    """
    last = states.shape[1] - 1
    steps, found, own = last * len(maps), {}, itself(final)
    for number, (name, of_layer) in enumerate(maps.items()):
        layers = []
        for layer in range(last):
            layers.append(score_layer(read, final, states[:, layer], of_layer(layer)))
            if on_progress is not None:
                on_progress((number * last + layer + 1) * len(states), steps * len(states))
        found[name] = _stacked([*layers, own])
    return found


def score_layer(
    read: Readout, final: Final, states: Tensor, mapping: LinearMap
) -> dict[str, Tensor]:
    """Score one map on [n, d] states of one layer; see `score_maps`."""
    mapping = mapping.to(read.weight.device)
    parts = []
    for first in range(0, len(states), ROWS):
        part = slice(first, first + ROWS)
        x = read.prepare(mapping(states[part].to(read.weight.device, read.dtype)))
        parts.append(compare(read, final.rows(part), x))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@torch.no_grad()
def compare(read: Readout, final: Final, x: Tensor) -> dict[str, Tensor]:
    """Compare n prepared rows with what the model says of them; see `score_maps`."""
    top = final.top
    found = vocab_project(
        x, read.weight, read.bias, targets=top.top_ids[:, :1], m=top.top_ids.shape[1]
    )
    best = found.top_ids[:, 0]
    known = best >= 0
    row = read.weight[best.clamp(min=0)].double()
    logit = (row * final.x.double()).sum(1)
    if read.bias is not None:
        logit = logit + read.bias[best.clamp(min=0)].double()
    eps = torch.finfo(x.dtype).eps
    surprisal = rounded_up(top.lse.double() - logit, logit, eps).masked_fill(~known, torch.nan)
    expected = (final.embedding.double() * x.double()).sum(1) + final.bias
    kl = rounded_up(found.lse.double() - expected - top.entropy.double(), expected, eps)
    return _columns(found, surprisal, kl, found.target_ranks[:, 0], top.top_ids)


def rounded_up(nats: Tensor, logit: Tensor, eps: float) -> Tensor:
    """Put at 0 what cannot be negative but for the rounding of a logit; the rest stays to be seen.

    Args:
        nats, logit: float64 [n].
        eps: of the logit's dtype.
    """
    within = (nats < 0) & (nats >= -ROUNDING * eps * logit.abs().clamp(min=1))
    return nats.masked_fill(within, 0)


def itself(final: Final) -> dict[str, Tensor]:
    """Return what `compare` returns for the model's own distribution."""
    top = final.top
    known = top.top_ids[:, 0] >= 0
    surprisal = (top.lse.double() - top.top_logits[:, 0].double()).masked_fill(~known, torch.nan)
    kl = torch.zeros_like(surprisal).masked_fill(~known, torch.nan)
    return _columns(top, surprisal, kl, known.long() - 1, top.top_ids)


def _columns(
    found: Projection, surprisal: Tensor, kl: Tensor, rank: Tensor, final_ids: Tensor
) -> dict[str, Tensor]:
    probs = (found.top_logits.double() - found.lse.double()[:, None]).exp()
    best = found.top_ids[:, :1]
    same = (final_ids == best) & (best >= 0)
    place = torch.where(same.any(1), same.long().argmax(1), TOP)
    columns = {
        "top_tokens": found.top_ids.int(),
        "confidence": probs[:, 0].float(),
        "gap": (probs[:, 0] - probs[:, 1]).float(),
        "surprisal": surprisal.float(),
        "kl": kl.float(),
        "entropy": found.entropy.float(),
        "rank": rank.int(),
        "place": place.to(torch.int8),
    }
    return {name: column.cpu() for name, column in columns.items()}


def _stacked(layers: list[dict[str, Tensor]]) -> Scores:
    return {name: torch.stack([layer[name] for layer in layers]).numpy() for name in layers[0]}
