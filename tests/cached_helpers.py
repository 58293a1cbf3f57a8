"""What the tests of cached activations share."""

import hashlib
from pathlib import Path
from typing import Any

from prediction_helpers import run_units
from tiny_models import tiny_model

from pyengine import Corpus, load
from pyengine.analyses.cached_activations import cache_activations
from pyengine.analyses.cached_activations_result import CachedActivations

UNITS = run_units(40)
SETTINGS: dict[str, Any] = {"batch_tokens": 48, "block_tokens": 60}
POST = "*.mlp.hook_post"


def cached(out: Path, family: str = "gpt2", names: Any = POST, **more: Any) -> CachedActivations:
    model = more.pop("model", None) or load((tiny_model(family), None))
    corpus = more.pop("corpus", Corpus.from_token_ids(UNITS))
    return cache_activations(model, corpus, names, out=out, **SETTINGS | more)


def hashes(run: Path) -> dict[str, str]:
    """Checksums of the results, after checking that nothing else lies around."""
    files = {str(path.relative_to(run)): path for path in run.rglob("*") if path.is_file()}
    assert {"manifest.json", "provenance.json", "index.parquet"} <= files.keys()
    tensors = {name for name in files if name.startswith("activations/")}
    results = tensors | {"index.parquet"}
    assert files.keys() - results <= {"manifest.json", "provenance.json", "tokenizer.json"}
    return {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in results}
