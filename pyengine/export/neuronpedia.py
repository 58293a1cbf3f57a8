"""Neuronpedia's bulk import: gzipped JSON lines, one per neuron and one per kept example.

Folders and columns are those that SAEDashboard's neuronpedia_export.py writes and Neuronpedia's
import reads (apps/webapp/prisma/schema.prisma); columns left out take the database's default.
https://github.com/jbloomAus/SAEDashboard, https://github.com/hijohnnylin/neuronpedia.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from pyengine.analyses.trigger_result import TriggerExamples
from pyengine.export.unit_records import Neuron, Record, neurons_by_layer
from pyengine.files import atomic_folder

NEURONS_PER_FILE = 1024

# Neuronpedia names a source of neurons by its layer alone, and puts it into this set.
SOURCE_SET = "neurons"
# The user to whom Neuronpedia's own tools ascribe what has no other author; its database has it.
CREATOR = "clkht01d40000jv08hvalcvly"
# Instead of an interval of a histogram: these are the top activations.
TOP = -1.0


def export_neuronpedia(triggers: TriggerExamples, folder: Path, model: Any) -> None:
    """Write `FOLDER/{model}/{layer}/`, each a source that Neuronpedia imports.

    A source has `model.jsonl`, `sourceset.jsonl`, `source.jsonl`, and per 1024 neurons
    `features/batch-{n}.jsonl.gz` and `activations/batch-{n}.jsonl.gz`: a row per kept example,
    best first, with all the content tokens of its unit; `qualifyingTokenIndex` is the position
    kept, `dataIndex` the unit. `{model}` is the last part of the model's name in lower case.
    `{layer}` counts through T5's encoder, then its decoder. A run of both directions gives its
    maxima. Ids are hashes of what they name, so that importing twice adds nothing. Activations
    are float32, written so that reading them gives the same number. On one machine the same run
    gives the same bytes.

    Args:
        triggers: the run.
        folder: a new directory.
        model: the run's; see `pyengine.export.unit_activations`.

    Raises:
        PyengineError: for a run of minima, without the run's model, for an activation that JSON
            cannot hold (infinity, NaN), or if the folder exists already and is not empty.
    """
    manifest, name = triggers.manifest, model_id(triggers)

    def write(temporary: Path) -> None:
        for layer, neurons in neurons_by_layer(triggers, model, "Neuronpedia's import"):
            source = temporary / name / str(layer)
            for part in ("features", "activations"):
                (source / part).mkdir(parents=True)
            for part, row in _about(manifest, name, layer).items():
                (source / f"{part}.jsonl").write_bytes(_line(row))
            for number in count():
                some = list(islice(neurons, NEURONS_PER_FILE))
                if not some:
                    break
                file = f"batch-{number}.jsonl.gz"
                _write(source / "features" / file, (_feature(name, neuron) for neuron in some))
                rows = chain.from_iterable(_activations(manifest, name, neuron) for neuron in some)
                _write(source / "activations" / file, rows)

    atomic_folder(folder, write)


def model_id(triggers: TriggerExamples) -> str:
    """Return the model's name as Neuronpedia writes ids: lower case, digits, `-` and `_`."""
    name = triggers.manifest["model"]["name"].rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower())


def _about(manifest: dict[str, Any], name: str, layer: int) -> dict[str, dict[str, Any]]:
    """Return the one row of each file that describes a source."""
    made, corpus, question = (manifest[part] for part in ("model", "corpus", "question"))
    asked = f"the {question['k']} largest {question['value']}-activation coefficients of each key"
    common = {"creatorId": CREATOR, "visibility": "PUBLIC"}
    return {
        "model": {
            "id": name,
            "displayName": made["name"],
            "displayNameShort": made["name"],
            "layers": made["n_layers"],
            "neuronsPerLayer": made["d_ff"],
            "owner": "",
            **common,
        },
        "sourceset": {
            "modelId": name,
            "name": SOURCE_SET,
            "description": asked,
            "type": SOURCE_SET,
            "creatorName": "pyengine",
            "urls": [],
            **common,
        },
        "source": {
            "modelId": name,
            "id": str(layer),
            "setName": SOURCE_SET,
            "dataset": corpus["source"],
            "num_prompts": corpus["n_units"],
            "notes": asked,
            **common,
        },
    }


def _key(name: str, neuron: Neuron) -> dict[str, str]:
    return {"modelId": name, "layer": str(neuron.layer), "index": str(neuron.dim)}


def _feature(name: str, neuron: Neuron) -> dict[str, Any]:
    return {
        **_key(name, neuron),
        "sourceSetName": SOURCE_SET,
        "creatorId": CREATOR,
        "maxActApprox": max([0.0, *(max(record.activations) for record in neuron.records)]),
        "hasVector": False,
    }


def _activations(manifest: dict[str, Any], name: str, neuron: Neuron) -> Iterator[dict[str, Any]]:
    for rank, record in enumerate(neuron.records):
        values, best = record.activations, neuron.records[0]
        yield {
            "id": _id(manifest, neuron, rank, record),
            **_key(name, neuron),
            "tokens": record.tokens,
            "values": values,
            "maxValue": max(values),
            "maxValueTokenIndex": values.index(max(values)),
            "minValue": min(values),
            "qualifyingTokenIndex": record.position,
            "binMin": TOP,
            "binMax": best.activations[best.position],
            "binContains": TOP,
            "dataIndex": str(record.unit),
            "dataSource": manifest["corpus"]["source"],
            "creatorId": CREATOR,
        }


def _id(manifest: dict[str, Any], neuron: Neuron, rank: int, record: Record) -> str:
    """Return an id of the length and letters of a cuid."""
    about = [manifest[part]["sha256"] for part in ("model", "corpus")]
    named = json.dumps([*about, manifest["question"], neuron.layer, neuron.dim, rank, record.unit])
    return f"c{hashlib.sha256(named.encode()).hexdigest()[:24]}"


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    # The time of writing would be the only thing that differs between two exports of a run.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 5, raw, mtime=0) as stream:
        for row in rows:
            stream.write(_line(row))


def _line(row: dict[str, Any]) -> bytes:
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode() + b"\n"
