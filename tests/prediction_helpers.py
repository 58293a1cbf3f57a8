"""What the tests of predictions share: units, models and calls."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from tiny_models import VOCAB, tiny_model

import pyengine
from pyengine import Corpus
from pyengine.analyses.predictions import ffn_predictions
from pyengine.embedded import MODEL
from pyengine.store import tokenize

FOLDERS = {name: Path(__file__).parent / "models" / name for name in ("bert", "gpt_neo", "t5")} | {
    "gpt2": MODEL
}


def random_units(n: int = 9, longest: int = 12, seed: int = 0) -> list[list[int]]:
    """Units of random length; the first has one token."""
    rng = np.random.default_rng(seed)
    units = [rng.integers(1, VOCAB, rng.integers(1, longest)).tolist() for _ in range(n)]
    return [[7], *units]


def batching(family: str) -> dict[str, Any]:
    """GPT-Neo's attention is in float32 also in float64 models: only equal shapes agree there."""
    return {"batch_tokens": 1 if family == "gpt_neo" else 40, "block_tokens": 60}


def predict(hf: Any, units: list[list[int]], mode: str = "layer", **settings: Any) -> Any:
    model = pyengine.load((hf, None))
    return ffn_predictions(model, Corpus.from_token_ids(units), mode, **settings)


def trained_units(model: pyengine.Model, corpus: Corpus) -> tuple[list[list[int]], dict[str, Any]]:
    """Return the tokens of a corpus and what the tokenizer puts around them."""
    store = tokenize(corpus, model.tokenizer, max_tokens=100)
    units = [store.unit_tokens(unit).tolist() for unit in range(store.n_units)]
    ids: Any = model.tokenizer.convert_tokens_to_ids  # type: ignore[union-attr]
    kind = model.family.model_type
    prefix = (ids("[CLS]"),) if kind == "bert" else ()
    suffix = {"bert": (ids("[SEP]"),), "t5": (ids("</s>"),)}.get(kind, ())
    return units, {"prefix": prefix, "suffix": suffix}


SETTINGS: dict[str, Any] = {"position": "all", "batch_tokens": 48, "block_tokens": 60}
MODES: dict[str, dict[str, Any]] = {
    "layer": {"mode": "layer", "output_dist": True},
    "value": {"mode": "value", "n": 4, "all_values": True},
}


def run_units(n: int = 60, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, VOCAB, rng.integers(1, 14)).tolist() for _ in range(n)]


def search(out: Path | None, family: str = "gpt2", seed: int = 0, **more: Any) -> Any:
    model = pyengine.load((tiny_model(family, seed), None))
    corpus = more.pop("corpus", Corpus.from_token_ids(run_units()))
    return ffn_predictions(model, corpus, out=out, **SETTINGS | more)


def result_hashes(run: Path) -> dict[str, str]:
    """Return the checksums of a run's results, after checking that nothing else lies around."""
    names = {"predictions.parquet", "examples.parquet", "output_dist.npy"}
    found = {file.name for file in run.iterdir()}
    assert found - names == {"manifest.json", "provenance.json"}
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names & found}
