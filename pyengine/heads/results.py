"""What the heads of a model know: the results of probes, to be asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyengine.errors import PyengineError
from pyengine.heads.places import BLOCK, CROSS, HEAD
from pyengine.heads.results_table import CONCATS, MAIN_METRICS, PROBES, read

# Rows that differ in one of these were not made alike, and are never averaged. (Stacks of one bank
# may be pooled differently.)
ALIKE = ("model", "bank", "probe", "settings")
PLURALS = dict(zip(ALIKE, ("models", "banks", "probes", "settings"), strict=True))

# What concatenated heads have none of.
OF_PLACES = ("location", "layer", "head", "width", "pooling")


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
    """

    table: pa.Table
    concats: pa.Table
    folder: Path

    @classmethod
    def open(cls, folder: str | Path) -> "HeadResults":
        """Read a results folder.

        Raises:
            PyengineError: if there are no results, or a file is damaged.
        """
        path = Path(folder)
        table = read(path)
        if not (path / PROBES.name).is_file():
            raise PyengineError(
                f"{path} holds no results of probes; make some with: "
                f"pyengine heads probe BANK --out {path}"
            )
        return cls(table, read(path, CONCATS), path)

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks, sorted."""
        return sorted(set(self.table["task"].to_pylist()))

    @property
    def models(self) -> list[str]:
        """The names of the models, sorted."""
        return sorted(set(self.table["model"].to_pylist()))

    def where(self, **columns: Any) -> "HeadResults":
        """Keep the rows with these values in these columns, as `probe="ridge"`; None: any.

        Raises:
            PyengineError: for an unknown column, or a value that no row has.
        """
        found = self
        for name, value in columns.items():
            if name not in PROBES.schema.names:
                raise PyengineError(f"results have no column {name!r}: {PROBES.schema.names}")
            known = sorted(set(found.table[name].to_pylist()))
            found = found if value is None else found.only(**{name: value})
            if not found.table.num_rows:
                raise PyengineError(
                    f"no results with {name} {value!r} in {self.folder}; there are: "
                    f"{', '.join(map(str, known))}"
                )
        return found

    def only(self, **columns: Any) -> "HeadResults":
        """Keep the rows with these values in these columns; it may be none."""
        table, concats = self.table, self.concats
        for name, value in columns.items():
            table = table.filter(pc.equal(table[name], value))
            if name not in OF_PLACES:
                concats = concats.filter(pc.equal(concats[name], value))
        return HeadResults(table, concats, self.folder)

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
            PyengineError: where there are no such results, or some that were not made alike.
        """
        kept = self.where(model=model, task=task, location=location)._alike(task).table
        kept = _of_parts(kept, location, whole)
        if not kept.num_rows:
            what = "as a whole" if whole else "head by head"
            raise PyengineError(
                f"{location} of {task} was not probed {what}; do so with: pyengine heads probe "
                f"BANK --out {self.folder} --task {task}{' --whole' if whole else ''}"
            )
        layers, heads = kept["layer"].to_numpy(), np.maximum(kept["head"].to_numpy(), 0)
        shape = (int(layers.max()) + 1, int(heads.max()) + 1)
        sums, counts = np.zeros(shape), np.zeros(shape)
        np.add.at(sums, (layers, heads), kept[part].to_numpy().astype(np.float64))
        np.add.at(counts, (layers, heads), 1)
        return np.divide(sums, counts, out=np.full(shape, np.nan), where=counts > 0)

    def metric(self, task: str) -> str:
        """Return what `scores` of a task are: accuracy, in percent, or pearson."""
        found = self.where(task=task).table["metric"].to_pylist()
        return next(metric for metric in MAIN_METRICS if metric in found)

    def has(self, task: str, location: str = HEAD, whole: bool = False) -> bool:
        """Tell whether there are scores; arguments as `scores`'."""
        same = pc.and_(
            pc.equal(self.table["task"], task), pc.equal(self.table["location"], location)
        )
        return _of_parts(self.table.filter(same), location, whole).num_rows > 0

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

    def _alike(self, task: str) -> "HeadResults":
        for name in ALIKE:
            found = sorted(set(self.table[name].to_pylist()))
            if len(found) > 1:
                raise PyengineError(
                    f"results of {task} were made with several {PLURALS[name]}: "
                    f"{', '.join(found)}; choose one with --where {name}=… (in Python with "
                    f".where({name}=…))"
                )
        return self


def _of_parts(table: pa.Table, location: str, whole: bool) -> pa.Table:
    """Keep the rows of heads, or of places as a whole, that tell the score of a task."""
    heads = location in (HEAD, CROSS) and not whole
    side = pc.greater_equal(table["head"], 0) if heads else pc.less(table["head"], 0)
    return table.filter(pc.and_(side, pc.is_in(table["metric"], pa.array(MAIN_METRICS))))
