"""The manifest: everything that determines the bits of a result, and how two manifests differ."""

import json
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pyengine.errors import PyengineError
from pyengine.files import atomic_write_text, create_text
from pyengine.models import Model
from pyengine.store import TokenStore

FORMAT = 1
MANIFEST, PROVENANCE = "manifest.json", "provenance.json"

# `question` decides what is asked, `numerics` how it is computed; both decide the bits.
COMPARED = ("format", "analysis", "question", "numerics", "model", "corpus")
# Names and paths may differ where the contents are the same.
DESCRIPTIVE = {"model": ("name", "revision", "stacks"), "corpus": ("source",)}


def describe(
    analysis: str,
    question: Mapping[str, Any],
    numerics: Mapping[str, Any],
    model: Model,
    corpus: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the manifest of a run that is about to start.

    Args:
        analysis: the kind of run (`triggers`, ...).
        question: the settings that define the result mathematically.
        numerics: the settings that only move its last bits; library versions are added.
        model: hashed here, parameters and tokenizer.
        corpus: from `describe_corpus`, or what the run read instead.
    """
    return {
        "format": FORMAT,
        "analysis": analysis,
        "status": "incomplete",
        "question": dict(question),
        "numerics": {**numerics, **_environment(model)},
        "model": describe_model(model),
        "corpus": dict(corpus),
    }


def describe_model(model: Model) -> dict[str, Any]:
    """Return the manifest's section on the model."""
    return {
        "name": model.name,
        "revision": model.revision,
        "family": model.family.model_type,
        "n_layers": model.n_layers,
        "d_ff": model.d_ff,
        "stacks": [layer.stack.name for layer in model.layers],
        "sha256": model.fingerprint,
        "tokenizer_sha256": model.tokenizer_fingerprint,
    }


def describe_corpus(store: TokenStore) -> dict[str, Any]:
    """Return the manifest's section on a tokenised corpus; its source is for display."""
    return {
        "source": store.source,
        "sha256": store.content_hash,
        "n_units": store.n_units,
        "n_tokens": store.n_tokens,
        "split_units": store.report.split_units,
        "dropped_units": store.report.dropped_units,
    }


def differences(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], ignore: tuple[str, ...] = ()
) -> list[str]:
    """Name what differs between two manifests, one phrase each; empty if nothing that counts."""
    found = []
    for section in COMPARED:
        if section in ignore:
            continue
        a, b = _flat(section, mine.get(section)), _flat(section, theirs.get(section))
        found += [
            f"{name}: {_short(a.get(name))} != {_short(b.get(name))}"
            for name in sorted(a.keys() | b.keys())
            if a.get(name) != b.get(name)
        ]
    return found


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a run's manifest.

    Raises:
        PyengineError: if the folder is not a run, or its manifest is damaged or of a newer format.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PyengineError(f"{folder} is not a run directory: it has no {MANIFEST}") from error
    except NotADirectoryError as error:
        raise PyengineError(f"{folder} is not a directory") from error
    except (OSError, ValueError) as error:
        raise PyengineError(f"cannot read {path}: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise PyengineError(f"{path} is not a pyengine manifest of format {FORMAT}")
    return manifest


def create_manifest(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Write the manifest of a new run; return whether no other process was faster."""
    return create_text(folder / MANIFEST, _text(manifest))


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, whole or not at all."""
    atomic_write_text(folder / MANIFEST, _text(manifest))


def write_provenance(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write when, where and how fast: what may differ between two runs with the same bits."""
    record = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": platform.node(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        **facts,
    }
    atomic_write_text(folder / PROVENANCE, _text(record))


def _text(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=2, sort_keys=True) + "\n"


def _environment(model: Model) -> dict[str, Any]:
    device = model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    packages = ["pyengine", "torch", "transformers"]
    if device.type == "cuda":
        packages.append("triton")
    return {
        "dtype": model.dtype,
        "device": f"{device.type}: {name}",
        "attention": getattr(model.config, "_attn_implementation", None),
        "threads": torch.get_num_threads(),
        "backend": os.environ.get("PYENGINE_BACKEND"),
        "versions": {package: version(package) for package in packages},
    }


def _flat(section: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {section: value}
    skipped = DESCRIPTIVE.get(section, ())
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if name not in skipped:
            flat |= _flat(f"{section}.{name}", item)
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:18]}…{text[-18:]}"
