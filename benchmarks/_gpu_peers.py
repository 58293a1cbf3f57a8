"""The peers on the GPU: hooks with `torch.topk`, TransformerLens, nnsight and ff-layers' search."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec

from benchmarks._gpu_common import Found, Job, Line, Scale
from benchmarks._peers_common import NAMES
from benchmarks._peers_common import Scale as Sizes
from benchmarks._peers_rounds import (
    BODY,
    FF_LAYERS,
    FUSED,
    MODEL,
    NNSIGHT,
    TOPK,
    TRANSFORMER_LENS,
)
from benchmarks._peers_targets import measure

FULL = Sizes(sequences=512, batch=64, rounds=3)
TINY = Sizes(sequences=6, length=12, batch=2, k=3, rounds=1, tiny=True)
CASES = (BODY, TOPK, TRANSFORMER_LENS, NNSIGHT, MODEL, FUSED, FF_LAYERS)
PACKAGES = {TRANSFORMER_LENS: "transformer_lens", NNSIGHT: "nnsight"}


def jobs(scale: Scale) -> Iterator[Job]:
    """Yield a comparison per family, in float32."""
    for family in (family for family in NAMES if family in scale.families):
        yield f"peers {family}", partial(peers, family, scale)


def peers(family: str, scale: Scale) -> Found:
    """Run the cases in turn; a tool that is not installed is left out, and named."""
    sizes = replace(TINY if scale.tiny else FULL, device=scale.device)
    absent = [case for case, name in PACKAGES.items() if find_spec(name) is None]
    found, figures = measure(family, sizes, [case for case in CASES if case not in absent])
    lines = [
        Line(
            line.what,
            " ".join(filter(None, (line.ratio, line.measured))),
            line.beside,
            line.target,
            "FAILED" if line.verdict == "WRONG" else line.verdict,
        )
        for line in found
    ]
    lines += [Line(f"  {case}", "not installed") for case in absent]
    installed = {name for case, name in PACKAGES.items() if case not in absent}
    return lines, figures | {"versions": {name: version(name) for name in installed}}
