"""Ways so slow or large that they get two batches only: ff-layers' search, and storing it all."""

import heapq
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from benchmarks._peers_common import Answer, Run, Setting
from benchmarks._peers_huggingface import hooked
from benchmarks._peers_pyengine import sentences

Heap = list[tuple[float, int, int]]  # value, -sentence, position; the worst first


def ff_layers(setting: Setting) -> Run:
    """Search as ff-layers does: sentence by sentence, in Python's own numbers and heaps.

    Every key's best position in a sentence competes with those of the sentences before; of equal
    values the earlier sentence stays. What ff-layers computes beside and throws away (every value
    over the vocabulary, each batch forwarded again) is left out; `python -m benchmarks values` has
    it. Its heaps are lists searched for their least; these are faster.
    """

    @torch.inference_mode()
    def run(ids: Tensor) -> Answer:
        heaps: list[list[Heap]] = [[] for _ in setting.hook_names]
        rows = sentences(ids)
        for number, row in enumerate(rows):
            found: dict[int, tuple[list[float], list[int]]] = {}

            def keep(layer: int, acts: Tensor, found: dict = found, n: int = len(row)) -> None:
                values, positions = acts[0, -n:].max(0)
                found[layer] = values.tolist(), positions.tolist()

            with hooked(setting, keep):
                for batch in setting.batches(row[None]):
                    setting.body(**batch.inputs)
            for layer, (values, positions) in found.items():
                heaps[layer] = heaps[layer] or [[] for _ in values]
                _push(heaps[layer], values, positions, number, setting.scale.k)
        best = [sorted(heap, reverse=True) for layer in heaps for heap in layer]
        values, order, positions = np.moveaxis(np.array(best), 2, 0)
        places = (-order * rows.shape[1] + positions).astype(np.int64)
        return Answer(torch.from_numpy(values).float(), torch.from_numpy(places))

    return run


def _push(
    heaps: list[Heap], values: list[float], positions: list[int], sentence: int, k: int
) -> None:
    for heap, value, position in zip(heaps, values, positions, strict=True):
        if len(heap) < k:
            heapq.heappush(heap, (value, -sentence, position))
        elif value > heap[0][0]:
            heapq.heapreplace(heap, (value, -sentence, position))


def store_all(setting: Setting) -> Run:
    """Store as delphi does: every coefficient above 0 with its place, in files; rank them after.

    A file per layer and batch; uint16 for sequence, position and dim (delphi takes the smallest
    type that fits, too), float32 for the coefficient, as all others have it.
    """

    @torch.inference_mode()
    def run(ids: Tensor) -> Answer:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for batch in setting.batches(ids):
                with hooked(setting, partial(_store, setting, folder, batch.first)):
                    setting.body(**batch.inputs)
            size = sum(file.stat().st_size for file in folder.iterdir())
            layers = [_rank(setting, folder, layer) for layer in range(len(setting.hook_names))]
        values, places = (torch.cat(parts) for parts in zip(*layers, strict=True))
        return Answer.of_places(values, places, size)

    return run


def _store(setting: Setting, folder: Path, first: int, layer: int, acts: Tensor) -> None:
    acts = setting.content(acts)
    where = acts.gt(0).nonzero()
    where[:, 0] += first
    locations = where.cpu().numpy().astype(np.uint16, order="C")
    dims = np.array(acts.shape[-1])
    tensors = {"locations": locations, "activations": acts[acts > 0].cpu().numpy(), "dims": dims}
    save_file(tensors, folder / f"{layer}-{first}.safetensors")


def _rank(setting: Setting, folder: Path, layer: int) -> tuple[Tensor, Tensor]:
    """Find the k best of every dim of a layer in its files; an id of -1 where there are fewer."""
    parts = [load_file(file) for file in sorted(folder.glob(f"{layer}-*.safetensors"))]
    acts = np.concatenate([part["activations"] for part in parts])
    sequences, positions, dims = np.concatenate([part["locations"] for part in parts]).T.astype(
        np.int64
    )
    order = np.lexsort((-acts, dims))
    n_dims, k = int(parts[0]["dims"]), setting.scale.k
    starts = np.searchsorted(dims[order], np.arange(n_dims + 1))
    at = starts[:-1, None] + np.arange(k)
    there = at < starts[1:, None]
    chosen = order[np.minimum(at, len(order) - 1)]
    places = sequences[chosen] * setting.scale.length + positions[chosen]
    return torch.from_numpy(acts[chosen]), torch.from_numpy(np.where(there, places, -1))
