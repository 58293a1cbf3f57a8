"""The plain-torch twin of every kernel: obvious, slow, and the oracle of the tests.

Nothing here is shared with the code it judges. Run it in float64 for the truth about rounding.
"""

import math

import torch
from torch import Tensor

EMPTY = -(2**63)


def pack(score: Tensor, ids: Tensor) -> Tensor:
    """Return int64 keys that order by (score descending, id ascending); NaN becomes EMPTY."""
    bits = torch.where(score == 0, 0.0, score.float()).view(torch.int32).long()
    ordered = torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF) - 1)  # sign-magnitude to integer
    return torch.where(score.isnan(), EMPTY, ordered * 2**32 + (2**32 - 1 - ids))


def activation(x: Tensor, act: str) -> Tensor:
    """Apply an activation by its textbook formula, in the dtype of `x`."""
    cubic = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    formulas = {
        "identity": lambda: x.clone(),
        "relu": lambda: torch.where(x < 0, torch.zeros_like(x), x),
        "gelu": lambda: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
        "gelu_tanh": lambda: x * (1 + torch.tanh(cubic)) / 2,
        "silu": lambda: x / (1 + torch.exp(-x)),
        "quick_gelu": lambda: x / (1 + torch.exp(-1.702 * x)),
    }
    return formulas[act]()


def ffn_capture(
    pre: Tensor, ids: Tensor, act: str, up: Tensor | None, value: str, signs: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (out, values, block_max, n_nan) of `ops.ffn_capture`; one block is one row."""
    out = (activation(pre.double(), act) * (1 if up is None else up.double())).to(pre.dtype)
    values = pre if value == "pre" else out
    competes = (ids >= 0)[:, :, None]
    legal = competes & ~values.isnan()
    maxima = [torch.where(legal, sign * values.float(), -math.inf) for sign in signs]
    block_max = torch.stack([m.amax(1) if m.shape[1] else m.sum(1) - math.inf for m in maxima])
    return out, values, block_max, (competes & values.isnan()).sum().view(1)


def topk_fold(
    top: Tensor, values: Tensor, ids: Tensor, *, sign: int, per_unit: bool, floor_key: int
) -> Tensor:
    """Return the best `top.shape[1]` distinct keys of each column after folding [B, T, F] in."""
    keys = pack(sign * values.float(), ids[:, :, None])
    keys = torch.where((ids[:, :, None] >= 0) & (keys > floor_key), keys, EMPTY)
    if per_unit and keys.shape[1]:
        keys = keys.amax(1, keepdim=True)  # the packed order already prefers the earlier position
    return best_distinct(torch.cat([top, keys.flatten(0, 1).t()], 1), top.shape[1])


def best_distinct(keys: Tensor, k: int) -> Tensor:
    """Return the `k` largest distinct keys of each row, descending, filled up with EMPTY."""
    rows = [sorted(set(row) - {EMPTY}, reverse=True)[:k] for row in keys.tolist()]
    filled = [row + [EMPTY] * (k - len(row)) for row in rows]
    return torch.tensor(filled, dtype=torch.int64, device=keys.device).view(len(filled), k)


def vocab_project(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    m: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the fields of `ops.Projection` from one full matrix of float64 logits."""
    logits = x.double() @ weight.double().t()
    if bias is not None:
        logits = logits + bias.double()
    order = logits.sort(dim=1, descending=True, stable=True).indices  # stable: the lower id first
    lowest = logits.sort(dim=1, stable=True).indices[:, 0]
    lse = logits.logsumexp(1)
    p = (logits - lse[:, None]).exp()
    entropy = -torch.where(p > 0, p * (logits - lse[:, None]), 0.0).sum(1)
    known = targets >= 0
    at = targets.clamp(min=0)
    target_logits = torch.where(known, logits.gather(1, at), math.nan)
    wrong = logits.isnan().any(1)
    best = torch.where(wrong[:, None], -1, order[:, :m])
    best_logits = torch.where(wrong[:, None], math.nan, logits.gather(1, order[:, :m]))
    ranks = torch.where(known & ~wrong[:, None], order.argsort(1).gather(1, at), -1)
    return (
        best_logits,
        best,
        lse,
        torch.where(lse.isfinite(), entropy, math.nan),
        target_logits,
        ranks,
        torch.where(wrong, -1, lowest),
    )


def path_points(base: Tensor, step: Tensor, source: Tensor, alpha: Tensor) -> Tensor:
    """Return [R, D] of `ops.path_points`, one row at a time."""
    points = torch.empty(len(source), base.shape[1], dtype=torch.float64, device=base.device)
    for r, s in enumerate(source.tolist()):
        points[r] = base[s].double() + alpha[r].double() * step[s].double()
    return points.to(base.dtype)


def path_sums(gradients: Tensor, source: Tensor, weights: Tensor, n_sources: int) -> Tensor:
    """Return [n_sources, D] of `ops.path_sums`, one row at a time."""
    shape = n_sources, gradients.shape[1]
    sums = torch.zeros(shape, dtype=torch.float64, device=gradients.device)
    for r, s in enumerate(source.tolist()):
        sums[s] += weights[r].double() * gradients[r].double()
    return sums if gradients.dtype == torch.float64 else sums.float()
