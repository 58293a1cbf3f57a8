"""Whole searches through the interpreted Triton path, beside the torch path.

Run in a process of its own with TRITON_INTERPRET=1. Prints one `ok` line per case.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from tiny_models import VOCAB, tiny_model

import pyengine
from pyengine.analyses.compare import compare

CASES: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"per": "unit"}),
    ("bert", {"per": "token", "sign": "both", "dims": [0, 5, 6]}),
    ("gpt_neo", {"per": "prefix", "activation": "model", "layers": [1]}),
    ("t5_gated", {"value": "pre", "floor": 0.0}),
    ("t5", {"per": "unit", "layers": [3, 4]}),
]


def search(backend: str, family: str, settings: dict[str, Any]) -> pyengine.TriggerExamples:
    """Search with one backend."""
    os.environ["PYENGINE_BACKEND"] = backend
    rng = np.random.default_rng(0)
    units = [rng.integers(1, VOCAB, rng.integers(1, 9)).tolist() for _ in range(8)]
    model = pyengine.load((tiny_model(family), None))
    corpus = pyengine.Corpus.from_token_ids(units)
    return pyengine.trigger_examples(model, corpus, k=3, batch_tokens=40, **settings)


def main() -> None:
    """Compare the two paths, case by case."""
    torch.set_num_threads(1)
    for family, settings in CASES:
        kernel, torch_path = (search(backend, family, settings) for backend in ("triton", "torch"))
        for layer in compare(kernel, torch_path):
            assert layer.band < 1e-5 and layer.score_difference < 1e-4, (family, layer)
        print("ok", family, flush=True)


if __name__ == "__main__":
    main()
