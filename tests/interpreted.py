"""Run every Triton kernel in the interpreter against the oracles; a process of its own.

`TRITON_INTERPRET` has to be set before the first kernel is decorated, and would turn the kernels
of every other test into interpreted ones. float32 and float16 only: the interpreter computes
bfloat16 wrongly, so the launchers refuse it there.
"""

import os
import time

os.environ["TRITON_INTERPRET"] = "1"
os.environ["PYENGINE_BACKEND"] = "triton"

import torch
from kernel_checks import Case, check_capture, check_topk
from path_checks import LAYOUTS, check_points, check_sums
from path_checks import Case as Paths
from vocab_checks import Case as Projected
from vocab_checks import check as check_projection

from pyengine import ops, triton_ops, triton_vocab

SMALL = 32  # pending candidates per key: several slices, and overflow


def capture() -> None:
    """Check every activation, gate, ranking and sign, ragged in rows and columns."""
    shapes = [(3, 13), (1, 1), (2, 16), (0, 4), (2, 0)]
    for seed, act in enumerate(ops.fused_activations()):
        for dtype in (torch.float32, torch.float16):
            case = Case(seed, n_keys=5, act=act, dtype=dtype, wild=True, holes=True, shapes=shapes)
            check_capture(case, signs=(1, -1))
    case = Case(7, n_keys=131, act="gelu_tanh", wild=True, strided=True, shapes=[(3, 13)])
    check_capture(case, gated=True, signs=(-1,))
    check_capture(case, value="pre", signs=(-1, 1))
    check_capture(case, gated=True, value="pre")


def topk() -> None:
    """Check both ways to compete, alone and in slices, with every kind of awkward data."""
    for per_unit in (True, False):
        case = Case(1, per_unit=per_unit, holes=True, wild=True, strided=True)
        check_topk(case)
        check_topk(Case(2, n_keys=33, k=1, per_unit=per_unit, shapes=[(2, 3)]))
        check_topk(Case(3, per_unit=per_unit, ties=True, sign=-1, dtype=torch.float16))
        check_topk(Case(4, k=9, per_unit=per_unit, floor=0.0, wild=True, ties=True))
        check_topk(Case(5, per_unit=per_unit, shapes=[(2, 70), (3, 33)]))
        check_topk(Case(6, n_keys=2, per_unit=per_unit, shapes=[(0, 3), (3, 0), (40, 2)]))


def straddling() -> None:
    """Check rows that lie across blocks of 32: a peak in the second block must be found."""
    for n_positions, peaks in ((5, (0, 32, 34, 64)), (34, (0, 32, 33, 64, 67, 96))):
        ids = torch.arange(20 * n_positions).view(20, n_positions)
        state = ops.TopKState(1, 1, device="cpu")
        for i in peaks:
            values = torch.zeros(20 * n_positions)
            values[i] = 1.0 + i
            values = values.view(20, n_positions, 1)
            captured = ops.ffn_capture(values, ops.Rows(ids), act="identity")
            ops.topk_fold(state, values, captured.block_max[0], ops.Rows(ids))
            ops.topk_flush(state)
            assert ops.unpack(state.top)[1].item() == i


def overflow() -> None:
    """Check that a batch whose candidates do not fit is reported, and is exact once repeated."""
    shapes = [(40, 2), (60, 3)]
    for per_unit in (True, False):
        cases = [
            Case(seed, n_keys=1, k=3, per_unit=per_unit, ties=seed == 1, shapes=shapes)
            for seed in range(2)
        ]
        overflows = sum(check_topk(case, capacity=SMALL, seen=10**6) for case in cases)
        assert overflows, f"nothing overflowed with per_unit={per_unit}"
        sliced = sum(check_topk(case, capacity=SMALL, seen=0) for case in cases)
        assert sliced < overflows, "slices that grow with what was seen must overflow less"


def wide() -> None:
    """Check the merge in torch that serves k > 128."""
    triton_ops.WIDE_CHUNK = 1000  # several parts
    for per_unit in (True, False):
        check_topk(Case(7, n_keys=3, k=130, per_unit=per_unit, ties=True, shapes=[(40, 4)] * 2))
    case = Case(8, k=200, n_keys=1, shapes=[(190, 2)] * 2)
    assert check_topk(case, capacity=SMALL, seen=10**6)


def vocab() -> None:
    """Check both passes over the vocabulary: odd sizes, ties, several chunks, mixed dtypes."""
    half = torch.float16
    check_projection(Projected(0, n_rows=70, n_targets=5, m=5))
    check_projection(Projected(1, n_rows=3, vocab=97, d=17, n_targets=0, bias=True))
    check_projection(Projected(2, vocab=400, n_targets=9, m=3, x_dtype=half, weight_dtype=half))
    check_projection(Projected(3, d=40, n_targets=17, m=10, weight_dtype=half, strided=True))
    for seed in (4, 5):  # -inf, +inf and NaN among the logits, then rows of nothing else
        check_projection(Projected(seed, n_rows=9, vocab=300, n_targets=2, bias=True, wild=True))
        check_projection(Projected(seed, n_rows=9, vocab=300, n_targets=0, m=4, wild=True))
    check_projection(Projected(6, vocab=2, m=2, n_rows=0))
    check_projection(Projected(7, vocab=130, m=130, d=1, strided=True))
    check_projection(Projected(8, vocab=300, m=6, d=33, integers=False, bias=True))
    triton_vocab.CHUNK_BYTES = 30_000
    check_projection(Projected(9, vocab=260, m=2, n_rows=9, integers=False))


def paths() -> None:
    """Check points and sums: every layout, ragged tiles, sources without rows, wild numbers."""
    half = torch.float16
    for seed, layout in enumerate(LAYOUTS):
        for case in (
            Paths(seed, layout=layout),
            Paths(seed, 9, 33, 300, half, torch.float64, layout, wild=True),
            Paths(seed, 3, 21, 129, half if seed % 2 else torch.float32, exact=False),
        ):
            check_points(case)
            check_sums(case)
    for n_sources, n_rows, d in ((0, 0, 3), (3, 0, 3), (3, 5, 0), (1, 1, 1), (1, 16, 2)):
        check_points(Paths(9, n_sources, n_rows, d))
        check_sums(Paths(9, n_sources, n_rows, d))


def refusals() -> None:
    """Check that bfloat16 is refused in the interpreter, and float64 everywhere."""
    rows = ops.Rows(torch.zeros(1, 1, dtype=torch.int64))
    try:
        ops.ffn_capture(torch.zeros(1, 1, 1, dtype=torch.bfloat16), rows, act="relu")
    except ValueError as error:
        assert "bfloat16, which Triton's interpreter computes wrongly" in str(error)
    else:
        raise AssertionError("bfloat16 was interpreted")
    for dtype, message in (
        (torch.bfloat16, "x is bfloat16, which Triton's interpreter computes wrongly"),
        (torch.float64, "set PYENGINE_BACKEND=torch"),
    ):
        try:
            check_projection(Projected(x_dtype=dtype))
        except ValueError as error:
            assert message in str(error)
        else:
            raise AssertionError(f"{dtype} was projected")
    for dtype, message in (
        (torch.bfloat16, "is bfloat16, which Triton's interpreter computes wrongly"),
        (torch.float64, "float64 paths need the torch path"),
    ):
        for check in (check_points, check_sums):
            try:
                check(Paths(dtype=dtype))
            except ValueError as error:
                assert message in str(error)
            else:
                raise AssertionError(f"{check.__name__} took {dtype}")


def main() -> None:
    """Run every check and print its time."""
    torch.set_num_threads(1)
    for check in (capture, topk, straddling, overflow, wide, vocab, paths, refusals):
        start = time.perf_counter()
        check()
        print(f"ok {check.__name__} {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
