"""Checks of capture and streaming top-k that every backend and device has to pass.

The oracle of the top-k is a sort of Python tuples, that of the activations is float64.
"""

import math
import random
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from pyengine import ops, reference

Entry = tuple[float, int]  # score, id


@dataclass
class Case:
    """A search to run: its settings and the seed of its data."""

    seed: int
    n_keys: int = 5
    k: int = 4
    act: str = "identity"
    dtype: torch.dtype = torch.float32
    sign: int = 1
    per_unit: bool = True
    floor: float | None = None
    ties: bool = False
    wild: bool = False  # NaN, infinities and -0.0
    holes: bool = False  # positions that do not compete, in any pattern
    strided: bool = False
    shapes: list[tuple[int, int]] = field(default_factory=lambda: [(3, 7), (1, 1), (4, 5)])


def batches(case: Case, device: str) -> list[tuple[Tensor, ops.Rows]]:
    """Return the (values, rows) of a case; ids ascend over the batches."""
    generator = torch.Generator().manual_seed(case.seed)
    found, base = [], 0
    for n_rows, n_positions in case.shapes:
        size = (n_rows, n_positions, case.n_keys * 2)
        values = torch.randn(size, generator=generator)
        if case.ties:
            values = (values * 2).round() / 2
        if case.wild:
            for special in (math.nan, math.inf, -math.inf, -0.0):
                values[torch.rand(size, generator=generator) < 0.04] = special
        values = values.to(device, case.dtype)
        values = values[..., ::2] if case.strided else values[..., : case.n_keys].contiguous()
        ids = torch.arange(base, base + n_rows * n_positions).view(n_rows, n_positions)
        if case.holes:
            ids[torch.rand(ids.shape, generator=generator) < 0.3] = -1
        else:  # right padding, and a special token at the start, as a batch has them
            stop = torch.randint(0, n_positions + 1, (n_rows, 1), generator=generator)
            position = torch.arange(n_positions)
            ids[(position >= stop.sort(0).values) | ((position == 0) & (case.seed % 2 == 0))] = -1
        base += ids.numel()
        found.append((values, ops.Rows(ids.to(device))))
    return found


def brute_force(case: Case, data: list[tuple[Tensor, ops.Rows]]) -> list[list[Entry]]:
    """Return the best (score, id) of every key by sorting all of them."""
    entries: list[list[Entry]] = [[] for _ in range(case.n_keys)]
    for values, rows in data:
        for row_values, row_ids in zip(values.double().tolist(), rows.ids.tolist(), strict=True):
            for key, kept in enumerate(entries):
                unit = [
                    (case.sign * scores[key], i)
                    for scores, i in zip(row_values, row_ids, strict=True)
                    if i >= 0 and not math.isnan(scores[key])
                ]
                unit = sorted(unit, key=_rank)[: 1 if case.per_unit else None]
                kept += [e for e in unit if case.floor is None or e[0] > case.floor]
    return [sorted(set(kept), key=_rank)[: case.k] for kept in entries]


def check_topk(
    case: Case, device: str = "cpu", capacity: int | None = None, seen: int | None = None
) -> int:
    """Fold a case's batches, one of them twice, in any order; return how many overflowed."""
    data = batches(case, device)
    state = ops.TopKState(
        case.n_keys + 2,
        case.k,
        device=device,
        floor=case.floor,
        per_unit=case.per_unit,
        capacity=capacity,
    )
    order = data + data[:1]
    chance = random.Random(case.seed)
    chance.shuffle(order)
    overflows = 0
    for values, rows in order:
        captured = ops.ffn_capture(values, rows, act="identity", signs=(1, -1))
        fold = partial(ops.topk_fold, state, captured.values)
        block_max = captured.block_max[0 if case.sign == 1 else 1]
        hint = chance.choice([0, 40]) if seen is None else seen  # allowed to be wrong
        fold(block_max, rows, first_key=1, sign=case.sign, seen=hint)
        ops.topk_flush(state)
        if state.overflow.item():
            overflows += 1
            state.overflow.zero_()
            fold(block_max, rows, first_key=1, sign=case.sign, careful=True)
            ops.topk_flush(state)
            assert not state.overflow.item()
    scores, ids = (column.tolist() for column in ops.unpack(state.top.cpu()))
    for key, expected in enumerate(brute_force(case, data), start=1):
        filled = [(s, i) for s, i in zip(scores[key], ids[key], strict=True) if i >= 0]
        assert filled == expected, f"key {key - 1} of {case}"
        assert all(math.isnan(s) for s in scores[key][len(expected) :])
    untouched = state.top[[0, -1]]
    assert bool((untouched == ops.EMPTY).all())
    floor_key = ops.EMPTY if case.floor is None else _pack(case.floor, 0)
    assert torch.equal(state.threshold, state.top[:, -1].clamp(min=floor_key))
    return overflows


def check_capture(
    case: Case,
    device: str = "cpu",
    *,
    gated: bool = False,
    value: str = "post",
    signs: tuple[int, ...] = (1,),
    reuse: bool = False,
) -> None:
    """Capture a case's batches and hold every output to float64, or to exactness."""
    for pre, rows in batches(case, device):
        up = pre.flip(0).contiguous() if gated else None
        original = pre.clone()
        captured = ops.ffn_capture(
            pre, rows, act=case.act, up=up, value=value, signs=signs, reuse=reuse
        )
        check_activation(captured.out, original, case.act, up)
        if value == "pre":
            assert same(captured.values, original)
        else:
            assert captured.values is captured.out
        if not reuse:
            assert same(pre, original)
        competes = (rows.ids >= 0)[:, :, None].expand_as(pre)
        nan = captured.values.isnan() & competes
        assert captured.n_nan.tolist() == [int(nan.sum())]
        for sign, block_max in zip(signs, captured.block_max, strict=True):
            scores = torch.where(competes & ~nan, sign * captured.values.float(), -math.inf)
            bottom = torch.full((1, pre.shape[2]), -math.inf, device=device)
            expected = torch.cat([scores.flatten(0, 1), bottom]).amax(0)
            assert torch.equal(torch.cat([block_max, bottom]).amax(0), expected)


def check_activation(out: Tensor, pre: Tensor, act: str, up: Tensor | None) -> None:
    """Allow twice the error of torch in the same dtype, plus one rounding."""
    torch_act = {
        "identity": lambda x: x,
        "relu": torch.relu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        "silu": torch.nn.functional.silu,
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    }[act]
    gate = torch.ones_like(pre) if up is None else up
    baseline = torch_act(pre) * gate
    truth = reference.activation(pre.double(), act) * gate.double()
    assert out.dtype == pre.dtype and out.shape == pre.shape
    if act not in ("identity", "relu"):  # torch's own answers for infinite input vary
        keep = ~pre.isinf()
        out, pre, gate = out[keep], pre[keep], gate[keep]
        baseline, truth = baseline[keep], truth[keep]
    finite = baseline.isfinite() & truth.isfinite()
    assert same(out[~finite], baseline[~finite])
    product = (pre.double() * gate.double()).abs().nan_to_num(0)  # -inf * 0 behind a ReLU
    scale = product * torch.finfo(torch.float32).eps * 4
    rounding = truth.abs() * torch.finfo(pre.dtype).eps + torch.finfo(pre.dtype).tiny
    allowed = 2 * (baseline.double() - truth).abs() + rounding + scale
    assert bool(((out.double() - truth).abs() <= allowed)[finite].all()), (act, pre.dtype)


def same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold equal numbers, NaN where NaN."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _rank(entry: Entry) -> tuple[float, int]:
    return -entry[0], entry[1]


def _pack(score: float, entry_id: int) -> int:
    return int(reference.pack(torch.tensor(score), torch.tensor(entry_id)))
