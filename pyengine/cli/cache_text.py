"""`pyengine cache MODEL --text ...`: run texts, show and save what was kept."""

import json
from pathlib import Path
from typing import Any

from pyengine.activation_cache import ActivationCache
from pyengine.analyses.cached_activations_settings import size_text
from pyengine.cache_files import save_cache
from pyengine.cli.cache_view import print_tokens, print_values, site_values
from pyengine.cli.display import err
from pyengine.hooked import run_with_cache
from pyengine.model_inputs import ModelInputs, model_inputs
from pyengine.models import Model


def cache_text(
    model: Model,
    texts: list[str],
    path: Path | None,
    as_json: bool,
    *,
    target: list[str] | None,
    padding: str,
    overlong: str,
    **kept: Any,
) -> None:
    """Run texts, print a row per site that was kept, and write the file if there is to be one.

    Args:
        model: the model.
        texts: what it reads.
        path: the file, or None.
        as_json: print JSON instead of tables.
        target, padding, overlong: as `pyengine.model_inputs.model_inputs` takes them.
        kept: what to keep, as `pyengine.run_with_cache` takes it.
    """
    read = model_inputs(model, texts, target=target, padding=padding, overlong=overlong)
    _, cache = run_with_cache(model, read.kwargs, padding=padding, return_type=None, **kept)
    if path is not None:
        save_cache(cache, path, inputs=read.kwargs)
    if as_json:
        print(json.dumps(_summary(cache, read, path)))
        return
    print_tokens(model, read)
    print_values(cache, read)
    if path is not None:
        err.print(f"{len(cache)} sites, {size_text(cache.nbytes)} → {path}")


def _summary(cache: ActivationCache, read: ModelInputs, path: Path | None) -> dict[str, Any]:
    return {
        "file": None if path is None else str(path),
        "inputs": {name: ids.tolist() for name, ids in read.kwargs.items()},
        "rows": read.rows,
        "sites": [{"name": name, **site_values(value)} for name, value in cache.items()],
    }
