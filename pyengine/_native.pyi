from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

def merge_heaps(
    scores: Sequence[NDArray[np.float32]],
    ids: Sequence[NDArray[np.int64]],
    k: int,
    unit_starts: NDArray[np.int64] | None = None,
    largest: bool = True,
    n_threads: int = 0,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...
def summarize_rows(
    logits: NDArray[np.float32] | NDArray[np.float64],
    targets: NDArray[np.int64],
    n_threads: int = 0,
) -> tuple[
    NDArray, NDArray, NDArray, NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]
]: ...
def fold_topk(
    heaps: Mapping[str, NDArray],
    undo: Mapping[str, NDArray],
    values: NDArray[np.float32],
    ids: NDArray[np.int64],
    k: int,
    sign: int = 1,
    per_unit: bool = False,
    n_threads: int = 1,
) -> int: ...
def best_entries(heaps: Mapping[str, NDArray], k: int, n_threads: int = 1) -> NDArray[np.int64]: ...
def gelu_tanh(
    values: NDArray[np.float32],
    ids: NDArray[np.int64],
    out: NDArray[np.float32],
    n_threads: int = 1,
) -> int: ...
