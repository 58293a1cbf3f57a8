"""How far the values of `run_with_cache` are from a plain Hugging Face forward, cell by cell."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

import pyengine
from benchmarks._accuracy_plain import plain_values

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
PADDINGS = ("none", "left", "right")
ATTENTIONS = ("eager", "sdpa")


@dataclass(frozen=True)
class Cell:
    """One row of the published table.

    Attributes:
        sites: largest |difference| from plain Hugging Face at real positions, by site, the logits
            (`unembed.hook_out`) among them; 0 is bit-equal.
        batch: largest |difference| of the logits between a row of the batch and the row alone.
        scale: largest |logit|.
    """

    sites: dict[str, float] = field(default_factory=dict)
    batch: float = 0.0
    scale: float = 0.0


def cell(model: pyengine.Model, rows: Sequence[list[int]], padding: str) -> Cell:
    """Compare one model on one batch of token ids.

    Args:
        model: with its dtype and attention implementation.
        rows: token ids, special tokens included, of different lengths unless `padding` is `none`.
        padding: `none`, `left` or `right`.
    """
    side = "right" if padding == "none" else padding
    logits, cache = pyengine.run_with_cache(model, [list(row) for row in rows], padding=side)
    kwargs = reference_inputs(model, rows, side)
    expected = plain_values(model.hf, kwargs)
    mask = kwargs.get("attention_mask", torch.ones_like(kwargs["input_ids"])).bool()
    decoder = kwargs.get("decoder_attention_mask", mask).bool()
    if "decoder_input_ids" in kwargs and "decoder_attention_mask" not in kwargs:
        decoder = torch.ones_like(kwargs["decoder_input_ids"], dtype=torch.bool)
    sites = {
        name: _delta(cache[name], value, *_masks(name, mask, decoder))
        for name, value in expected.items()
    }
    sites["unembed.hook_out"] = _delta(
        logits, expected["unembed.hook_out"], *_masks("unembed.hook_out", mask, decoder)
    )
    return Cell(sites, _alone(model, rows, logits, decoder), float(logits[decoder].abs().max()))


def reference_inputs(
    model: pyengine.Model, rows: Sequence[list[int]], side: str
) -> dict[str, Tensor]:
    """Pad rows, with position ids made from the mask; T5's decoder reads them shifted right."""
    family = model.family
    ids, mask = _padded(rows, side, model.pad_id)
    kwargs = {"input_ids": ids, "attention_mask": mask}
    if family.encoder_decoder:
        shifted = [[model.decoder_start_id, *row] for row in rows]
        kwargs["decoder_input_ids"], decoder_mask = _padded(shifted, "right", model.pad_id)
        if not decoder_mask.all():
            kwargs["decoder_attention_mask"] = decoder_mask
    elif not mask.all():
        kwargs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    if mask.all():
        del kwargs["attention_mask"]
    return {name: value.to(model.device) for name, value in kwargs.items()}


def _padded(rows: Sequence[list[int]], side: str, pad: int) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    ids, mask = torch.full((len(rows), longest), pad), torch.zeros(len(rows), longest).long()
    for i, row in enumerate(rows):
        at = slice(longest - len(row), None) if side == "left" else slice(None, len(row))
        ids[i, at], mask[i, at] = torch.tensor(row), 1
    return ids, mask


def _masks(name: str, mask: Tensor, decoder: Tensor) -> tuple[Tensor, Tensor]:
    """Return which queries and which keys of a site are real."""
    in_decoder = name.startswith(("decoder", "unembed"))
    queries = decoder if in_decoder else mask
    keys = mask if ".cross_attn." in name or not in_decoder else decoder
    if ".cross_attn.hook_k" in name or ".cross_attn.hook_v" in name:
        queries = mask
    return queries, keys


def _delta(ours: Tensor, plain: Tensor, queries: Tensor, keys: Tensor) -> float:
    """Return the largest |difference| at real positions; NaN counts as different."""
    if ours.shape[0] == 1:  # positions that are the same for all rows
        ours = ours.expand_as(plain)
    if ours.shape != plain.shape or ours.dtype != plain.dtype:
        return float("inf")
    if plain.dim() == 4 and plain.shape[2:] == (queries.shape[1], keys.shape[1]):
        where = (queries[:, :, None] & keys[:, None, :])[:, None].expand_as(plain)
        ours, plain = ours[where], plain[where]
    elif plain.shape[:2] == queries.shape:
        ours, plain = ours[queries], plain[queries]
    delta = (ours.double() - plain.double()).abs()
    return 0.0 if torch.equal(ours, plain) else float(delta.max())


def _alone(
    model: pyengine.Model, rows: Sequence[list[int]], logits: Tensor, decoder: Tensor
) -> float:
    worst = 0.0
    for i, row in enumerate(rows):
        alone = pyengine.run_with_cache(model, [list(row)], [])[0]
        worst = max(worst, float((alone[0].double() - logits[i][decoder[i]].double()).abs().max()))
    return worst
