"""The result of a fact run: tables, readable without the model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from pyengine.analyses.agreement_result import read_table, write_table
from pyengine.analyses.fact_relations import by_layer, by_relation
from pyengine.analyses.fact_tables import FILES, SCHEMAS, join
from pyengine.errors import PyengineError
from pyengine.neurons import Neuron, relation_neurons
from pyengine.run import RunFolder

RELATIONS_FILE, LAYERS_FILE = "relations.parquet", "layers.parquet"


@dataclass(frozen=True, eq=False)
class FactNeurons:
    """The knowledge neurons of facts, and what becomes of the answers when they are changed.

    Attributes:
        facts: one row per fact that was asked, ascending by `fact`, its number in the run (by
            relation, in order of first appearance): uid, relation, subject, object; n_prompts that
            the model took; n_neurons; n_coarse, the mean number of neurons that stand out in one
            prompt; share, of the prompts that must agree (above it; tuned: from it on);
            unrelated, the number of the fact of another relation, null without one; converged,
            whether every prompt and layer is (of the adaptive rule); completeness, the largest
            residual of the scores' sums relative to the largest change, over prompts and layers
            (null where nothing changes).
        neurons: one row per fact and neuron, in order of first appearance: fact, layer, dim,
            n_prompts (in how many it stands out).
        effects: one row per fact and prompt, first its `own`, then those of its `unrelated` fact
            (`kind`): prompt (its number), text, target; and before, suppressed and enhanced by the
            fact's own neurons: probability of the target, its rank (0 is best), whether it is
            correct (rank 0), and the model's own completion.
        skipped: the facts that were not asked: fact, uid, relation, object, reason.
        manifest: settings, model and facts, as in `manifest.json`.
        record: counters: n_facts, n_prompts (asked), n_skipped; exact, False if memory was short
            on the way, or shards of different numerics were put together.
    """

    facts: pa.Table
    neurons: pa.Table
    effects: pa.Table
    skipped: pa.Table
    manifest: dict[str, Any]
    record: dict[str, Any]

    @cached_property
    def relations(self) -> pa.Table:
        """One row per relation, the last over all; see `fact_relations.by_relation`."""
        return by_relation(self.facts, self.effects)

    @cached_property
    def layers(self) -> pa.Table:
        """One row per layer of the model: layer, n_neurons (counted over facts), share."""
        return by_layer(self.neurons, self.manifest["model"]["n_layers"])

    def by_uid(self) -> dict[str, list[Neuron]]:
        """Return the neurons of every fact that was asked, some of them none."""
        uids = dict(zip(*(self.facts[name].to_pylist() for name in ("fact", "uid")), strict=True))
        found: dict[str, list[Neuron]] = {uid: [] for uid in uids.values()}
        columns = (self.neurons[name].to_pylist() for name in ("fact", "layer", "dim"))
        for fact, layer, dim in zip(*columns, strict=True):
            found[uids[fact]].append(Neuron(layer, dim))
        return found

    def relation_neurons(self, relation: str, share: float = 0.1) -> dict[Neuron, int]:
        """Return the neurons of a relation, and of how many facts each is.

        See `pyengine.neurons.relation_neurons`.

        Raises:
            PyengineError: for a relation that no fact of this run has.
        """
        relations, neurons = self.relation_of(), self.by_uid()
        if relation not in relations.values():
            known = ", ".join(dict.fromkeys(relations.values()))
            raise PyengineError(f"this run holds no relation {relation!r}; it holds {known}")
        own = [neurons[uid] for uid, name in relations.items() if name == relation]
        return relation_neurons(own, share)

    def relation_of(self) -> dict[str, str]:
        """Return the relation of every fact that was asked, by uid."""
        columns = (self.facts[name].to_pylist() for name in ("uid", "relation"))
        return dict(zip(*columns, strict=True))

    def save(self, folder: str | Path) -> Path:
        """Write a run directory that `pyengine.open_run` reads; equal results, equal bytes.

        Raises:
            PyengineError: if the directory holds another run, or cannot be written.
        """
        from pyengine.merge_runs import restarted

        run = RunFolder.begin(Path(folder), restarted(self.manifest))
        self.write(run)
        return run.path

    def write(self, run: RunFolder, **provenance: Any) -> None:
        """Write the result into a run directory and complete it."""
        for left in run.path.glob(".*.parquet.*"):  # a killed attempt's temporary file
            left.unlink(missing_ok=True)
        for name, file in FILES.items():
            write_table(getattr(self, name), run.path / file)
        # Made from the others: for people.
        write_table(self.relations, run.path / RELATIONS_FILE)
        write_table(self.layers, run.path / LAYERS_FILE)
        run.finish([*FILES.values(), RELATIONS_FILE, LAYERS_FILE], self.record, **provenance)

    @classmethod
    def open(cls, folder: Path, manifest: dict[str, Any]) -> "FactNeurons":
        """Read what `write` wrote; `pyengine.open_run` calls this after checking the files."""
        found = {name: read_table(folder / file) for name, file in FILES.items()}
        tables = {name: join([found[name]], schema) for name, schema in SCHEMAS.items()}
        return cls(**tables, manifest=manifest, record=manifest["result"])

    @classmethod
    def of(
        cls, tables: Mapping[str, list[pa.Table]], manifest: dict[str, Any], record: dict[str, Any]
    ) -> "FactNeurons":
        """Put the tables of blocks together, in the order given."""
        whole = {name: join(tables[name], schema) for name, schema in SCHEMAS.items()}
        return cls(**whole, manifest=manifest, record=record)
