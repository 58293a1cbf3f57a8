"""The file of a saved sentence encoder: which heads of which model, as JSON."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyengine.errors import PyengineError
from pyengine.files import atomic_write_text

if TYPE_CHECKING:
    from pyengine.heads.sentence_encoder import SentenceEncoder
    from pyengine.models import Model

DESCRIPTION = "sentence_encoder.json"
FORMAT = 1


def write_description(encoder: "SentenceEncoder", folder: Path) -> None:
    """Write which heads of which model an encoder reads, and how.

    Raises:
        PyengineError: if the folder cannot be written.
    """
    model = encoder.model
    facts = {
        "format": FORMAT,
        "model": {
            "name": model.name,
            "revision": model.revision,
            "dtype": model.dtype,
            "sha256": model.fingerprint,
            "tokenizer_sha256": model.tokenizer_fingerprint,
        },
        "heads": encoder.heads,
        "location": encoder.location,
        "pooling": encoder.pooling,
        "normalize": encoder.normalize,
    }
    text = json.dumps(facts, indent=2, sort_keys=True)
    atomic_write_text(folder / DESCRIPTION, f"{text}\n")


def read_description(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `write_description` wrote: facts on the model, and on what is read of it.

    Raises:
        PyengineError: if there is no such file, or it is damaged or of another version.
    """
    path = folder / DESCRIPTION
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise PyengineError(f"{path} was written by another version")
        names = ("name", "revision", "dtype", "sha256", "tokenizer_sha256")
        of_model = {name: facts["model"][name] for name in names}
        reads = {name: facts[name] for name in ("heads", "pooling", "location", "normalize")}
    except OSError as error:
        raise PyengineError(f"{folder} holds no sentence encoder: no {path.name}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise PyengineError(f"{path} is damaged") from error
    return of_model, reads


def check_model(model: "Model", wanted: dict[str, Any], folder: str | Path) -> None:
    """Refuse a model that is not the described one.

    Raises:
        PyengineError: if its weights or its tokenizer differ.
    """
    mine = {"sha256": model.fingerprint, "tokenizer_sha256": model.tokenizer_fingerprint}
    if differing := [name for name, value in mine.items() if wanted[name] != value]:
        raise PyengineError(
            f"{folder} is an encoder of another model than {model.name}: the {differing[0]} "
            f"of {wanted['name']} differs"
        )
