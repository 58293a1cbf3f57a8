"""What the kernels share: the launch table, device helpers, and checks of the launchers."""

import functools
import os
from collections.abc import Callable
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import torch
import triton
import triton.language as tl

EMPTY = tl.constexpr(-(2**63))  # no entry; below every packed key
BLOCK_ROWS = 32  # flattened [B * T] rows per block maximum
PATH_ROWS = 8  # points on paths per program


P = ParamSpec("P")
R = TypeVar("R")
Launcher = Callable[Concatenate[torch.Tensor, P], R]


def on_its_device(launcher: Launcher[P, R]) -> Launcher[P, R]:
    """Launch on the device of the first argument: Triton takes the current one."""

    @functools.wraps(launcher)
    def launch(first: torch.Tensor, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with torch.cuda.device_of(first):
            return launcher(first, *args, **kwargs)

    return launch


class Launch(NamedTuple):
    """Columns per program, warps, and the budget per target: (registers, shared bytes).

    No kernel may spill. `tests/aot.py` compiles every entry and fails beyond its budget, which
    is what triton 3.6 and 3.9 need, rounded up to the 8 registers that hardware hands out.
    """

    block_f: int
    num_warps: int
    budgets: dict[str, tuple[int, int]]


class VocabLaunch(NamedTuple):
    """A tile of logits: rows, tokens, what is summed at once; warps, stages; budgets of a pass."""

    block_r: int
    block_v: int
    block_d: int
    num_warps: int
    num_stages: int
    budgets: dict[str, tuple[int, int]]
    rank_budgets: dict[str, tuple[int, int]]


def _budgets(sm_80: int, sm_90: int, gfx942: int, shared: int) -> dict[str, tuple[int, int]]:
    gfx942_shared = min(shared, 65536)  # all that there is
    return {"sm_80": (sm_80, shared), "sm_90": (sm_90, shared), "gfx942": (gfx942, gfx942_shared)}


# Winners of what was compiled: more columns or fewer warps per program spill.
FFN_CAPTURE = Launch(128, 4, _budgets(88, 88, 40, shared=2048))
FFN_CAPTURE_WIDE = Launch(128, 4, _budgets(120, 112, 64, shared=2048))  # gated or both signs
TOPK_APPEND = Launch(32, 4, _budgets(144, 128, 112, shared=8192))
TOPK_APPEND_UNIT = Launch(32, 4, _budgets(80, 80, 64, shared=1024))
TOPK_MERGE = Launch(1, 1, _budgets(56, 56, 64, shared=0))  # k <= 64
TOPK_MERGE_WIDE = Launch(1, 1, _budgets(64, 64, 80, shared=0))  # k <= 128
PATH_POINTS = Launch(256, 4, _budgets(48, 40, 32, shared=0))
PATH_SUMS = Launch(128, 1, _budgets(64, 64, 32, shared=0))
# One tile for both passes, or their logits could differ in the last bit. Larger ones spill.
VOCAB_FLOAT = VocabLaunch(
    *(64, 128, 16, 8, 3),
    budgets=_budgets(200, 184, 104, shared=32768),
    rank_budgets=_budgets(168, 248, 72, shared=24576),
)
VOCAB_HALF = VocabLaunch(
    *(64, 128, 64, 8, 3),
    budgets=_budgets(208, 192, 104, shared=73728),
    rank_budgets=_budgets(128, 256, 96, shared=73728),
)
VOCAB_MIXED = VocabLaunch(  # two dtypes, multiplied in float32
    *(64, 64, 32, 8, 3),
    budgets=_budgets(208, 208, 88, shared=32768),
    rank_budgets=_budgets(208, 200, 96, shared=32768),
)


@triton.jit
def tl_activation(x, ACT: tl.constexpr):
    """Apply the activation in float32; `where` instead of `maximum`, which would drop NaN."""
    if ACT == "relu":
        return tl.where(x < 0.0, 0.0, x)
    elif ACT == "gelu":
        return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))
    elif ACT == "gelu_tanh":  # 0.5 x (1 + tanh u) == x sigmoid(2u): no libdevice
        return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif ACT == "silu":
        return x * tl.sigmoid(x)
    elif ACT == "quick_gelu":
        return x * tl.sigmoid(1.702 * x)
    else:
        tl.static_assert(ACT == "identity")
        return x


@triton.jit
def tl_pack(score, ids):
    """Return int64 keys: larger is a higher float32 score, then a lower id."""
    bits = (score + 0.0).to(tl.int32, bitcast=True)  # + 0.0 folds -0.0 into +0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (0xFFFFFFFF - ids)


@triton.jit
def tl_score(key):
    """Return the float32 score of packed keys; EMPTY gives -inf, which every score reaches."""
    ordered = (key >> 32).to(tl.int32)
    score = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    return tl.where(key == EMPTY, float("-inf"), score)


@triton.jit
def tl_row_offset(row, T, stride_b, stride_t):
    """Return the int64 offset of flattened rows of a [B, T, F] tensor of any strides."""
    return (row // T).to(tl.int64) * stride_b + (row % T).to(tl.int64) * stride_t


def check_activations(name: str, x: torch.Tensor, ids: torch.Tensor) -> None:
    """Raise ValueError unless `x` is a float [B, T, F] that fits `ids` [B, T]."""
    if x.ndim != 3 or x.shape[:2] != ids.shape:
        wanted = f"[{', '.join(map(str, ids.shape))}, F]"
        raise ValueError(f"{name} must be {wanted}, got {tuple(x.shape)}")
    check_float(name, x)
    if ids.dtype != torch.int64 or not ids.is_contiguous():
        raise ValueError(f"ids must be contiguous int64, got {ids.dtype} strides {ids.stride()}")


def check_float(name: str, x: torch.Tensor) -> None:
    """Raise ValueError for a dtype that the kernels, or the interpreter, cannot read."""
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"{name} must be float32, float16 or bfloat16, got {x.dtype}")
    if x.dtype == torch.bfloat16 and os.environ.get("TRITON_INTERPRET") == "1":
        raise ValueError(f"{name} is bfloat16, which Triton's interpreter computes wrongly")


def vocab_launch(x: torch.Tensor, weight: torch.Tensor) -> VocabLaunch:
    """Return how the tiles of x · weightᵀ are made."""
    if x.dtype != weight.dtype:
        return VOCAB_MIXED
    return VOCAB_FLOAT if x.dtype == torch.float32 else VOCAB_HALF


def vocab_arguments(
    x: torch.Tensor, weight: torch.Tensor, launch: VocabLaunch
) -> dict[str, bool | int]:
    """Return the constants and options that both passes over the vocabulary must share."""
    for name, tensor in (("x", x), ("weight", weight)):
        check_float(name, tensor)
    return {
        "WIDEN": x.dtype != weight.dtype,
        "BLOCK_R": launch.block_r,
        "BLOCK_V": launch.block_v,
        "BLOCK_D": launch.block_d,
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
    }
