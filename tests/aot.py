"""Compile every Triton kernel ahead of time and hold it to the budgets of the launch table.

Needs no GPU, CUDA toolkit or ROCm: the assemblers ship inside the triton wheel. Run as a process
of its own (`python tests/aot.py`): TRITON_INTERPRET must be unset before any kernel is decorated.

Measured registers, triton 3.9 (3.6); no spills; one column per target:

    variant                            sm_80      sm_90     gfx942
    ffn_capture bf16 gelu_tanh       86 (48)    82 (56)    36 (34)
    ffn_capture fp32 gelu_tanh       72 (69)    64 (64)    38 (36)
    ffn_capture fp32 gelu, 2 signs 115 (104)   89 (107)    62 (60)
    ffn_capture bf16 gated, 2 signs  95 (80)    80 (85)    44 (41)
    ffn_capture fp32 gated           64 (80)    64 (78)    54 (51)
    topk_append bf16               128 (142)  128 (128)   96 (104)
    topk_append fp32                94 (128)   96 (128)   90 (105)
    topk_append_unit bf16            80 (80)    80 (72)    64 (64)
    topk_append_unit fp32            64 (56)    56 (54)    64 (64)
    topk_merge k=50                  46 (55)    52 (54)    20 (64)
    topk_merge k=128                 61 (64)    64 (62)    32 (78)
    vocab_reduce fp32 x fp32       196 (195)  181 (180)   99 (102)
    vocab_rank fp32 x fp32         157 (164)  172 (242)    72 (72)
    vocab_reduce fp32 x bf16       202 (202)  200 (206)    84 (88)
    vocab_rank fp32 x bf16         204 (198)  196 (198)    89 (96)
    vocab_reduce bf16 x bf16       204 (198)  177 (191)   98 (101)
    vocab_rank bf16 x bf16         128 (128)  179 (249)    89 (96)
    path_points bf16                 32 (32)    32 (32)    26 (25)
    path_points fp32                 44 (44)    40 (40)    18 (30)
    path_sums bf16                   54 (54)    54 (54)    26 (26)
    path_sums fp32                   64 (64)    57 (57)    26 (24)
"""

import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

os.environ.pop("TRITON_INTERPRET", None)

import triton
import triton.backends.nvidia
from aot_specs import Spec, specs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pyengine.kernels._launch import VocabLaunch

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
NVIDIA_TOOLS = Path(triton.backends.nvidia.__file__).parent / "bin"


class Usage(NamedTuple):
    """What the assembler reports, per thread and per program."""

    registers: int
    spilled: int
    shared_bytes: int


def measure(spec: Spec, target: str) -> Usage:
    """Compile `spec` for `target` and return what it uses."""
    names = spec.kernel.arg_names
    missing = set(names) - set(spec.types) - set(spec.constants)
    assert not missing, f"{spec.name}: no type for {sorted(missing)}"
    aligned = [n for n in spec.types if n not in spec.unaligned]
    source = ASTSource(
        fn=spec.kernel,
        signature={name: spec.types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in spec.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": spec.launch.num_warps}
    if isinstance(spec.launch, VocabLaunch):
        options["num_stages"] = spec.launch.num_stages
    compiled = triton.compile(source, target=TARGETS[target], options=options)
    if target.startswith("gfx"):
        return _amd_usage(compiled.asm["amdgcn"], compiled.metadata.shared)
    return _nvidia_usage(compiled.asm["ptx"], compiled.metadata.shared, target)


def _nvidia_usage(ptx: str, shared_bytes: int, target: str) -> Usage:
    """Assemble with the ptxas that triton itself would pick: the other one may reject the PTX."""
    from triton.backends.nvidia import compiler

    arch = re.search(r"\.target (sm_\w+)", ptx)
    assert arch, "no target in the PTX"
    if hasattr(compiler, "get_ptxas"):
        ptxas = compiler.get_ptxas(TARGETS[target].arch).path
    else:
        ptxas = NVIDIA_TOOLS / "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [ptxas, "-v", f"--gpu-name={arch[1]}", path, "-o", path.with_suffix(".cubin")]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = _number(r"(\d+) bytes spill stores", report), _number(r"(\d+) bytes spill", report)
    return Usage(_number(r"Used (\d+) registers", report), max(spills), shared_bytes)


def _amd_usage(assembly: str, shared_bytes: int) -> Usage:
    spills = [_number(rf"\.{kind}_spill_count:\s+(\d+)", assembly) for kind in ("vgpr", "sgpr")]
    spills.append(_number(r"\.private_segment_fixed_size:\s+(\d+)", assembly))
    return Usage(_number(r"\.vgpr_count:\s+(\d+)", assembly), max(spills), shared_bytes)


def _number(pattern: str, report: str) -> int:
    """Return the number that `pattern` finds; a report without it must never pass for zero."""
    found = re.search(pattern, report)
    assert found, f"the tool reported no '{pattern}': {report[:300]!r}"
    return int(found[1])


def main() -> int:
    """Print one line per compilation and return the number of broken budgets."""
    warnings.simplefilter("ignore")
    broken = 0
    for spec in specs():
        for target in TARGETS:
            usage, budget = measure(spec, target), spec.launch.budgets[target]
            registers, shared_bytes = budget
            fits = usage.registers <= registers and usage.shared_bytes <= shared_bytes
            good = fits and usage.registers > 0 and usage.spilled == 0
            broken += not good
            print(
                f"{'ok  ' if good else 'FAIL'} {spec.name:40s} {target:7s}"
                f" registers {usage.registers}/{registers} spilled {usage.spilled}"
                f" shared {usage.shared_bytes}/{shared_bytes}",
                flush=True,
            )
    return broken


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
