"""Vocabulary projection by blocks of rows: a product of torch's, and reductions of its logits.

One buffer holds the logits of a block. On the CPU compiled loops reduce it, a row at a time, which
so stays in the cache; elsewhere torch does.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyengine._native import summarize_rows
from pyengine.packed import pack, unpack

GROUP = 64  # tokens whose largest and smallest logit lead to the best and the lowest
# Of the buffer. Up to 32 MiB glibc hands out the same pages again, which costs nothing, but for a
# large vocabulary that would be too few rows for the product to run at speed.
LOGIT_BYTES = {"cpu": 30 << 20, "cuda": 384 << 20}
MIN_ROWS, LARGE_BYTES = {"cpu": 128, "cuda": 512}, 256 << 20  # in float32; float64: half
SLOW_ROWS = {
    "cpu": range(177, 512),
    "cuda": range(0),
}  # MKL: 250 rows at 0.9 times the speed of 176
WEIGHT_BYTES = {"cpu": 8 << 20, "cuda": 64 << 20}  # of a weight that must be widened, at once
SLICE_BYTES = 64 << 20  # of the logits that torch reduces at once: it needs two more of that size
NEGLIGIBLE = {torch.float32: -80.0, torch.float64: -700.0}  # exp(-80) * 2**32 vanishes beside 1


class Best(NamedTuple):
    """Some tokens of each row, [r, m], best first: a higher logit, then a lower id."""

    logits: Tensor
    ids: Tensor


class Summary(NamedTuple):
    """What a row of logits comes to; with d = z - max z: s = Σ exp(d) and u = Σ exp(d)·d.

    Attributes:
        maxima: [r, n_groups], of groups of 64 tokens.
        minima: likewise.
        highest: [r].
        s: float64 [r]; NaN where a logit is.
        u: likewise.
        ranks: int64 [r, n], the tokens before each target: a higher logit, or an equal one and a
            lower id. Anything where the target is -1, or a logit NaN.
    """

    maxima: Tensor
    minima: Tensor
    highest: Tensor
    s: Tensor
    u: Tensor
    ranks: Tensor


def vocab_project(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, m: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the fields of `Projection`; see `pyengine.vocab_project.vocab_project`."""
    dtype = torch.float64 if torch.float64 in (x.dtype, weight.dtype) else torch.float32
    n_rows, vocab = len(x), len(weight)
    floats = x.new_empty(0, dtype=dtype)
    top = Best(floats.new_empty(n_rows, m), targets.new_empty(n_rows, m))
    lse, entropy = floats.new_empty(n_rows), floats.new_empty(n_rows)
    target_logits, ranks = floats.new_empty(targets.shape), torch.empty_like(targets)
    bottom = targets.new_empty(n_rows)
    if bias is not None:
        bias = bias.to(dtype)
    step = block_rows(vocab, dtype.itemsize, x.device.type)
    buffer = floats.new_empty(min(n_rows, step), vocab)
    for first in range(0, n_rows, step):
        part = slice(first, first + step)
        z = buffer[: len(x[part])]
        _logits(x[part].to(dtype), weight, bias, z)
        summary = summarize(z, targets[part])
        lse[part], entropy[part] = distribution(summary.highest.double(), summary.s, summary.u)
        wrong = summary.s.isnan()[:, None]
        best = _best_tokens(z, summary.maxima, m)
        top.logits[part] = best.logits.masked_fill_(wrong, math.nan)
        top.ids[part] = best.ids.masked_fill_(wrong, -1)
        bottom[part] = _lowest(z, summary.minima).masked_fill_(wrong[:, 0], -1)
        none = targets[part] < 0
        target_logits[part] = z.gather(1, targets[part].clamp(min=0)).masked_fill_(none, math.nan)
        ranks[part] = summary.ranks.masked_fill_(none | wrong, -1)
    return *top, lse, entropy, target_logits, ranks, bottom


def block_rows(vocab: int, itemsize: int, device_type: str) -> int:
    """Return how many rows of logits are held at once."""
    row = vocab * itemsize
    least = min(MIN_ROWS[device_type] * 4 // itemsize, LARGE_BYTES // row)
    rows = max(1, least, LOGIT_BYTES[device_type] // row)
    return SLOW_ROWS[device_type][0] - 1 if rows in SLOW_ROWS[device_type] else rows


def _logits(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Write x · weightᵀ + bias; a weight that the product cannot read is widened in parts."""
    step = len(weight)
    if weight.dtype != x.dtype or 1 not in weight.stride():
        n_bytes = WEIGHT_BYTES[x.device.type]
        step = max(GROUP, n_bytes // (max(1, weight.shape[1]) * x.element_size()))
    for first in range(0, len(weight), step):
        part = slice(first, first + step)
        torch.mm(x, weight[part].to(x.dtype).t(), out=out[:, part])
    if bias is not None:
        out += bias


def summarize(z: Tensor, targets: Tensor) -> Summary:
    """Summarise [r, vocab] contiguous logits, and rank the targets, [r, n]."""
    if z.device.type != "cpu":
        step = max(1, SLICE_BYTES // (z.shape[1] * z.element_size()))
        slices = zip(z.split(step), targets.split(step), strict=True)
        parts = [summarize_in_torch(*part) for part in slices]
        return Summary(*(torch.cat(column) for column in zip(*parts, strict=True)))
    arrays = summarize_rows(z.numpy(), targets.numpy(), torch.get_num_threads())
    return Summary(*map(torch.from_numpy, arrays))


def summarize_in_torch(z: Tensor, targets: Tensor) -> Summary:
    """Do what `summarize` does, on any device."""
    whole = z.shape[1] - z.shape[1] % GROUP
    groups, rest = z[:, :whole].unflatten(1, (-1, GROUP)), z[:, whole:]
    maxima, minima = groups.amax(2), groups.amin(2)
    if rest.shape[1]:
        maxima = torch.cat([maxima, rest.amax(1, keepdim=True)], 1)
        minima = torch.cat([minima, rest.amin(1, keepdim=True)], 1)
    highest = maxima.amax(1, keepdim=True)
    d = (z - highest).masked_fill_(z == highest, 0)  # also for equal infinities
    torch.threshold_(d, NEGLIGIBLE[z.dtype], -1e4)  # p = 0, and nothing in u
    e = d.exp()
    s = e.sum(1, dtype=torch.float64)
    u = e.mul_(d).sum(1, dtype=torch.float64)
    ranks = torch.empty_like(targets)
    column = torch.arange(z.shape[1], device=z.device)
    for t, token in enumerate(targets.t()[:, :, None]):
        logit = z.gather(1, token.clamp(min=0))
        ranks[:, t] = ((z > logit) | ((z == logit) & (column < token))).sum(1)
    return Summary(maxima, minima, highest[:, 0], s, u, ranks)


def distribution(highest: Tensor, s: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return (lse, entropy) = (max z + log s, log s - u / s), NaN where s is.

    A row without a finite maximum is no distribution: its entropy is NaN.
    """
    log_s = s.log()
    finite = highest.isfinite() | s.isnan()
    lse = torch.where(finite, highest + log_s, highest)
    return lse, torch.where(finite, log_s - u / s, math.nan)


def _best_tokens(z: Tensor, maxima: Tensor, m: int) -> Best:
    """Return the m best tokens: they lie in the m best groups (higher maximum, lower group)."""
    vocab, n_groups = z.shape[1], maxima.shape[1]
    column = torch.arange(max(vocab, GROUP), device=z.device)
    if m >= n_groups:
        parts = [best_of(part, column[:vocab], m) for part in z.split(max(1, (1 << 21) // vocab))]
        return Best(*(torch.cat(column) for column in zip(*parts, strict=True)))
    groups = best_of(maxima, column[:n_groups], m).ids.sort(1).values
    ids = (groups[:, :, None] * GROUP + column[:GROUP]).flatten(1)
    logits = z.gather(1, ids.clamp(max=vocab - 1)).masked_fill_(ids >= vocab, -math.inf)
    return best_of(logits, ids, m)


def best_of(logits: Tensor, ids: Tensor, m: int) -> Best:
    """Return the m best of [r, n] logits; `ids`, [n] or [r, n], ascend in each row."""
    if logits.dtype == torch.float32:
        return Best(*unpack(pack(logits, ids).topk(m).values))
    ordered = logits.sort(dim=1, descending=True, stable=True)
    at = ordered.indices[:, :m]
    return Best(ordered.values[:, :m], ids.expand_as(logits).gather(1, at))


def _lowest(z: Tensor, minima: Tensor) -> Tensor:
    """Return the token with the lowest logit of each row; argmin takes the first of equals."""
    group = minima.argmin(1)
    ids = group[:, None] * GROUP + torch.arange(GROUP, device=z.device)
    logits = z.gather(1, ids.clamp(max=z.shape[1] - 1))  # repeats the last token: never the first
    return group * GROUP + logits.argmin(1)
