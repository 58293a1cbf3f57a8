"""Predictions in `layer` mode: what residual, FFN and layer output say, and how they compose.

Geva et al. 2021, §5: Figures 7 to 11.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyengine.analyses.memories import Activity, LayerValues, count_matching, layer_values
from pyengine.analyses.prediction_settings import PredictionSettings
from pyengine.analyses.prediction_tables import KINDS
from pyengine.ffn_sites import FFNSite
from pyengine.models import Model
from pyengine.vocab_project import Projection


class _Kept(NamedTuple):
    residual: Tensor
    output: Tensor
    active: Tensor
    nan: Tensor
    columns: dict[str, Tensor]


class LayerMode:
    """Reduces each layer of a batch to the columns of `layer` mode."""

    def __init__(self, model: Model, settings: PredictionSettings) -> None:
        layers = settings.layers or ()
        self._values: dict[int, LayerValues] = layer_values(model, layers)
        self._readouts = {layer: settings.readout(model, layer) for layer in layers}

    def keep(self, site: FFNSite) -> _Kept:
        """Reduce a layer to what `columns` needs; of the coefficients only who is active."""
        seen = Activity.of(site, self._values[site.layer.index])
        columns = seen.common()
        columns["residual_norm_rank"] = torch.where(
            seen.residual_norm.isnan(),
            -1,
            ((seen.contributions > seen.residual_norm[:, None]) & seen.active).sum(1),
        )
        return _Kept(seen.residual, seen.output, seen.active, seen.nan, columns)

    def columns(
        self, layer: int, kept: _Kept, final: Tensor, gold: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the columns of a layer; see `prediction_pass.Mode`."""
        read, targets = self._readouts[layer], torch.stack([final, gold], 1)
        whole = read.project(kept.residual + kept.output, targets=targets)
        residual = read.project(kept.residual, targets=targets)
        targets = torch.cat([targets, residual.top_ids], 1)
        ffn = read.project(kept.output, targets=targets)
        tops = self._values[layer].tops
        tokens = [found.top_ids[:, 0] for found in (whole, residual, ffn)]
        unknown = (torch.stack(tokens) < 0).any(0)
        return kept.columns | {
            **_reading("layer", whole),
            **_reading("residual", residual),
            **_reading("ffn", ffn),
            "ffn_residual_rank": ffn.target_ranks[:, 2],
            "ffn_residual_prob": ffn.target_probs[:, 2],
            "changed_without_residual": torch.where(unknown, -1, (tokens[0] != tokens[2]).long()),
            "n_matching_layer": count_matching(kept.active, tops, tokens[0]),
            "n_matching_ffn": count_matching(kept.active, tops, tokens[2]),
            "kind": torch.where(unknown, -1, _kind(*tokens)),
        }, kept.nan | unknown


def _reading(name: str, found: Projection) -> dict[str, Tensor]:
    ranks, probs = found.target_ranks, found.target_probs
    return {
        f"{name}_token": found.top_ids[:, 0],
        f"{name}_prob": found.top_probs[:, 0],
        f"{name}_final_rank": ranks[:, 0],
        f"{name}_final_prob": probs[:, 0],
        f"{name}_gold_rank": ranks[:, 1],
        f"{name}_gold_prob": probs[:, 1],
    }


def _kind(layer: Tensor, residual: Tensor, ffn: Tensor) -> Tensor:
    """Return the index into KINDS: whose prediction the layer's is."""
    as_residual, as_ffn = layer == residual, layer == ffn
    kind = torch.full_like(layer, KINDS.index("composition"))
    kind = torch.where(as_residual, KINDS.index("residual"), kind)
    kind = torch.where(as_ffn, KINDS.index("ffn"), kind)
    return torch.where(as_residual & as_ffn, KINDS.index("agreement"), kind)
