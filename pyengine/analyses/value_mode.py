"""Predictions in `value` mode: what every single memory says, next to residual and FFN output.

Everything is read through the bare output embedding.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyengine.analyses.memories import (
    Activity,
    LayerValues,
    count_distinct,
    count_matching,
    layer_values,
)
from pyengine.analyses.prediction_settings import PredictionSettings
from pyengine.ffn_sites import FFNSite
from pyengine.models import Model

# Memories projected at once, m * v each.
MEMORY_ROWS = 4096


class _Kept(NamedTuple):
    seen: Activity
    columns: dict[str, Tensor]


class ValueMode:
    """Reduces each layer of a batch to the columns of `value` mode."""

    def __init__(self, model: Model, settings: PredictionSettings) -> None:
        self._values = layer_values(model, settings.layers or ())
        self._n, self._all = settings.n, settings.all_values

    def keep(self, site: FFNSite) -> _Kept:
        """Reduce a layer to what `columns` needs; the coefficients only where all are asked for."""
        values = self._values[site.layer.index]
        seen = Activity.of(site, values)
        columns = seen.common() | self._best(seen, values)
        columns["n_distinct"] = count_distinct(seen.active, values.tops)
        if self._all:
            m = seen.coefficients
            columns |= {"all_coefficients": m, "all_contributions": seen.contributions}
            columns["all_tokens"] = _tokens(m, values.tops, values.bottoms)
        else:
            nothing = seen.contributions.new_empty(len(seen.active), 0)
            seen = seen._replace(coefficients=nothing, contributions=nothing)
        return _Kept(seen, columns)

    def _best(self, seen: Activity, values: LayerValues) -> dict[str, Tensor]:
        """Return the largest contributors: NaN last, equal ones by dim."""
        ranked = seen.contributions.nan_to_num(-1.0, math.inf)
        dims = ranked.sort(dim=1, descending=True, stable=True).indices[:, : self._n]
        m = seen.coefficients.gather(1, dims)
        return {
            "top_dims": dims,
            "top_coefficients": m,
            "top_contributions": seen.contributions.gather(1, dims),
            "top_tokens": _tokens(m, values.tops[dims], values.bottoms[dims]),
        }

    def columns(
        self, layer: int, kept: _Kept, final: Tensor, gold: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the columns of a layer; see `prediction_pass.Mode`."""
        values, seen = self._values[layer], kept.seen
        bare, targets = values.bare, final[:, None]
        residual = bare.project(seen.residual, targets=targets)
        ffn = bare.project(seen.output, targets=torch.cat([targets, residual.top_ids], 1))
        tops = {"final": final, "gold": gold, "ffn": ffn.top_ids[:, 0]}
        found = dict(kept.columns)
        for name, read in (("residual", residual), ("ffn", ffn)):
            found |= {f"{name}_token": read.top_ids[:, 0], f"{name}_prob": read.top_probs[:, 0]}
            found[f"{name}_final_rank"] = read.target_ranks[:, 0]
            found[f"{name}_final_prob"] = read.target_probs[:, 0]
        found["ffn_residual_rank"] = ffn.target_ranks[:, 1]
        found["ffn_residual_prob"] = ffn.target_probs[:, 1]
        for name, token in tops.items():
            found[f"n_matching_{name}"] = count_matching(seen.active, values.tops, token)
        found |= _read_best(values, found, tops)
        if self._all:
            found |= _read_all(values, seen.coefficients, tops)
        unknown = (residual.top_ids[:, 0] < 0) | (tops["ffn"] < 0)
        return found, seen.nan | unknown


def _tokens(m: Tensor, tops: Tensor, bottoms: Tensor) -> Tensor:
    """Return the best token of each memory: 0 for the zero vector, -1 for NaN."""
    tokens = torch.where(m > 0, tops, torch.where(m < 0, bottoms, 0))
    return torch.where(m.isnan(), -1, tokens)


def _read_best(
    values: LayerValues, found: dict[str, Tensor], tokens: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return probabilities and ranks of the largest contributors."""
    dims = found["top_dims"]
    targets = torch.stack(list(tokens.values()), 1).repeat_interleave(dims.shape[1], 0)
    read = _read(values, found["top_coefficients"].flatten(), dims.flatten(), targets)
    columns = {"top_probs": read.probs.view(dims.shape)}
    for i, name in enumerate(tokens):
        columns[f"top_{name}_ranks"] = read.target_ranks[:, i].view(dims.shape)
        columns[f"top_{name}_probs"] = read.target_probs[:, i].view(dims.shape)
    return columns


def _read_all(values: LayerValues, m: Tensor, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return probabilities and ranks for all memories; those of coefficient 0 are not computed.

    The zero vector's logits are equal: every rank is the token's id, every probability 1 / V.
    """
    row, dim = ((m != 0) & ~m.isnan()).nonzero(as_tuple=True)
    targets = torch.stack([tokens["final"], tokens["ffn"]], 1)
    read = _read(values, m[row, dim], dim, targets[row])
    columns: dict[str, Tensor] = {}
    for i, name in enumerate(("final", "ffn")):
        zero = (m == 0) & (targets[:, i, None] >= 0)
        ranks = torch.where(zero, targets[:, i, None], -1)
        probs = torch.where(zero, 1 / len(values.bare.weight), math.nan).to(m.dtype)
        ranks[row, dim], probs[row, dim] = read.target_ranks[:, i], read.target_probs[:, i]
        columns |= {f"all_{name}_ranks": ranks, f"all_{name}_probs": probs}
    return columns


class _Read(NamedTuple):
    """Memories read out: probability of the best token [R]; of the targets rank, and it [R, t]."""

    probs: Tensor
    target_ranks: Tensor
    target_probs: Tensor


def _read(values: LayerValues, m: Tensor, dims: Tensor, targets: Tensor) -> _Read:
    """Read R memories, a few thousand at once."""
    read = _Read(m.new_empty(len(m)), torch.empty_like(targets), m.new_empty(targets.shape))
    for at in range(0, len(m), MEMORY_ROWS):
        part = slice(at, at + MEMORY_ROWS)
        memories = m[part, None] * values.values[dims[part]]
        found = values.bare.project(memories, targets=targets[part])
        read.probs[part] = found.top_probs[:, 0]
        read.target_ranks[part], read.target_probs[part] = found.target_ranks, found.target_probs
    return read
