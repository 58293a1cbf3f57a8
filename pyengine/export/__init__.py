"""Formats that other tools read."""

from importlib import import_module
from pathlib import Path
from typing import Any

from pyengine.errors import PyengineError

# By the type of the result: format -> (module, function), loaded on use.
FORMATS: dict[str, dict[str, tuple[str, str]]] = {
    "TriggerExamples": {
        "jsonl": ("pyengine.export.ff_layers", "export_jsonl"),
        "text": ("pyengine.export.ff_layers", "export_text"),
        "parquet": ("pyengine.export.parquet", "export_parquet"),
    },
    "Agreement": {
        "parquet": ("pyengine.export.agreement_tsv", "export_agreement_parquet"),
        "tsv": ("pyengine.export.agreement_tsv", "export_tsv"),
    },
    "Predictions": {
        "parquet": ("pyengine.export.parquet", "export_predictions_parquet"),
        "pandas-compat": ("pyengine.export.pandas_compat", "export_pandas_compat"),
    },
    "FactNeurons": {
        "neurons-json": ("pyengine.export.neurons_json", "export_neurons_json"),
        "parquet": ("pyengine.export.parquet", "export_fact_neurons_parquet"),
    },
}


def export(result: Any, format: str, path: str | Path) -> None:
    """Write a result in one of the formats that `FORMATS` lists for its type.

    Args:
        result: a `TriggerExamples`, `Agreement`, `Predictions` or `FactNeurons`.
        format: its name.
        path: the file to write (`text`: a new directory).

    Raises:
        PyengineError: for an unknown format, or a path that cannot be written.
    """
    known = FORMATS.get(type(result).__name__)
    if known is None:
        raise TypeError(f"expected one of {', '.join(FORMATS)}, got {type(result).__name__}")
    if format not in known:
        raise PyengineError(f"unknown format {format!r}; known are: {', '.join(known)}")
    module, name = known[format]
    getattr(import_module(module), name)(result, Path(path))
