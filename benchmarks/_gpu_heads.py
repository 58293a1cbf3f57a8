"""Probes of GPT-2 small's 144 heads on a GPU, on a task of SentEval's size."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks._gpu_common import Found, Job, Line, Scale, synchronize
from benchmarks._heads_common import Scale as Sizes
from benchmarks._heads_probe import probe_flops
from benchmarks._values_common import duration
from pyengine.heads.probe.protocols import Probed, probe_classes
from pyengine.heads.task import SPLIT

SINGLE = 60e12  # FLOP/s of an H100 in float32
FULL = Sizes(n_train=100_000, n_dev=10_000, n_test=10_000)
TINY = Sizes(n_train=120, n_dev=40, n_test=40, heads=3, width=8, n_classes=3, tiny=True)
PROBE, SAME = "probes, 144 heads x 4 regularisers", "probes as on the CPU"
POINTS = 2.0  # of accuracy: sums are rounded otherwise, and a look may turn out otherwise


def jobs(scale: Scale) -> Iterator[Job]:
    """Yield the measurements."""
    sizes = TINY if scale.tiny else FULL
    yield PROBE, partial(probe, scale, sizes)
    yield SAME, partial(same, scale, replace(sizes, n_train=sizes.n_train // 20, heads=3))


def probe(scale: Scale, sizes: Sizes) -> Found:
    """Time all probes, from vectors in the host's memory to test accuracies."""
    _probed(replace(sizes, n_train=100, n_dev=50, n_test=50), scale.device)  # warms up
    seconds, found = _probed(sizes, scale.device)
    flops = probe_flops(sizes, found)
    epochs, n = int(found.epochs.sum()), sizes.n_train
    line = Line(f"{PROBE}, {n:,} sentences", duration(seconds), duration(flops / SINGLE))
    figures = {"s": seconds, "flops": flops, "floor_s": flops / SINGLE, "epochs": epochs}
    return [line], figures | {"sentences": n}


def same(scale: Scale, sizes: Sizes) -> Found:
    """Compare accuracies with those on the CPU."""
    (_, here), (_, there) = _probed(sizes, scale.device), _probed(sizes, "cpu")
    apart = max(
        float(np.abs(here.dev - there.dev).max()), float(np.abs(here.test - there.test).max())
    )
    good = "ok" if apart <= POINTS else "FAILED"
    line = Line(SAME, f"at most {apart:.2f} points apart", "", f"<= {POINTS:g}", good)
    return [line], {"points_apart": apart}


def _probed(sizes: Sizes, device: str) -> tuple[float, Probed]:
    x, parts = sizes.drawn()
    begun = time.perf_counter()
    found = probe_classes(x, parts, sizes.n_classes, SPLIT, sizes.settings, device)
    synchronize(torch.device(device))
    return time.perf_counter() - begun, found
