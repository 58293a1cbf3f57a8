"""What each single memory of a feed-forward layer says, and which are active.

A memory is a coefficient m times a value v, read through the bare output embedding: linear and
without bias, so that its best token is that of v where m > 0 and that of -v where m < 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyengine.ffn_sites import FFNSite
from pyengine.models import Model
from pyengine.readout import Readout, readout


@dataclass(frozen=True, eq=False)
class LayerValues:
    """The values of one layer.

    Attributes:
        values: [d_ff, d_model], in the model's dtype.
        norms: [d_ff], Euclidean.
        tops: int32 [d_ff], the best token of each value.
        bottoms: int32 [d_ff], the best token of each negated value.
        bare: how they are read.
    """

    values: Tensor
    norms: Tensor
    tops: Tensor
    bottoms: Tensor
    bare: Readout

    @classmethod
    def of(cls, model: Model, layer: int) -> "LayerValues":
        """Read the values of a layer."""
        values = model.values(layer)
        bare = readout(model, model.layers[layer], final_norm=False, head="embedding")
        found = bare.project(values)
        norms = torch.linalg.vector_norm(values.to(bare.dtype), dim=1)
        return cls(values, norms, found.top_ids[:, 0].int(), found.bottom_ids.int(), bare)


def layer_values(model: Model, layers: Sequence[int]) -> dict[int, LayerValues]:
    """Read the values of several layers."""
    return {layer: LayerValues.of(model, layer) for layer in layers}


class Activity(NamedTuple):
    """One layer at n positions, reduced to what is kept of its coefficients.

    Attributes:
        residual, output: [n, d_model], as in `FFNSite`.
        coefficients: [n, d_ff], widened.
        active: bool [n, d_ff], coefficient > 0.
        contributions: [n, d_ff], |coefficient| times the value's norm.
        residual_norm: [n].
        nan: bool [n], whether anything of it is NaN.
    """

    residual: Tensor
    output: Tensor
    coefficients: Tensor
    active: Tensor
    contributions: Tensor
    residual_norm: Tensor
    nan: Tensor

    @classmethod
    def of(cls, site: FFNSite, values: LayerValues) -> "Activity":
        """Measure a layer."""
        m = site.coefficients.to(values.norms.dtype)
        norm = torch.linalg.vector_norm(site.residual.to(m.dtype), dim=1)
        nan = m.isnan().any(1) | norm.isnan() | site.output.isnan().any(1)
        return cls(site.residual, site.output, m, m > 0, m.abs() * values.norms, norm, nan)

    def common(self) -> dict[str, Tensor]:
        """Return the columns of both modes."""
        return {
            "n_active": self.active.sum(1),
            "n_negative": (self.coefficients < 0).sum(1),
            "residual_norm": self.residual_norm,
        }


def count_matching(active: Tensor, tops: Tensor, tokens: Tensor) -> Tensor:
    """Count the active memories of each row whose best token is the row's; -1 for a token -1."""
    matching = (active & (tops == tokens[:, None])).sum(1)
    return torch.where(tokens < 0, -1, matching)


def count_distinct(active: Tensor, tops: Tensor) -> Tensor:
    """Count the different best tokens among the active memories of each row."""
    if not len(active):
        return active.sum(1)
    ordered, order = tops.sort(stable=True)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    # The number of active memories up to each token's last one grows where one says that token.
    upto = active[:, order].cumsum(1, dtype=torch.int32)[:, last]
    return (upto.diff(dim=1, prepend=torch.zeros_like(upto[:, :1])) > 0).sum(1)
