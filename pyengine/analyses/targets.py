"""The tokens that a value is compared with: what its key's trigger examples end in, or go on with.

Geva et al. 2021, §4, compares with the token that *follows* the prefix; the authors' published
script compares with the token that the key fired on.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyengine.analyses.trigger_result import TriggerExamples
from pyengine.errors import PyengineError
from pyengine.manifest import describe_model
from pyengine.models import Model
from pyengine.token_text import TokenText
from pyengine.units import UnitTable

KINDS = ("next", "input")

# What a run and a model must have in common, and what to call it.
_SAME = {
    "family": "architecture",
    "n_layers": "number of layers",
    "d_ff": "d_ff",
    "sha256": "weights or configuration",
    "tokenizer_sha256": "tokenizer",
}


@dataclass(frozen=True, eq=False)
class Targets:
    """For every key, one target per trigger example, best first.

    Attributes:
        layers: the model's layer of each first index, ascending.
        dims: the dimension of each second index, ascending.
        next: int64 [n_layers, n_dims, k], the token after the one that the key fired on; -1 at a
            unit's end, or where there is no example.
        input: int64 [n_layers, n_dims, k], the token that the key fired on; -1 where there is no
            example, or where that was a start symbol.
        text: turns token ids into text.
        manifest: of the run that the examples come from; None where the source has none.
        source: where they come from, for display.
    """

    layers: tuple[int, ...]
    dims: tuple[int, ...]
    next: Tensor
    input: Tensor
    text: TokenText
    manifest: dict[str, Any] | None = None
    source: str = "targets in memory"

    @classmethod
    def of(cls, triggers: TriggerExamples) -> "Targets":
        """Take the targets of a run's maxima.

        Raises:
            PyengineError: for a run of minima only, or a shard of several.
        """
        _check_run(triggers)
        fired, after = _tokens_at(
            triggers.table, triggers.units.numpy(), triggers.positions.numpy()
        )
        return cls(
            triggers.layers,
            triggers.dims,
            torch.from_numpy(after),
            torch.from_numpy(fired),
            triggers.text,
            triggers.manifest,
            str(triggers.manifest["corpus"]["source"]),
        )

    @property
    def k(self) -> int:
        """Targets per key."""
        return int(self.next.shape[2])

    @property
    def n_values(self) -> int:
        return len(self.layers) * len(self.dims)

    @property
    def sha256(self) -> str:
        """Hash of the keys and their targets."""
        digest = hashlib.sha256(repr((self.layers, self.dims, tuple(self.next.shape))).encode())
        for tensor in (self.next, self.input):
            digest.update(np.ascontiguousarray(tensor.numpy(), "<i8").data)
        return digest.hexdigest()

    def first(self, ranks: int) -> "Targets":
        """Keep the best `ranks` targets of every key."""
        return replace(self, next=self.next[:, :, :ranks], input=self.input[:, :, :ranks])

    def check_fits(self, model: Model) -> None:
        """Refuse targets that are not of this model.

        Raises:
            PyengineError: naming what differs from the model of the run, or the layer, dim or
                token that the model lacks.
        """
        if self.manifest is not None:
            check_same_model(self.manifest, model)
        for name, indices, n in (
            ("layer", self.layers, model.n_layers),
            ("dim", self.dims, model.d_ff),
        ):
            if not indices or tuple(sorted(set(indices))) != tuple(indices):
                raise PyengineError(f"the {name}s of the targets must be given once, ascending")
            if indices[0] < 0 or indices[-1] >= n:
                raise PyengineError(
                    f"the targets have {name} {indices[-1]}, but {model.name} has {n} ({name}s 0 "
                    f"to {n - 1})"
                )
        self._check_tokens(model)

    def _check_tokens(self, model: Model) -> None:
        shape = (len(self.layers), len(self.dims), self.k)
        for name in KINDS:
            tokens: Tensor = getattr(self, name)
            if tokens.shape != shape or tokens.dtype != torch.int64 or not self.k:
                got = f"{tokens.dtype} {tuple(tokens.shape)}"
                raise PyengineError(f"targets.{name} must be int64 [layers, dims, k], got {got}")
            if not -1 <= int(tokens.min()) <= int(tokens.max()) < model.vocab_size:
                worst = int(tokens.max()) if int(tokens.min()) >= -1 else int(tokens.min())
                raise PyengineError(
                    f"the targets hold token id {worst}, but {model.name} has {model.vocab_size}"
                )


def _check_run(triggers: TriggerExamples) -> None:
    sign = triggers.manifest["question"]["sign"]
    # The minima of a run in both directions carry its manifest, but their scores ascend.
    ascending = bool((triggers.scores.diff(dim=2) > 0).any())
    if sign == "min" or (triggers.minima is None and sign == "both" and ascending):
        raise PyengineError(
            "these examples are minima: a value is compared with the inputs that its key fires on "
            "most; search with sign='max' or 'both'"
        )
    done, whole = triggers.record["n_tokens"], triggers.manifest["corpus"]["n_tokens"]
    if done < whole:
        raise PyengineError(
            f"these examples are a shard of a run ({done:,} of {whole:,} tokens); merge its "
            "shards first"
        )


def _tokens_at(
    table: UnitTable, units: np.ndarray, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the token at each position and the one after, int64, -1 where there is none."""
    if not len(table.units):
        nothing = np.full(units.shape, -1, np.int64)
        return nothing, nothing.copy()
    row = np.searchsorted(table.units, units).clip(0, len(table.units) - 1)
    at = table.offsets[row] + positions
    has_next = at + 1 < table.offsets[row + 1]
    last = len(table.tokens) - 1
    fired = np.where(units >= 0, table.tokens[at.clip(0, last)], -1)
    after = np.where((units >= 0) & has_next, table.tokens[(at + 1).clip(0, last)], -1)
    return fired.astype(np.int64), after.astype(np.int64)


def check_same_model(manifest: dict[str, Any], model: Model) -> None:
    theirs, mine = manifest["model"], describe_model(model)
    differing = [name for name in _SAME if theirs[name] != mine[name]]
    if not differing:
        return
    found = "; ".join(f"{_SAME[n]}: {_short(theirs[n])} != {_short(mine[n])}" for n in differing)
    dtype = manifest["numerics"]["dtype"]
    way_out = f" (the run was made in {dtype}, the model is in {model.dtype})"
    raise PyengineError(
        f"the run was made with another model than {model.name}: {found}"
        + (way_out if dtype != model.dtype else "")
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 16 else f"{text[:8]}…{text[-4:]}"
