"""The validation units of a fit as the model read them, and where its rows lie in them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyengine.batches import Batch
from pyengine.engine import BATCH_TOKENS
from pyengine.model_batches import model_batches
from pyengine.models import Model
from pyengine.shortcuts.masking import masked
from pyengine.shortcuts.validation import Validation
from pyengine.store import Report, TokenStore

if TYPE_CHECKING:
    from pyengine.shortcuts.result import Shortcuts


@dataclass(frozen=True, eq=False)
class ValidationRows:
    """A batch of validation units.

    Attributes:
        batch: as the model's first stack reads them.
        decoder: as its decoder does, where that is the stack; else None.
        samples: int64 [n], the rows of `Validation` that are in the batch.
        rows, columns: int64 [n], where they lie in what the stack reads.
    """

    batch: Batch
    decoder: Batch | None
    samples: Tensor
    rows: Tensor
    columns: Tensor

    def places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return rows and columns on a device: an index of what the stack makes, [B, T, ...]."""
        return self.rows.to(device), self.columns.to(device)


def validation_batches(
    model: Model, shortcuts: "Shortcuts", stack: str, *, batch_tokens: int | None = None
) -> Iterator[ValidationRows]:
    """Yield the validation units of a stack, short ones first.

    Args:
        model: the one that was fitted.
        shortcuts: the fit.
        stack: whose validation rows.
        batch_tokens: tokens per batch, padding included; 1: one unit at a time.
    """
    validation, question = shortcuts.validation(stack), shortcuts.manifest["question"]
    store = _store(validation, question)
    for batch, shifted in model_batches(
        model,
        store,
        (0, store.n_units),
        batch_tokens=batch_tokens or BATCH_TOKENS[model.device.type],
        bos=question["bos"],
        decoder=_teacher_forced(model, stack),
    ):
        samples, rows = _samples(validation, batch)
        read = batch if shifted is None else shifted
        columns = validation.positions[samples] + read.first
        if (mask_id := question["mask_id"]) is not None:
            batch = masked(batch, rows.numpy(), columns.numpy(), mask_id)
        yield ValidationRows(batch, shifted, samples, rows, columns)


def first_column(model: Model, shortcuts: "Shortcuts", stack: str) -> int:
    """Return the column of a unit's first content token in what a stack reads."""
    question = shortcuts.manifest["question"]
    if _teacher_forced(model, stack):
        return 1  # after the start token
    return len(model.special_tokens(question["bos"]).prefix) if question["adds_special"] else 0


def _teacher_forced(model: Model, stack: str) -> bool:
    return model.family.encoder_decoder and stack == "decoder"


def _store(validation: Validation, question: Mapping[str, Any]) -> TokenStore:
    """Return the units as a corpus of their own."""
    table = validation.table
    report = Report(units=len(table.units), tokens=len(table.tokens))
    return TokenStore.in_memory(table.tokens, table.offsets, report, question["adds_special"])


def _samples(validation: Validation, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the rows of a validation that belong to a batch, and of each the row of the batch."""
    units = torch.from_numpy(validation.table.units[batch.units])
    begin = torch.searchsorted(validation.units, units)
    n = torch.searchsorted(validation.units, units, right=True) - begin
    rows = torch.repeat_interleave(n)
    before = n.cumsum(0) - n
    return begin[rows] + torch.arange(len(rows)) - before[rows], rows
