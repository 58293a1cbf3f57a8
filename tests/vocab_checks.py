"""What `vocab_project` must hold on every path; used by the tests, the interpreter and the GPU."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyengine import reference
from pyengine.vocab_project import Projection, vocab_project


@dataclass(frozen=True)
class Case:
    """A projection; integers make every logit exact, and many of them equal."""

    seed: int = 0
    n_rows: int = 5
    vocab: int = 131
    d: int = 7
    n_targets: int = 3
    m: int = 1
    x_dtype: torch.dtype = torch.float32
    weight_dtype: torch.dtype = torch.float32
    integers: bool = True
    bias: bool = False
    wild: bool = False  # infinite logits and NaN
    strided: bool = False
    device: str = "cpu"

    def build(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Return x, weight, bias and targets."""
        draw = torch.Generator().manual_seed(self.seed)

        def values(*shape: int) -> Tensor:
            if self.integers:
                return torch.randint(-2, 3, shape, generator=draw).float()
            return torch.randn(shape, generator=draw)

        step = 2 if self.strided else 1
        x = values(self.n_rows, self.d * step)[:, ::step]
        # Like a Conv1D's, or like rows cut from something wider.
        weight = values(self.d, self.vocab).t() if self.strided else values(self.vocab, self.d)
        bias = values(self.vocab) if self.bias else None
        if self.wild and self.d:
            weight[:, 0] = torch.where(weight[:, 0] < 0, -1.0, 1.0)
            if self.seed % 2:
                weight[:, 0] = 1.0
            few = torch.tensor([math.inf, -math.inf, math.nan, -0.0, 1.0])
            x[:, 0] = few[torch.randint(0, 5, (self.n_rows,), generator=draw)]
            if bias is not None:
                bias[torch.rand(self.vocab, generator=draw) < 0.2] = -math.inf
        targets = torch.randint(-1, self.vocab, (self.n_rows, self.n_targets), generator=draw)
        targets[:, 1:2] = targets[:, :1]  # a repeated one
        x, weight = x.to(self.device, self.x_dtype), weight.to(self.device, self.weight_dtype)
        return x, weight, None if bias is None else bias.to(self.device), targets.to(self.device)


def check(case: Case) -> None:
    """Compare a projection with the oracle, and with itself."""
    x, weight, bias, targets = case.build()
    found = vocab_project(x, weight, bias, targets=targets, m=case.m)
    oracle = Projection(*reference.vocab_project(x, weight, bias, targets, case.m))
    double = torch.float64 in (case.x_dtype, case.weight_dtype)
    for name, ours, theirs in zip(found._fields, found, oracle, strict=True):
        ids = name in ("top_ids", "target_ranks", "bottom_ids")
        expected = torch.int64 if ids else torch.float64 if double else torch.float32
        assert ours.dtype == expected, (case, name, ours.dtype)
        assert ours.shape == theirs.shape, (case, name, ours.shape)
        if case.integers and name not in ("lse", "entropy"):
            assert same(ours, theirs), (case, name, ours, theirs)
        elif not ids:
            assert near(ours, theirs, 1e-12 if double else 2e-6 * max(1, case.d**0.5)), (
                case,
                name,
                ours,
                theirs,
            )
    if not case.integers:
        logits = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
        _check_ranks(found, logits, targets, 1e-11 if double else 1e-4)
    if not case.wild:
        _check_itself(case, found)


def _check_ranks(found: Projection, logits: Tensor, targets: Tensor, slack: float) -> None:
    """Hold the ranks between those with the targets moved up and down by more than rounding."""
    known = targets >= 0
    at = logits.gather(1, targets.clamp(min=0))[:, :, None]
    lower = (logits[:, None] > at + slack).sum(2)
    upper = (logits[:, None] >= at - slack).sum(2) - 1
    ranks = found.target_ranks
    assert bool((((lower <= ranks) & (ranks <= upper)) | ~known).all())
    assert bool((ranks[~known] == -1).all())


def _check_itself(case: Case, found: Projection) -> None:
    """The best tokens, as targets, have the ranks 0 to m - 1 and the same logits, bit by bit."""
    x, weight, bias, _ = case.build()
    again = vocab_project(x, weight, bias, targets=found.top_ids, m=1)
    order = torch.arange(case.m, device=x.device).expand_as(found.top_ids)
    assert same(again.target_ranks, order), (case, again.target_ranks)
    assert same(again.target_logits, found.top_logits), case
    last = vocab_project(-x, weight, None if bias is None else -bias).top_ids[:, 0]
    assert same(found.bottom_ids, last), (case, found.bottom_ids, last)


def same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold equal numbers, NaN where NaN."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Return whether two tensors are equal up to rounding, infinite and NaN at the same places."""
    return torch.allclose(a.double(), b.double(), tolerance, tolerance, equal_nan=True)
