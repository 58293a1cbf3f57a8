"""OpenAI's automated-interpretability: a `NeuronRecord` per neuron, as its `load_neuron` reads it.

https://github.com/openai/automated-interpretability, neuron_explainer/activations/activations.py.
"""

import json
from pathlib import Path
from typing import Any

from pyengine.analyses.trigger_result import TriggerExamples
from pyengine.export.unit_records import Neuron, Record, neurons_by_layer
from pyengine.files import atomic_folder


def export_neuron_records(triggers: TriggerExamples, folder: Path, model: Any) -> None:
    """Write `FOLDER/{layer}/{dim}.json` per key of the run.

    `most_positive_activation_records` holds every unit that the key keeps once, in order of its
    best score, with all its content tokens and their activations. What a run does not hold is left
    as empty as the format allows: no random samples, moments and quantiles null. `layer_index`
    counts through T5's encoder, then its decoder. A run of both directions gives its maxima.
    Activations are float32, written so that reading them gives the same number. On one machine the
    same run gives the same bytes.

    Args:
        triggers: the run.
        folder: a new directory.
        model: the run's; see `pyengine.export.unit_activations`.

    Raises:
        PyengineError: for a run of minima, without the run's model, for an activation that JSON
            cannot hold (infinity, NaN), or if the folder exists already and is not empty.
    """

    def write(temporary: Path) -> None:
        for layer, neurons in neurons_by_layer(triggers, model, "a NeuronRecord"):
            (temporary / str(layer)).mkdir()
            for neuron in neurons:
                file = temporary / str(layer) / f"{neuron.dim}.json"
                text = json.dumps(_neuron(neuron), ensure_ascii=False, separators=(",", ":"))
                file.write_text(text, encoding="utf-8")

    atomic_folder(folder, write)


def _neuron(neuron: Neuron) -> dict[str, Any]:
    by_unit = {record.unit: record for record in neuron.records}  # in order of first appearance
    return {
        "dataclass_name": "NeuronRecord",
        "neuron_id": {
            "dataclass_name": "NeuronId",
            "layer_index": neuron.layer,
            "neuron_index": neuron.dim,
        },
        "random_sample": [],
        "random_sample_by_quantile": None,
        "quantile_boundaries": None,
        "mean": None,
        "variance": None,
        "skewness": None,
        "kurtosis": None,
        "most_positive_activation_records": [_activations(record) for record in by_unit.values()],
    }


def _activations(record: Record) -> dict[str, Any]:
    return {
        "dataclass_name": "ActivationRecord",
        "tokens": record.tokens,
        "activations": record.activations,
    }
