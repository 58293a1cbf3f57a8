"""Each kernel against the bytes that it has to move, at the bandwidth of a plain copy."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks._gpu_common import Found, Job, Line, Scale, timed, verdict
from pyengine import ops

K = 50
UNIT_TOKENS = 32
ALREADY_SEEN = 1 << 40  # competitors: warm heaps are never merged in between
NODES = 20  # points per path
CAPTURE_SHARE = 0.93  # of the copy bandwidth
APPEND_SECONDS, MERGE_SECONDS = 30e-6, 15e-6  # all layers of an 8,192-token batch
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def jobs(scale: Scale) -> Iterator[Job]:
    """Yield the measurements; the copy comes first, since the others are shares of it."""
    device = torch.device(scale.device)
    bandwidth = copy_bandwidth(device, scale)
    yield "copy", lambda: ([Line("plain copy", f"{bandwidth / 1e9:.0f} GB/s")], bandwidth)
    for n_tokens in scale.batch_tokens:
        for width in scale.widths:
            for dtype in DTYPES:
                for kind in ("torch gelu", "ffn_capture", "ffn_capture gated", "block max only"):
                    name = f"{kind} {dtype} {n_tokens} x {width}"
                    case = partial(capture, kind, name, dtype, n_tokens, width, scale, bandwidth)
                    yield name, case
            for per_unit in (True, False):
                name = f"topk_append per {'unit' if per_unit else 'token'} {n_tokens} x {width}"
                yield name, partial(append, name, per_unit, n_tokens, width, scale, bandwidth)
    for width in scale.widths:
        for pending in (0, 8):
            name = f"topk_merge {scale.n_layers * width} keys, {pending} pending each"
            yield name, partial(merge, name, pending, width, scale, bandwidth)
        for dtype in DTYPES:
            for kind, run in (("path_points", path_points), ("path_sums", path_sums)):
                name = f"{kind} {dtype}, {scale.batch_tokens[0]} rows x {width}"
                yield name, partial(run, name, dtype, width, scale, bandwidth)


def copy_bandwidth(device: torch.device, scale: Scale) -> float:
    """Return the bytes per second, read and written, of a copy of 1 GiB: the machine's peak."""
    source = torch.zeros(1 << (20 if scale.tiny else 30), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    seconds = timed(lambda: target.copy_(source), device, scale.rounds).device_s
    return 2 * source.numel() / seconds


def capture(
    kind: str,
    name: str,
    dtype: str,
    n_tokens: int,
    width: int,
    scale: Scale,
    bandwidth: float,
) -> Found:
    """Time the activation of one layer, with and without what the capture adds to it.

    Bytes: read `pre` (and `up`), write the output (torch and capture), write the block maxima
    (capture), read the ids.
    """
    pre, rows = _batch(n_tokens, width, DTYPES[dtype], scale.device)
    up = torch.randn_like(pre) if kind == "ffn_capture gated" else None
    act = "identity" if kind == "block max only" else "gelu_tanh"
    n_bytes = pre.nbytes * {"ffn_capture gated": 3, "block max only": 1}.get(kind, 2)

    run: Callable[[], object] = partial(ops.ffn_capture, pre, rows, act=act, up=up)
    if kind == "torch gelu":
        run = partial(torch.nn.functional.gelu, pre, approximate="tanh")
    else:
        captured = ops.ffn_capture(pre, rows, act=act, up=up)
        n_bytes += captured.block_max.nbytes + rows.ids.nbytes
    target = CAPTURE_SHARE if kind.startswith("ffn_capture") else None
    return _against_floor(name, run, n_bytes, scale, bandwidth, share_target=target)


def append(
    name: str, per_unit: bool, n_tokens: int, width: int, scale: Scale, bandwidth: float
) -> Found:
    """Time warm folds of a batch into every layer: the thresholds let nothing through.

    Bytes: read the block maxima and the thresholds.
    """
    values, rows = _batch(n_tokens, width, torch.bfloat16, scale.device)
    state = _state(scale, width, per_unit)
    best = ops.pack(torch.full((K,), 1e30), torch.arange(K))
    state.load(best.to(scale.device).expand(state.n_keys, K))
    block_max = ops.ffn_capture(values, rows, act="identity").block_max[0]
    maxima = [block_max.clone() for _ in range(scale.n_layers)]

    def run() -> None:
        for layer, here in enumerate(maxima):
            first_key = layer * width
            ops.topk_fold(state, values, here, rows, first_key=first_key, seen=ALREADY_SEEN)

    n_bytes = scale.n_layers * block_max.nbytes + state.threshold.nbytes
    target = APPEND_SECONDS if (n_tokens, width) == (8192, 3072) else None
    return _against_floor(name, run, n_bytes, scale, bandwidth, seconds_target=target)


def merge(name: str, pending: int, width: int, scale: Scale, bandwidth: float) -> Found:
    """Time one merge of all keys.

    Bytes: read a count per key; where something is pending, also read it, and read and write the
    key's top.
    """
    state = _state(scale, width, per_unit=True)
    on_device = state.backend == "triton"  # the CPU merges while it folds
    if on_device:
        scores = torch.randn(state.n_keys, pending, device=scale.device)
        ids = torch.arange(pending, device=scale.device).expand_as(scores)
        state.candidates[:, :pending] = ops.pack(scores, ids)

    def prepare() -> None:
        if on_device:
            state.counts.fill_(pending)

    n_bytes = state.n_keys * (4 + (8 * pending + 16 * K if pending else 0))
    target = MERGE_SECONDS if width == 3072 and not pending else None
    run = partial(ops.topk_flush, state)
    found = _against_floor(
        name, run, n_bytes, scale, bandwidth, seconds_target=target, prepare=prepare
    )
    if on_device and state.overflow.item():
        raise RuntimeError("the merge reports an overflow that cannot be")
    return found


def path_points(name: str, dtype: str, width: int, scale: Scale, bandwidth: float) -> Found:
    """Time points on paths of 20 nodes, with the check of their sources.

    Bytes: read the starts and steps once, and source and alpha; write the points.
    """
    source, alpha = _nodes(scale)
    base = torch.randn(int(source[-1]) + 1, width, device=scale.device).to(DTYPES[dtype])
    step = torch.randn_like(base)
    points = ops.path_points(base, step, source, alpha)
    n_bytes = 2 * base.nbytes + source.nbytes + alpha.nbytes + points.nbytes
    run = partial(ops.path_points, base, step, source, alpha)
    return _against_floor(name, run, n_bytes, scale, bandwidth)


def path_sums(name: str, dtype: str, width: int, scale: Scale, bandwidth: float) -> Found:
    """Time weighted sums over paths of 20 nodes, with the check of their sources.

    Bytes: read the gradients once, and source and weights; write the sums.
    """
    source, weights = _nodes(scale)
    n_sources = int(source[-1]) + 1
    gradients = torch.randn(len(source), width, device=scale.device).to(DTYPES[dtype])
    sums = ops.path_sums(gradients, source, weights, n_sources)
    n_bytes = gradients.nbytes + source.nbytes + weights.nbytes + sums.nbytes
    run = partial(ops.path_sums, gradients, source, weights, n_sources)
    return _against_floor(name, run, n_bytes, scale, bandwidth)


def _nodes(scale: Scale) -> tuple[Tensor, Tensor]:
    """Return the sources of a batch of nodes and a number for each."""
    row = torch.arange(scale.batch_tokens[0], device=scale.device)
    return row // NODES, torch.rand(len(row), device=scale.device)


def _against_floor(
    name: str,
    run: Callable[[], object],
    n_bytes: int,
    scale: Scale,
    bandwidth: float,
    *,
    share_target: float | None = None,
    seconds_target: float | None = None,
    prepare: Callable[[], object] = lambda: None,
) -> Found:
    times = timed(run, torch.device(scale.device), scale.rounds, prepare)
    rate = n_bytes / times.device_s
    share = rate / bandwidth
    target = judged = ""
    if share_target is not None:
        target, judged = f"{share_target:.0%}", verdict(share >= share_target)
    if seconds_target is not None:
        target = f"{seconds_target * 1e6:.0f} us"
        judged = verdict(times.device_s <= seconds_target)
    measured = f"{times.device_s * 1e6:.1f} us, {rate / 1e9:.0f} GB/s, {share:.0%} of copy"
    floor = f"{n_bytes / bandwidth * 1e6:.1f} us"
    figures = times._asdict() | {"bytes": n_bytes, "share_of_copy": share}
    return [Line(name, measured, floor, target, judged)], figures


def _batch(n_tokens: int, width: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ops.Rows]:
    ids = torch.arange(n_tokens, device=device).view(-1, UNIT_TOKENS)
    return torch.randn(*ids.shape, width, device=device).to(dtype), ops.Rows(ids)


def _state(scale: Scale, width: int, per_unit: bool) -> ops.TopKState:
    return ops.TopKState(scale.n_layers * width, K, device=scale.device, per_unit=per_unit)
