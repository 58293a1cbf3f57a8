"""The formats of other tools as they publish them: names, types, what may be missing.

Our own description of their interfaces; none of their code is here. Read in:

- https://github.com/openai/automated-interpretability (MIT), neuron_explainer/activations/
  activations.py at 0f08c3d2a70555eee0277fb8777fcd5d874055c0, fast_dataclasses/fast_dataclasses.py
  at 59092216761830bfb7fbd2e6466e051abe16cccc
- https://github.com/EleutherAI/delphi (Apache-2.0), delphi/latents/cache.py at
  cd43058b9f3c96a25e5c81494f8cebdc78cfc814, loader.py at 30158d9b5c15751c4709a36f21ce8104df4c3a62,
  delphi/config.py at 7bfbf4627c9999ffa666d6c0debd71186a0821b1
- https://github.com/hijohnnylin/neuronpedia (MIT), apps/webapp/prisma/schema.prisma at
  008d5040ab97abd5c44d92d190b30034ad7a6e97, and the import that reads the files
- https://github.com/jbloomAus/SAEDashboard (MIT), sae_dashboard/neuronpedia/neuronpedia_export.py
  at 3ea1249ac0e31c3f8433c6c270c40d4e3bec9169
"""

import gzip
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file

# A type ends in `?` where null is allowed and in `=` where the field may be left out.
Fields = Mapping[str, str]

NEURON_RECORD: dict[str, Fields] = {
    "ActivationRecord": {"tokens": "str[]", "activations": "float[]"},
    "NeuronId": {"layer_index": "int", "neuron_index": "int"},
    "NeuronRecord": {
        "neuron_id": "NeuronId",
        "random_sample": "ActivationRecord[]=",
        "random_sample_by_quantile": "ActivationRecord[][]?=",
        "quantile_boundaries": "float[]?=",
        "mean": "float?=",
        "variance": "float?=",
        "skewness": "float?=",
        "kurtosis": "float?=",
        "most_positive_activation_records": "ActivationRecord[]=",
    },
}

NEURONPEDIA: dict[str, Fields] = {
    "Neuron": {
        **{name: "str" for name in ("modelId", "layer", "index")},
        **{name: "str?=" for name in ("sourceSetName", "creatorId", "vectorLabel", "hookName")},
        **{name: "float?=" for name in ("maxActApprox", "vectorDefaultSteerStrength")},
        **{"hasVector": "bool=", "frac_nonzero": "float=", "vector": "float[]="},
        **{name: "str[]=" for name in ("neg_str", "pos_str")},
        **{name: "float[]=" for name in ("neg_values", "pos_values", "decoder_weights_dist")},
    },
    "Activation": {
        **{name: "str" for name in ("id", "index", "layer", "modelId", "creatorId")},
        **{"tokens": "str[]", "values": "float[]", "maxValue": "float", "minValue": "float"},
        "maxValueTokenIndex": "int",
        **{name: "str?=" for name in ("dataIndex", "dataSource", "logitContributions")},
        **{name: "float[]=" for name in ("dfaValues", "lossValues")},
        **{name: "int?=" for name in ("dfaTargetIndex", "qualifyingTokenIndex")},
        **{name: "float?=" for name in ("dfaMaxValue", "binMin", "binMax", "binContains")},
    },
    "Model": {
        **{name: "str" for name in ("id", "creatorId", "owner")},
        **{"layers": "int", "neuronsPerLayer": "int"},
        **{name: "str=" for name in ("displayName", "displayNameShort", "visibility")},
        **{"tlensId": "str?=", "dimension": "int?=", "instruct": "bool=", "website": "str?="},
    },
    "SourceSet": {
        **{name: "str" for name in ("modelId", "name", "description", "creatorName", "creatorId")},
        **{"urls": "str[]", "type": "str=", "visibility": "str=", "releaseName": "str?="},
    },
    "Source": {
        **{name: "str" for name in ("id", "modelId", "setName", "creatorId")},
        **{name: "str?=" for name in ("dataset", "notes", "hfRepoId", "hfFolderId")},
        **{name: "int?=" for name in ("num_prompts", "num_tokens_in_prompt")},
        "visibility": "str=",
    },
}

DELPHI_CONFIG: Fields = {
    **{name: "str" for name in ("dataset_repo", "dataset_split", "dataset_name")},
    **{name: "int" for name in ("batch_size", "cache_ctx_len", "n_tokens", "n_splits")},
    **{"dataset_column": "str", "model_name": "str"},
}

_SCALARS = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,)}


def check_fields(value: Mapping[str, Any], fields: Fields) -> None:
    """Fail unless every field is known, of its type, and none that must be there is missing."""
    assert value.keys() <= fields.keys(), value.keys() - fields.keys()
    for name, kind in fields.items():
        if name in value:
            _check(value[name], kind.removesuffix("="), name)
        else:
            assert kind.endswith("="), f"{name} is missing"


def _check(value: Any, kind: str, name: str) -> None:
    if kind.endswith("?"):
        if value is None:
            return
        kind = kind[:-1]
    if kind.endswith("[]"):
        assert type(value) is list, (name, value)
        for item in value:
            _check(item, kind[:-2], name)
    elif kind in _SCALARS:
        assert type(value) in _SCALARS[kind], (name, value, kind)
        assert kind != "float" or math.isfinite(value), (name, value)
    else:  # an object of a class, checked when it was read
        assert value["dataclass_name"] == kind, (name, value)


def read_neuron_record(path: Path) -> dict[str, Any]:
    """Read a file as `load_neuron` does: each object names its class, and has its fields."""

    def checked(value: dict[str, Any]) -> dict[str, Any]:
        fields = {name: part for name, part in value.items() if name != "dataclass_name"}
        check_fields(fields, NEURON_RECORD[value["dataclass_name"]])
        return value

    record: dict[str, Any] = json.loads(path.read_bytes(), object_hook=checked)
    assert record["dataclass_name"] == "NeuronRecord"
    for example in record["most_positive_activation_records"]:
        assert len(example["tokens"]) == len(example["activations"])
    return record


class Latents(NamedTuple):
    """A hookpoint of a delphi cache: by latent, (sequence, position) and activation."""

    locations: dict[int, list[tuple[int, int]]]
    activations: dict[int, list[float]]
    tokens: np.ndarray
    more: dict[str, np.ndarray]


def read_delphi(folder: Path) -> Latents:
    """Read a hookpoint as `LatentDataset` does: one or more files named by their latents."""
    config = json.loads((folder / "config.json").read_text())
    config.pop("pyengine", None)
    check_fields(config, DELPHI_CONFIG)
    found = Latents({}, {}, np.zeros(0), {})
    for file in sorted(folder.glob("*.safetensors")):
        first, last = map(int, file.stem.split("_"))
        data = load_file(file)
        locations, activations = data.pop("locations"), data.pop("activations")
        assert locations.dtype in (np.uint16, np.uint32) and activations.dtype == np.float16
        assert locations.shape == (len(activations), 3)
        found = found._replace(tokens=data.pop("tokens"), more=data)
        assert found.tokens.ndim == 2 and np.issubdtype(found.tokens.dtype, np.integer)
        assert found.tokens.shape[1] == config["cache_ctx_len"]
        for (sequence, position, latent), value in zip(
            locations.tolist(), activations.tolist(), strict=True
        ):
            assert first <= latent + first <= last
            assert sequence < len(found.tokens) and position < found.tokens.shape[1]
            found.locations.setdefault(latent + first, []).append((sequence, position))
            found.activations.setdefault(latent + first, []).append(value)
    return found


def read_neuronpedia(source: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read a source as Neuronpedia's import does: (rows of Neuron, rows of Activation)."""
    for name, table in {"model": "Model", "sourceset": "SourceSet", "source": "Source"}.items():
        (line,) = (source / f"{name}.jsonl").read_text().splitlines()
        check_fields(json.loads(line), NEURONPEDIA[table])
    return list(_rows(source / "features", "Neuron")), list(
        _rows(source / "activations", "Activation")
    )


def _rows(folder: Path, table: str) -> Iterator[dict[str, Any]]:
    files = sorted(folder.iterdir(), key=lambda file: int(file.name.split("-")[1].split(".")[0]))
    for number, file in enumerate(files):
        assert file.name == f"batch-{number}.jsonl.gz"
        rows = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
        for row in rows:
            check_fields(row, NEURONPEDIA[table])
            assert row.keys() == rows[0].keys()  # the import takes the columns of the first row
        yield from rows
