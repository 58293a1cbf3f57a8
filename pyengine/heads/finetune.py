"""Fine-tuning a model on a task, from its last layer, its best layer or its best heads."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pyengine.errors import PyengineError
from pyengine.heads.baselines import rounded
from pyengine.heads.correlations import pearson, spearman
from pyengine.heads.finetune_choice import LAST, choose
from pyengine.heads.finetune_data import PARTS, Reader, Row, labelled_rows, split
from pyengine.heads.finetune_model import PooledClassifier, Representation
from pyengine.heads.finetune_table import FINETUNES
from pyengine.heads.finetune_training import FinetuneSettings, build, check_trainable, train
from pyengine.heads.finetuned import FineTuned
from pyengine.heads.pooling import APPENDED, pooling_of
from pyengine.heads.results_table import ACCURACY, PEARSON, SPEARMAN, append, read, short_name
from pyengine.heads.task import SCORES, Examples, Task
from pyengine.models import Model

if TYPE_CHECKING:
    from pyengine.heads.results import HeadResults


def finetune(
    model: Model,
    task: Task,
    representation: str = LAST,
    *,
    results: "HeadResults | None" = None,
    layer: int | None = None,
    heads: Sequence[tuple[int, int]] | None = None,
    n: int | None = None,
    pooling: str = "auto",
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    settings: FinetuneSettings | None = None,
    out: str | Path | None = None,
    save: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> pa.Table:
    """Fine-tune a copy of a model on a task, once per seed; the model itself is not changed.

    A pooled vector goes through Linear(P, P), tanh, dropout and Linear(P, C); transformers' Trainer
    trains it with the body below it (AdamW, the rate falling linearly to 0). Nothing is chosen on
    dev but what `results` say: neither seed nor epoch.

    Args:
        model: with float32 weights and a tokenizer; of an encoder-decoder the encoder is trained.
        task: of classes or scores. Tasks without a dev set are split, see `finetune_data.split`.
        representation: `last`: the last block's output; `best`: that of the block which is best on
            dev; `heads`: contexts of heads side by side.
        results: of probes of this task: where the best layer and the best heads come from.
        layer: the best layer, where there are no results.
        heads: (layer, head) of `heads`, in order, where there are no results.
        n: how many of the best heads; None: so many that they are as wide as the model.
        pooling: as when vectors are extracted: `auto`, `first`, `last`, `mean` or `pad`.
        seeds: of the classifier's initial weights, the order of rows and dropout.
        settings: None: 3 epochs, batches of 32, 2e-5.
        out: results folder; rows are added to its finetunes.parquet after each seed, and seeds that
            are there already are not trained again.
        save: new folder for the model of the seed that is best on dev (ties: the first given); all
            seeds are then trained. `load_finetuned` reads it, and `pyengine.load` its body.
        on_progress: called with the steps done and those in all.

    Returns:
        A row per seed and metric (accuracy in percent; pearson and spearman), as `FINETUNES` says.

    Raises:
        PyengineError: for a task without training, unknown heads or layers, results of another
            model or without this task, or where Trainer cannot run (accelerate, dtype, device).
    """
    check_trainable(model)
    settings = settings or FinetuneSettings()
    chosen = choose(model, task.name, representation, results, layer, heads, n)
    pooling = pooling_of(model, pooling)[model.layers[0].stack.name]
    length = min(settings.max_length, model.max_positions)
    reader = Reader(model, length, APPENDED.get(pooling, ()))
    trial = _Trial(model, task, chosen, reader, pooling, settings)
    if save is not None and Path(save).exists():
        raise PyengineError(f"{save} is there already; give a new folder to save the model in")
    known = trial.known(out) if save is None else {}
    missing = [seed for seed in dict.fromkeys(seeds) if seed not in known]
    best: tuple[float, FineTuned] | None = None
    for done, seed in enumerate(missing):
        tuned = trial.train(seed, _shifted(on_progress, done, len(missing)))
        known[seed] = trial.rows(tuned)
        if out is not None:
            append(out, known[seed], FINETUNES)
        dev = known[seed]["dev"][0].as_py()
        if save is not None and (best is None or dev > best[0]):
            best = dev, tuned
    if save is not None and best is not None:
        best[1].save(save)
    return pa.concat_tables([known[seed] for seed in dict.fromkeys(seeds)])


class _Trial:
    """One task, model and representation; what differs between its trainings is the seed."""

    def __init__(
        self,
        model: Model,
        task: Task,
        chosen: Representation,
        reader: Reader,
        pooling: str,
        settings: FinetuneSettings,
    ) -> None:
        self.model, self.task, self.chosen, self.reader = model, task, chosen, reader
        self.pooling, self.settings = pooling, settings
        self.parts = split(task)
        self.training: list[Row] = labelled_rows(reader, self.parts["train"], task.kind)

    def train(self, seed: int, on_step: Callable[[int, int], None] | None) -> FineTuned:
        n_outputs = 1 if self.task.kind == SCORES else self.task.n_classes
        make = partial(
            PooledClassifier,
            self.model,
            self.chosen,
            self.pooling,
            n_outputs,
            self.settings.dropout,
        )
        module = build(make, seed, self.model.device)
        train(module, self.training, self.model, self.settings, seed, on_step)
        return FineTuned(module, self.reader, self._facts(seed))

    def rows(self, tuned: FineTuned) -> pa.Table:
        """Return the row of each metric."""
        by_part = {part: self._scores(tuned, self.parts[part]) for part in ("dev", "test")}
        same = {
            "model": short_name(self.model.name),
            "task": self.task.name,
            "representation": self.chosen.name,
            "layer": self.chosen.layer,
            "heads": [{"layer": a, "head": b} for a, b in self.chosen.parts if b >= 0],
            "width": tuned.module.width,
            "pooling": self.pooling,
            "seed": tuned.facts["seed"],
            "epochs": self.settings.epochs,
            "learning_rate": self.settings.learning_rate,
            "majority": self._majority(),
            "n_classes": self.task.n_classes,
            "settings": self._settings,
            **{f"n_{part}": len(self.parts[part]) for part in PARTS},
        }
        found = [
            same | {"metric": metric, "dev": by_part["dev"][metric], "test": test}
            for metric, test in by_part["test"].items()
        ]
        return pa.Table.from_pylist(found, FINETUNES.schema)

    def known(self, out: str | Path | None) -> dict[int, pa.Table]:
        """Return the rows that a results folder has, by seed."""
        if out is None:
            return {}
        same = ("model", "task", "representation", "layer", "pooling", "settings")
        mine = [short_name(self.model.name), self.task.name, self.chosen.name, self.chosen.layer]
        mine += [self.pooling, self._settings]
        rows = read(out, FINETUNES).to_pylist()
        rows = [row for row in rows if [row[name] for name in same] == mine]
        return {
            seed: pa.Table.from_pylist([r for r in rows if r["seed"] == seed], FINETUNES.schema)
            for seed in {row["seed"] for row in rows}
        }

    @property
    def _settings(self) -> str:
        """What decides a result beside the columns, as JSON."""
        facts: dict[str, Any] = asdict(self.settings)
        facts |= {"parts": self.chosen.parts, "model_sha256": self.model.fingerprint}
        facts |= {"task_sha256": _content_hash(self.parts)}
        return json.dumps(facts, sort_keys=True)

    def _facts(self, seed: int) -> dict[str, Any]:
        return {
            "task": self.task.name,
            "kind": self.task.kind,
            "labels": list(self.task.labels),
            "representation": self.chosen.name,
            "parts": [list(part) for part in self.chosen.parts],
            "pooling": self.pooling,
            "seed": seed,
            "base_model": self.model.name,
            "base_model_sha256": self.model.fingerprint,
            "joint": self.reader.joint if self.task.paired else None,
            **asdict(self.settings),
            "max_length": self.reader.max_length,
        }

    def _scores(self, tuned: FineTuned, examples: Examples) -> dict[str, float]:
        predicted = tuned.predict(examples.first, examples.second)
        if self.task.kind == SCORES:
            columns = predicted[:, None], examples.targets
            return {PEARSON: float(pearson(*columns)[0]), SPEARMAN: float(spearman(*columns)[0])}
        return {ACCURACY: rounded((predicted == examples.targets).mean())}

    def _majority(self) -> float:
        if self.task.kind == SCORES:
            return float("nan")
        most = np.bincount(self.parts["train"].targets).argmax()
        return rounded((self.parts["test"].targets == most).mean())


def _content_hash(parts: dict[str, Examples]) -> str:
    digest = hashlib.sha256()
    for name in PARTS:
        part = parts[name]
        digest.update(json.dumps([name, part.first, part.second]).encode())
        digest.update(part.targets.tobytes())
    return digest.hexdigest()


def _shifted(
    on_progress: Callable[[int, int], None] | None, done: int, n: int
) -> Callable[[int, int], None] | None:
    """Count the steps of all seeds."""
    if on_progress is None:
        return None
    return lambda step, total: on_progress(done * total + step, n * total)
