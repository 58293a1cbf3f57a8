"""From vectors to what they say about the vocabulary, never holding all logits at once.

Geva et al. 2021, §4: a value vector v is read as the distribution softmax(v · E). For each row of
`x` this gives the best tokens of x · Eᵀ + b, the normaliser, the entropy, and where given tokens
stand.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyengine import reference, torch_vocab
from pyengine.backend import backend_for

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Projection(NamedTuple):
    """What `vocab_project` returns for R rows, n targets each, the m best tokens of each.

    Logits and what is made of them are float32 (float64 for float64 input).

    Attributes:
        top_logits: [R, m], descending.
        top_ids: int64 [R, m]; equal logits: the lower id first.
        lse: [R], log of the sum over the vocabulary of exp(logit).
        entropy: [R], of the softmax, in nats; NaN where the largest logit is infinite.
        target_logits: [R, n]; NaN where the target is -1.
        target_ranks: int64 [R, n], 0 is the best: the number of tokens with a higher logit, or an
            equal one and a lower id; -1 where the target is -1.
        bottom_ids: int64 [R], the lowest logit's token (equal: the lower id): the best of -x for a
            readout without bias.
    """

    top_logits: Tensor
    top_ids: Tensor
    lse: Tensor
    entropy: Tensor
    target_logits: Tensor
    target_ranks: Tensor
    bottom_ids: Tensor

    @property
    def top_probs(self) -> Tensor:
        """[R, m], softmax probabilities of the best tokens."""
        return (self.top_logits - self.lse[:, None]).exp()

    @property
    def target_probs(self) -> Tensor:
        """[R, n], softmax probabilities of the targets; NaN where there is none."""
        return (self.target_logits - self.lse[:, None]).exp()


@torch.no_grad()
def vocab_project(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    targets: Tensor | None = None,
    m: int = 1,
) -> Projection:
    """Project rows onto an output embedding: logits = x · weightᵀ + bias, in blocks of rows.

    Ranks and ties are exact with respect to the logits as computed; -0.0 equals +0.0. A row with a
    NaN logit has NaN for its top_logits, lse and entropy, -1 for its tokens and ranks.

    Args:
        x: [R, d], float32, float16, bfloat16 or float64, any strides.
        weight: [V, d], any of these dtypes; half precision is widened, exactly, before or inside
            the product, which sums in float32 (float64 if either is float64).
        bias: [V] or None.
        targets: int64 [R, n], token ids whose logit and rank are wanted, -1 for none.
        m: how many of the best tokens, 1 to V.

    Returns:
        A `Projection`; what is allocated beside it is bounded: 80 MB on the CPU (280 MB for more
        than 60,000 tokens), 1 GB on CUDA, unless a single row needs more.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, or a target out of range.
        PyengineError: for float64 on CUDA, unless PYENGINE_BACKEND=torch.

    Oracle: `pyengine.reference.vocab_project`.
    """
    if targets is None:
        targets = torch.full((len(x), 0), -1, dtype=torch.int64, device=x.device)
    _check(x, weight, bias, targets, m)
    backend = backend_for(x.device)
    if backend == "reference":
        return Projection(*reference.vocab_project(x, weight, bias, targets, m))
    if backend == "torch":
        return Projection(*torch_vocab.vocab_project(x, weight, bias, targets, m))
    from pyengine import triton_vocab

    return Projection(*triton_vocab.vocab_project(x, weight, bias, targets, m))


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, m: int) -> None:
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1]:
        shapes = f"{tuple(x.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"x and weight must be [R, d] and [V, d], got {shapes}")
    for name, tensor in (("x", x), ("weight", weight)):
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{name} must be floating-point, got {tensor.dtype}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be [{len(weight)}], got {tuple(bias.shape)}")
    if targets.ndim != 2 or len(targets) != len(x) or targets.dtype != torch.int64:
        got = f"{targets.dtype} {tuple(targets.shape)}"
        raise ValueError(f"targets must be int64 [{len(x)}, n], got {got}")
    for name, other in (("weight", weight), ("bias", bias), ("targets", targets)):
        if other is not None and other.device != x.device:
            raise ValueError(f"{name} must be on {x.device} as x is, got {other.device}")
    if not 1 <= m <= len(weight):
        raise ValueError(f"m must be from 1 to {len(weight)}, got {m}")
    if targets.numel() and not -1 <= int(targets.min()) <= int(targets.max()) < len(weight):
        worst = int(targets.max()) if int(targets.min()) >= -1 else int(targets.min())
        raise ValueError(f"target {worst} is out of range; the vocabulary has {len(weight)} tokens")
