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
        "openai": ("pyengine.export.neuron_record", "export_neuron_records"),
        "delphi": ("pyengine.export.delphi", "export_delphi"),
        "neuronpedia": ("pyengine.export.neuronpedia", "export_neuronpedia"),
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
    "HeadBank": {"parquet": ("pyengine.export.head_vectors", "export_bank_parquet")},
}

# These also read the model of the run.
NEED_MODEL = frozenset({"openai", "neuronpedia"})


def export(result: Any, format: str, path: str | Path, *, model: Any = None) -> None:
    """Write a result in one of the formats that `FORMATS` lists for its type.

    Args:
        result: a `TriggerExamples`, `Agreement`, `Predictions`, `FactNeurons` or
            `HeadBank`.
        format: its name.
        path: the file to write (`text`, `openai`, `delphi`, `neuronpedia`: a new directory).
        model: what `pyengine.load` takes, for `openai` and `neuronpedia`: the run's model, which
            gives the activations that the run does not hold.

    Raises:
        PyengineError: for another result, an unknown format, a model where none is read, another
            model than the run's, or a path that cannot be written.
    """
    known = FORMATS.get(type(result).__name__)
    if known is None:
        raise PyengineError(
            f"a result of type {type(result).__name__} is not exported; {', '.join(FORMATS)} are"
        )
    if format not in known:
        raise PyengineError(f"unknown format {format!r}; known are: {', '.join(known)}")
    module, name = known[format]
    write = getattr(import_module(module), name)
    if format in NEED_MODEL:
        write(result, Path(path), model)
    elif model is None:
        write(result, Path(path))
    else:
        raise PyengineError(f"{format} is written from the run alone; leave the model out")
