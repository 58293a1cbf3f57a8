"""Vocabulary projection in plain torch: the logits of a block of rows at a time, in one buffer.

What follows the product runs over slices of a few rows, which stay in the cache: there an
operation costs a tenth of what it costs on the whole block.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyengine._native import rank_counts
from pyengine.packed import pack, unpack

GROUP = 64  # tokens per group whose largest and smallest logit lead to the best and the lowest
# Bytes of the buffer: enough rows for the product to run at speed, few enough to be had anywhere.
LOGIT_BYTES = {"cpu": 48 << 20, "cuda": 384 << 20}
SLICE_BYTES = {"cpu": 2 << 20, "cuda": 96 << 20}  # of the logits reduced at once; two copies live
WEIGHT_BYTES = {"cpu": 8 << 20, "cuda": 64 << 20}  # of a weight that must be widened, at once
NEGLIGIBLE = {torch.float32: -80.0, torch.float64: -700.0}  # exp(-80) * 2**32 vanishes beside 1


class _Best(NamedTuple):
    """Some tokens of each row, [r, m], best first: a higher logit, then a lower id."""

    logits: Tensor
    ids: Tensor


def vocab_project(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, m: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the fields of `Projection`; see `pyengine.vocab_project.vocab_project`."""
    dtype = torch.float64 if torch.float64 in (x.dtype, weight.dtype) else torch.float32
    n_rows, vocab = len(x), len(weight)
    floats = x.new_empty(0, dtype=dtype)
    top = _Best(floats.new_empty(n_rows, m), targets.new_empty(n_rows, m))
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
        maxima, minima, lse[part], entropy[part] = _reduce(z)
        wrong = lse[part].isnan()[:, None]  # some logit is NaN
        best = _best_tokens(z, maxima, m)
        top.logits[part] = best.logits.masked_fill_(wrong, math.nan)
        top.ids[part] = best.ids.masked_fill_(wrong, -1)
        bottom[part] = _lowest(z, minima).masked_fill_(wrong[:, 0], -1)
        none = targets[part] < 0
        target_logits[part] = z.gather(1, targets[part].clamp(min=0)).masked_fill_(none, math.nan)
        ranks[part] = _ranks(z, targets[part]).masked_fill_(none | wrong, -1)
    return *top, lse, entropy, target_logits, ranks, bottom


def block_rows(vocab: int, itemsize: int, device_type: str) -> int:
    """Return how many rows of logits are held at once."""
    return max(1, LOGIT_BYTES[device_type] // (vocab * itemsize))


def _logits(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Write x · weightᵀ + bias; a weight that the product cannot read is widened in parts."""
    step = len(weight)
    if weight.dtype != x.dtype or 1 not in weight.stride():
        n_bytes = WEIGHT_BYTES[x.device.type]
        step = max(GROUP, n_bytes // (max(1, weight.shape[1]) * x.element_size()))
    for first in range(0, len(weight), step):
        part = weight[first : first + step].to(x.dtype)
        torch.mm(x, part.t(), out=out[:, first : first + step])
    if bias is not None:
        for z in out.split(_slice_rows(out)):
            z += bias


def _slice_rows(z: Tensor) -> int:
    return max(1, SLICE_BYTES[z.device.type] // (z.shape[1] * z.element_size()))


def _reduce(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the groups' maxima and minima, [r, groups], the log-sum-exp and the entropy, [r].

    With d = z - max z and s = Σ exp(d): lse = max z + log s, entropy = log s - Σ exp(d)·d / s.
    """
    full = z.shape[1] // GROUP
    n_groups = -(-z.shape[1] // GROUP)
    maxima, minima = z.new_empty(len(z), n_groups), z.new_empty(len(z), n_groups)
    s, moment = z.new_empty(len(z)), z.new_empty(len(z))
    highest = z.new_empty(len(z), 1)
    rows = _slice_rows(z)
    d, e = torch.empty_like(z[:rows]), torch.empty_like(z[:rows])
    for first in range(0, len(z), rows):
        part = slice(first, first + rows)
        here = z[part]
        groups = here[:, : full * GROUP].unflatten(1, (full, GROUP))
        torch.amax(groups, 2, out=maxima[part, :full])
        torch.amin(groups, 2, out=minima[part, :full])
        if full < n_groups:
            torch.amax(here[:, full * GROUP :], 1, out=maxima[part, full])
            torch.amin(here[:, full * GROUP :], 1, out=minima[part, full])
        torch.amax(maxima[part], 1, keepdim=True, out=highest[part])
        below, exps = d[: len(here)], e[: len(here)]
        torch.sub(here, highest[part], out=below)
        torch.threshold_(below, NEGLIGIBLE[z.dtype], -1e4)  # p = 0, also for -inf; no denormals
        torch.exp(below, out=exps)
        torch.sum(exps, 1, out=s[part])
        torch.sum(exps.mul_(below), 1, out=moment[part])
    return maxima, minima, *_distribution(highest[:, 0], s, moment)


def _distribution(highest: Tensor, s: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
    """Return (lse, entropy); a row without a finite maximum is no distribution."""
    log_s = s.log()
    finite = highest.isfinite()
    lse = torch.where(finite, highest + log_s, highest)
    return lse, torch.where(finite, log_s - moment / s, math.nan)


def _best_tokens(z: Tensor, maxima: Tensor, m: int) -> _Best:
    """Return the m best tokens: they lie in the m best groups (higher maximum, lower group)."""
    vocab = z.shape[1]
    if m >= maxima.shape[1]:
        parts = [_best(part, torch.arange(vocab, device=z.device), m) for part in z.split(8)]
        return _Best(*(torch.cat(column) for column in zip(*parts, strict=True)))
    groups = _best(maxima, torch.arange(maxima.shape[1], device=z.device), m).ids.sort(1).values
    ids = (groups[:, :, None] * GROUP + torch.arange(GROUP, device=z.device)).flatten(1)
    logits = z.gather(1, ids.clamp(max=vocab - 1)).masked_fill_(ids >= vocab, -math.inf)
    return _best(logits, ids, m)


def _best(logits: Tensor, ids: Tensor, m: int) -> _Best:
    """Return the m best of [r, n] logits; `ids`, [n] or [r, n], ascend in each row."""
    if logits.dtype == torch.float32:
        return _Best(*unpack(pack(logits, ids).topk(m).values))
    ordered = logits.sort(dim=1, descending=True, stable=True)
    at = ordered.indices[:, :m]
    return _Best(ordered.values[:, :m], ids.expand_as(logits).gather(1, at))


def _lowest(z: Tensor, minima: Tensor) -> Tensor:
    """Return the token with the lowest logit of each row; argmin takes the first of equals."""
    group = minima.argmin(1)
    ids = group[:, None] * GROUP + torch.arange(GROUP, device=z.device)
    logits = z.gather(1, ids.clamp(max=z.shape[1] - 1))  # repeats the last token: never the first
    return group * GROUP + logits.argmin(1)


def _ranks(z: Tensor, targets: Tensor) -> Tensor:
    """Count the tokens before each target: a higher logit, or an equal one and a lower id."""
    if z.device.type == "cpu":
        counts = rank_counts(z.numpy(), targets.numpy(), torch.get_num_threads())
        return torch.from_numpy(counts)
    ranks = torch.empty_like(targets)
    column = torch.arange(z.shape[1], device=z.device)
    for first in range(0, len(z), _slice_rows(z)):
        part = slice(first, first + _slice_rows(z))
        for t in range(targets.shape[1]):
            token = targets[part, t, None]
            logit = z[part].gather(1, token.clamp(min=0))
            before = (z[part] > logit) | ((z[part] == logit) & (column < token))
            ranks[part, t] = before.sum(1)
    return ranks
