"""Maps belong to one model: the one that they were fitted on."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from pyengine.errors import PyengineError
from pyengine.manifest import describe
from pyengine.models import Model
from pyengine.shortcuts.output_head import output_head
from pyengine.shortcuts.points import Points
from pyengine.shortcuts.stored_points import StoredPoints


def unembedding_hash(model: Model) -> str | None:
    """Return the SHA-256 of the unembedding's weight, row by row; None without an output head."""
    head: Any = output_head(model)
    if head is None:
        return None
    digest = hashlib.sha256()
    for row in head.weight.detach().split(4096):
        digest.update(row.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def given(
    model: Model, points: Mapping[str, Points], pairs: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the manifest and the counters of maps that were made elsewhere."""
    question = {
        "stacks": [*points],
        "points": {stack: StoredPoints.of(of).describe() for stack, of in points.items()},
        "pairs": pairs,
        "adds_special": False,
        "bos": False,
        "mask_id": None,
        "unembedding_sha256": unembedding_hash(model),
    }
    manifest = describe("shortcuts", question, {}, model, {"source": "maps that were given"})
    record = {"n_tokens": 0, "n_computed": 0, "n_nan": 0, "exact": True, "n_rows": {}, "solver": {}}
    return manifest, record


def check_same_model(manifest: Mapping[str, Any], model: Model) -> None:
    """Refuse a model that a fit does not belong to, whatever its name.

    Raises:
        PyengineError: if its weights, its configuration or its output head differ.
    """
    fitted, dtype = manifest["model"], manifest["numerics"]["dtype"]
    known = fitted["sha256"], manifest["question"]["unembedding_sha256"]
    if known == (model.fingerprint, unembedding_hash(model)):
        return
    hint = "" if dtype == model.dtype else f"; load it in {dtype}, not {model.dtype}"
    raise PyengineError(
        f"these shortcuts belong to another model than {model.name}: they were fitted on "
        f"{fitted['name']} (sha256 {known[0][:12]}…, here {model.fingerprint[:12]}…){hint}"
    )
