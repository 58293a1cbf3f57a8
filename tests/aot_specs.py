"""Every kernel in the variants that bound its use of registers; compiled by `aot.py`.

Not to be imported where TRITON_INTERPRET is set.
"""

from typing import Any, NamedTuple

import triton

from pyengine.kernels import (
    _launch,
    ffn_capture,
    path_points,
    path_sums,
    topk_append,
    topk_merge,
    vocab_rank,
    vocab_reduce,
)


class Spec(NamedTuple):
    """One compilation: the arguments that are not constant by type, the others by value."""

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    launch: _launch.Launch | _launch.VocabLaunch
    unaligned: tuple[str, ...] = ()  # integers that are not specialised as multiples of 16


def specs() -> list[Spec]:
    """Return every kernel in the variants that bound its use of registers."""
    makers = (_capture_specs, _append_specs, _merge_specs, _vocab_specs, _path_specs)
    return [spec for make in makers for spec in make()]


def _capture_specs() -> list[Spec]:
    variants = [
        ("bfloat16 gelu_tanh", "bf16", "gelu_tanh", False, (1,)),
        ("float32 gelu_tanh", "fp32", "gelu_tanh", False, (1,)),
        ("float32 gelu both signs", "fp32", "gelu", False, (1, -1)),
        ("bfloat16 gated silu both signs", "bf16", "silu", True, (1, -1)),
        ("float32 gated gelu_tanh", "fp32", "gelu_tanh", True, (1,)),
    ]
    found = []
    for name, dtype, act, gated, signs in variants:
        types = dict.fromkeys(("pre_ptr", "up_ptr", "out_ptr"), f"*{dtype}")
        types |= {"ids_ptr": "*i64", "block_max_ptr": "*fp32", "n_nan_ptr": "*i64"}
        types |= dict.fromkeys(("N", "T", "F"), "i32")
        types |= dict.fromkeys(("stride_pb", "stride_pt", "stride_ub", "stride_ut"), "i32")
        constants = {"stride_pf": 1, "stride_uf": 1, "ACT": act, "GATED": gated, "STORE": True}
        constants |= {"RANK_PRE": False, "MAX": 1 in signs, "MIN": -1 in signs}
        wide = gated or len(signs) == 2
        launch = _launch.FFN_CAPTURE_WIDE if wide else _launch.FFN_CAPTURE
        constants |= {"BLOCK_R": _launch.BLOCK_ROWS, "BLOCK_F": launch.block_f}
        kernel = ffn_capture._ffn_capture_kernel
        found.append(Spec(f"ffn_capture {name}", kernel, types, constants, launch, ("N", "T")))
    return found


def _append_specs() -> list[Spec]:
    kernels = {
        "topk_append": (topk_append._topk_append_kernel, _launch.TOPK_APPEND),
        "topk_append_unit": (topk_append._topk_append_unit_kernel, _launch.TOPK_APPEND_UNIT),
    }
    found = []
    for name, (kernel, launch) in kernels.items():
        for dtype in ("bf16", "fp32"):
            types = {"values_ptr": f"*{dtype}", "block_max_ptr": "*fp32", "ids_ptr": "*i64"}
            types |= {"threshold_ptr": "*i64", "candidates_ptr": "*i64", "counts_ptr": "*i32"}
            types |= dict.fromkeys(("first", "last", "N", "T", "F", "CAPACITY"), "i32")
            types |= dict.fromkeys(("stride_b", "stride_t"), "i32")
            constants = {"stride_f": 1, "SIGN": -1, "GROUP": topk_append.GROUP}
            constants |= {"BLOCK_R": _launch.BLOCK_ROWS, "BLOCK_F": launch.block_f}
            unaligned = ("first", "last", "N", "T")
            found.append(Spec(f"{name} {dtype}", kernel, types, constants, launch, unaligned))
    return found


def _merge_specs() -> list[Spec]:
    types = dict.fromkeys(("top_ptr", "threshold_ptr", "candidates_ptr"), "*i64")
    types |= {"counts_ptr": "*i32", "overflow_ptr": "*i32", "floor_key": "i64", "CAPACITY": "i32"}
    kernel = topk_merge._topk_merge_kernel
    return [
        Spec(
            f"topk_merge k={k}",
            kernel,
            types,
            {"K": k, "BLOCK_K": triton.next_power_of_2(k)},
            launch,
            ("floor_key",),
        )
        for k, launch in ((50, _launch.TOPK_MERGE), (128, _launch.TOPK_MERGE_WIDE))
    ]


def _vocab_specs() -> list[Spec]:
    found = []
    for x, weight, launch in (
        ("fp32", "fp32", _launch.VOCAB_FLOAT),
        ("fp32", "bf16", _launch.VOCAB_MIXED),
        ("bf16", "bf16", _launch.VOCAB_HALF),
    ):
        types = {"x_ptr": f"*{x}", "weight_ptr": f"*{weight}"}
        floats = ("bias", "highest", "lowest", "s", "u", "target_logits", "kept")
        types |= {f"{name}_ptr": "*fp32" for name in floats}
        types |= {f"{name}_ptr": "*i32" for name in ("targets", "best", "worst", "ranks", "slots")}
        types |= dict.fromkeys(("R", "V", "D", "N", "stride_xr", "stride_wv"), "i32")
        constants = {"stride_xd": 1, "stride_wd": 1, "HAS_BIAS": True, "WIDEN": x != weight}
        constants |= {"KEEP": True, "BLOCK_R": launch.block_r, "BLOCK_V": launch.block_v}
        constants |= {"BLOCK_D": launch.block_d}
        for name, kernel, budgets in (
            ("vocab_reduce", vocab_reduce._vocab_reduce_kernel, launch.budgets),
            ("vocab_rank", vocab_rank._vocab_rank_kernel, launch.rank_budgets),
        ):
            own = {key: value for key, value in types.items() if key in kernel.arg_names}
            fixed = {key: value for key, value in constants.items() if key in kernel.arg_names}
            variant, unaligned = launch._replace(budgets=budgets), ("R", "V", "N")
            found.append(Spec(f"{name} {x} x {weight}", kernel, own, fixed, variant, unaligned))
    return found


def _path_specs() -> list[Spec]:
    found = []
    for dtype in ("bf16", "fp32"):
        types = dict.fromkeys(("base_ptr", "step_ptr", "points_ptr"), f"*{dtype}")
        types |= {"source_ptr": "*i64", "alpha_ptr": "*fp32"}
        types |= dict.fromkeys(("R", "D", "stride_bs", "stride_ss"), "i32")
        launch = _launch.PATH_POINTS
        constants = {"stride_bd": 1, "stride_sd": 1, "BLOCK_R": _launch.PATH_ROWS}
        constants |= {"BLOCK_F": launch.block_f}
        kernel = path_points._path_points_kernel
        found.append(Spec(f"path_points {dtype}", kernel, types, constants, launch, ("R",)))

        types = {"gradients_ptr": f"*{dtype}", "starts_ptr": "*i64"}
        types |= {"weights_ptr": "*fp32", "sums_ptr": "*fp32", "D": "i32", "stride_gr": "i32"}
        launch = _launch.PATH_SUMS
        constants = {"stride_gd": 1, "BLOCK_F": launch.block_f}
        kernel = path_sums._path_sums_kernel
        found.append(Spec(f"path_sums {dtype}", kernel, types, constants, launch))
    return found
