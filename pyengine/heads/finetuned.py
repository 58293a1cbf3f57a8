"""A model that was fine-tuned for a task: it predicts, and is saved as a folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyengine.cache_files import open_tensors, write_tensors
from pyengine.errors import PyengineError
from pyengine.files import atomic_folder
from pyengine.heads.finetune_data import Reader, collated
from pyengine.heads.finetune_model import PooledClassifier, representation_of
from pyengine.heads.pooling import APPENDED
from pyengine.heads.task import SCORES
from pyengine.loading import load, quiet
from pyengine.models import Model
from pyengine.precision import precision

DESCRIPTION, HEAD = "finetuned.json", "classifier.safetensors"
FORMAT = 1


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A body and its classifier, trained for one task.

    Attributes:
        module: the body, deep-copied from the model that was given, and the classifier.
        reader: turns texts into rows; its model is the one that was given.
        facts: task, kind, labels, representation, pooling, dropout, seed, ... as in the folder.
    """

    module: PooledClassifier
    reader: Reader
    facts: dict[str, Any]

    @property
    def model(self) -> Model:
        return self.reader.model

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, by index; none where scores are predicted."""
        return tuple(self.facts["labels"])

    def predict(
        self, first: Sequence[str], second: Sequence[str] | None = None, *, batch_size: int = 32
    ) -> np.ndarray:
        """Predict sentences, or pairs of them.

        Returns:
            int64 [n], indices of classes (ties: the lower), or float64 [n], scores.

        Raises:
            PyengineError: if a text has no token.
        """
        rows = self.reader.rows(first, second)
        logits = np.zeros((len(rows), self.module.n_outputs), np.float64)
        order = np.argsort([len(row["input_ids"]) for row in rows], kind="stable")
        self.module.eval()
        with torch.inference_mode(), precision(self.model.dtype):
            for start in range(0, len(order), batch_size):
                some = order[start : start + batch_size]
                batch = collated([rows[i] for i in some], self.model.pad_id)
                found = self.module(**{k: v.to(self.model.device) for k, v in batch.items()})
                logits[some] = found["logits"].double().cpu().numpy()
        return logits[:, 0] if self.facts["kind"] == SCORES else logits.argmax(1)

    def save(self, folder: str | Path) -> Path:
        """Write a folder that `load_finetuned` reads, and whose body `pyengine.load` reads.

        Safetensors, JSON and the tokenizer's files; nothing is pickled.

        Raises:
            PyengineError: if the folder exists and is not empty, or cannot be written.
        """
        folder = Path(folder)
        atomic_folder(folder, self._write)
        return folder

    def _write(self, folder: Path) -> None:
        with quiet():
            self.module.body.save_pretrained(folder)
            tokenizer: Any = self.model.tokenizer
            tokenizer.save_pretrained(folder)
        write_tensors(folder / HEAD, _head(self.module))
        text = json.dumps(self.facts | {"format": FORMAT}, indent=2, sort_keys=True)
        (folder / DESCRIPTION).write_text(f"{text}\n", encoding="utf-8")


def load_finetuned(folder: str | Path, *, device: str = "auto") -> FineTuned:
    """Read a folder of `FineTuned.save`.

    Raises:
        PyengineError: if it is missing, damaged, or of another kind.
    """
    folder = Path(folder)
    facts = _described(folder)
    model = load(folder, device=device)
    representation = representation_of(model, facts["representation"], facts["parts"])
    n_outputs = 1 if facts["kind"] == SCORES else len(facts["labels"])
    module = PooledClassifier(
        model, representation, facts["pooling"], n_outputs, float(facts["dropout"])
    )
    with open_tensors(folder / HEAD) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    own = _head(module)
    if {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in own.items()}:
        raise PyengineError(f"{folder / HEAD} does not fit the classifier that {DESCRIPTION} names")
    module.load_state_dict(tensors, strict=False)
    reader = Reader(model, int(facts["max_length"]), APPENDED.get(facts["pooling"], ()))
    return FineTuned(module.eval(), reader, facts)


def _described(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = facts.pop("format") == FORMAT
    except OSError as error:
        raise PyengineError(f"{folder} is not a fine-tuned model: it has no {path.name}") from error
    except (ValueError, KeyError, AttributeError) as error:
        raise PyengineError(f"{path} is damaged") from error
    if not known:
        raise PyengineError(f"{path} was written by another version")
    return facts


def _head(module: PooledClassifier) -> dict[str, torch.Tensor]:
    """Return the classifier's weights, contiguous, on the CPU."""
    state = {k: v for k, v in module.state_dict().items() if not k.startswith("body.")}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
