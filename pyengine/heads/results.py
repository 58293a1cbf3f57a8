"""What the heads of a model know: the results of probes, to be asked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyengine.errors import PyengineError
from pyengine.heads.finetune_table import FINETUNES, finetune_means
from pyengine.heads.places import BLOCK, HEAD
from pyengine.heads.result_rows import check_alike, grid, of_parts
from pyengine.heads.results_table import CONCATS, MAIN_METRICS, PROBES, read

# What concatenated heads have none of, and what fine-tunings have.
OF_PLACES = ("location", "stack", "layer", "head", "width", "pooling")
OF_FINETUNES = ("model", "task")


class LayerScore(NamedTuple):
    """A layer and what it scores, means over seeds; `dev` is NaN where there is no dev set."""

    location: str
    layer: int
    dev: float
    test: float


@dataclass(frozen=True, eq=False)
class HeadResults:
    """The results in a folder; of any number of models, tasks and probes.

    A question asked of results that were not all made alike (another model, bank, probe or
    settings) is refused: narrow them with `where` first.

    Attributes:
        table: one row per probe and metric, `results_table.SCHEMA`.
        concats: of concatenated heads, `results_table.CONCATS.schema`; none: no rows.
        folder: where they are.
        finetunes: of fine-tunings, `finetune_table.FINETUNES.schema`; none: no rows.
    """

    table: pa.Table
    concats: pa.Table
    folder: Path
    finetunes: pa.Table = field(default_factory=FINETUNES.schema.empty_table)

    @classmethod
    def open(cls, folder: str | Path) -> "HeadResults":
        """Read a results folder.

        Raises:
            PyengineError: if there are no results, or a file is damaged.
        """
        path, found = Path(folder), cls.of(folder)
        if not any((path / file.name).is_file() for file in (PROBES, FINETUNES)):
            raise PyengineError(
                f"{path} holds no results of probes; make some with: "
                f"pyengine heads probe BANK --out {path}"
            )
        return found

    @classmethod
    def of(cls, folder: str | Path) -> "HeadResults":
        """Read a results folder that may have no results yet."""
        tables = (read(folder, file) for file in (PROBES, CONCATS, FINETUNES))
        probes, concats, finetunes = tables
        return cls(probes, concats, Path(folder), finetunes)

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks that were probed, sorted."""
        return sorted(set(self.table["task"].to_pylist()))

    @property
    def models(self) -> list[str]:
        """The names of the models that were probed, sorted."""
        return sorted(set(self.table["model"].to_pylist()))

    def known(self, name: str) -> list[Any]:
        """Return the values of a column, sorted.

        Raises:
            PyengineError: for an unknown column.
        """
        if name not in PROBES.schema.names:
            raise PyengineError(f"results have no column {name!r}: {PROBES.schema.names}")
        tuned = self.finetunes[name].to_pylist() if name in OF_FINETUNES else []
        return sorted({*self.table[name].to_pylist(), *tuned})

    def where(self, **columns: Any) -> "HeadResults":
        """Keep the rows with these values in these columns, as `probe="ridge"`; None: any.

        Raises:
            PyengineError: for an unknown column, or a value that no row has.
        """
        found = self
        for name, value in columns.items():
            known = found.known(name)
            if value is not None and value not in known:
                raise PyengineError(
                    f"no results with {name} {value!r} in {self.folder}; there are: "
                    f"{', '.join(map(str, known)) or 'none'}"
                )
            found = found if value is None else found.only(**{name: value})
        return found

    def only(self, **columns: Any) -> "HeadResults":
        """Keep the rows with these values in these columns; it may be none.

        Concatenated heads have no place, and fine-tunings only a model and a task to go by.
        """
        table, concats, finetunes = self.table, self.concats, self.finetunes
        for name, value in columns.items():
            table = table.filter(pc.equal(table[name], value))
            if name not in OF_PLACES:
                concats = concats.filter(pc.equal(concats[name], value))
            if name in OF_FINETUNES:
                finetunes = finetunes.filter(pc.equal(finetunes[name], value))
        return HeadResults(table, concats, self.folder, finetunes)

    def scores(
        self,
        task: str,
        location: str = HEAD,
        part: str = "dev",
        model: str | None = None,
        whole: bool = False,
    ) -> np.ndarray:
        """Return the scores of a task, mean over seeds.

        Accuracies in percent; correlations are Pearson's (others are in the table).

        Args:
            task: its name.
            location: `head`, `block`, ...
            part: `dev` or `test`, or another column of numbers: `selectivity`, `epochs`, ...
            model: its name, where there are several.
            whole: of a place with heads, all of them together.

        Returns:
            float64 [n_layers, n_heads], layers through all stacks; NaN where there is none. One
            column for a location without heads, and with `whole`.

        Raises:
            PyengineError: where there are no such results or column of numbers, or results that
                were not made alike.
        """
        kept = self.where(model=model, task=task, location=location).table
        check_alike(kept, task)
        kept = of_parts(kept, location, whole)
        if not kept.num_rows:
            what = "as a whole" if whole else "head by head"
            raise PyengineError(
                f"{location} of {task} was not probed {what}; do so with: pyengine heads probe "
                f"BANK --out {self.folder} --task {task}{' --whole' if whole else ''}"
            )
        return grid(kept, part)

    def metric(self, task: str) -> str:
        """Return what `scores` of a task are: accuracy, in percent, or pearson."""
        found = self.where(task=task).known("metric")
        return next(metric for metric in MAIN_METRICS if metric in found)

    def has(self, task: str, location: str = HEAD, whole: bool = False) -> bool:
        """Tell whether there are scores; arguments as `scores`'."""
        own = self.only(task=task, location=location).table
        return of_parts(own, location, whole).num_rows > 0

    def ranked(
        self,
        task: str,
        n: int | None = None,
        location: str = HEAD,
        model: str | None = None,
        whole: bool = False,
    ) -> list[tuple[int, int]]:
        """Return the (layer, head) of a task, best first by dev; ties: lower layer, lower head.

        A task without a dev set (STS12 to STS16) is ranked by its only score, on test. The head of
        a place as a whole is 0.

        Raises:
            PyengineError: as `scores`, and if there are fewer than `n`.
        """
        values = self._chosen_by(task, location, model, whole)
        order = np.argsort(-values, axis=None, kind="stable")  # NaN comes last
        found = [divmod(int(at), values.shape[1]) for at in order[: np.isfinite(values).sum()]]
        if n is not None and not 1 <= n <= len(found):
            raise PyengineError(f"n must be from 1 to {len(found)}, the heads of {task}, not {n}")
        return found[:n]

    def best_layer(
        self, task: str, location: str | None = None, model: str | None = None
    ) -> LayerScore:
        """Return the layer, as a whole, that is best on dev; ties: the lower one.

        Args:
            task: its name.
            location: None: block outputs where they were probed, else all heads of a layer.
            model: its name, where there are several.
        """
        location = location or self._layers_of(task, model)
        layer, _ = self.ranked(task, 1, location, model, whole=True)[0]
        return self._layer(task, location, layer, model)

    def last_layer(
        self, task: str, location: str | None = None, model: str | None = None
    ) -> LayerScore:
        """Return the last layer that was probed as a whole; arguments as `best_layer`'s."""
        location = location or self._layers_of(task, model)
        values = self.scores(task, location, "test", model, whole=True)[:, 0]
        return self._layer(task, location, int(np.flatnonzero(~np.isnan(values))[-1]), model)

    def summary(self) -> pa.Table:
        """Return the paper's table, one row per model and task: see `heads.summary`."""
        from pyengine.heads.summary import summarise

        return summarise(self)

    def finetuned(self) -> pa.Table:
        """Return means and deviations of fine-tunings over seeds: `finetune_table.MEANS`."""
        return finetune_means(self.finetunes)

    def _chosen_by(
        self, task: str, location: str, model: str | None, whole: bool = False
    ) -> np.ndarray:
        """Return dev scores, or test scores where there is no dev set."""
        dev = self.scores(task, location, "dev", model, whole)
        return self.scores(task, location, "test", model, whole) if np.isnan(dev).all() else dev

    def _layers_of(self, task: str, model: str | None) -> str:
        probed = self.where(task=task, model=model).table["location"].to_pylist()
        return BLOCK if BLOCK in probed else HEAD

    def _layer(self, task: str, location: str, layer: int, model: str | None) -> LayerScore:
        dev, test = (
            float(self.scores(task, location, part, model, whole=True)[layer, 0])
            for part in ("dev", "test")
        )
        return LayerScore(location, layer, dev, test)
