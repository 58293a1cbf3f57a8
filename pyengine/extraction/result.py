"""The result of an extraction: what every reducer found, readable without model and corpus."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyengine.extraction.specs import Spec, specs_of
from pyengine.run import RunFolder
from pyengine.shards import TABLE, Arrays, Shard, load_tensors, save_tensors
from pyengine.token_text import TokenText
from pyengine.units import UnitTable

RESULT = "extract.safetensors"

Key = str | tuple[str, ...]


class Extraction(Mapping[Key, list[Any]]):
    """What the reducers found: a mapping of site, or tuple of sites, to a list of results.

    Sites have their canonical names; a pattern that stands for several is the tuple of them. What
    `extract` returns also understands the spelling that it was asked with. The results come in the
    order in which the reducers were given:

    - of a `StreamingTopK` a `TopK` (scores float32, units int64, positions int32, all
      [n_keys, k], empty entries NaN and -1), with `sign="both"` a dictionary of `max` and `min`;
    - of a `Moments` what its `compute` returns;
    - of a reducer of the user's own, that reducer; of a run that was opened, its state's tensors.

    Attributes:
        table: the units that the top-k refer to, with their tokens.
        text: turns token ids into text.
        manifest: settings, model and corpus, as in `manifest.json`.
        record: counters of the pass: n_tokens, n_computed, exact, and n_nan by site: NaN among the
            positions that compete in the site's first top-k (without one: all content tokens).
    """

    def __init__(
        self,
        specs: Sequence[Spec],
        finals: Sequence[Arrays],
        table: UnitTable,
        text: TokenText,
        manifest: dict[str, Any],
        record: dict[str, Any],
    ) -> None:
        self.table, self.text, self.manifest, self.record = table, text, manifest, record
        self._finals = list(finals)
        self._results: dict[Key, list[Any]] = {}
        for spec, final in zip(specs, finals, strict=True):
            self._results.setdefault(spec.key, []).append(spec.result(final))
        self._spelled = {spec.asked: spec.key for spec in specs if spec.asked is not None}

    def __getitem__(self, key: Key) -> list[Any]:
        found = self._results.get(self._spelled.get(key, key))
        if found is None:
            known = "; ".join(str(known) for known in self._results)
            raise KeyError(f"nothing was extracted of {key!r}; known are: {known}")
        return found

    def __iter__(self) -> Iterator[Key]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def unit_tokens(self, unit: int) -> list[int]:
        """Return the content tokens of a unit that some top-k refers to."""
        return self.table.tokens_of(unit).tolist()

    def save(self, folder: str | Path) -> Path:
        """Write a run directory that `pyengine.open_run` reads.

        Raises:
            PyengineError: if the directory holds another run, or cannot be written.
        """
        run = RunFolder.begin(Path(folder), self.manifest)
        self.write(run)
        return run.path

    def write(self, run: RunFolder, **provenance: Any) -> None:
        """Write the result into a run directory and complete it."""
        save_tensors(run.path / RESULT, self.tensors(), self.record)
        names = [name for name in (RESULT, self.text.save(run.path)) if name is not None]
        counters = {name: self.record[name] for name in ("n_tokens", "n_nan", "exact")}
        run.finish(names, counters, n_computed=self.record["n_computed"], **provenance)

    def tensors(self) -> Arrays:
        """Return the arrays of `extract.safetensors`: reducer i's are named `i.…`."""
        arrays = {
            f"{index}.{name}": array
            for index, final in enumerate(self._finals)
            for name, array in final.items()
        }
        return arrays | {f"table.{name}": getattr(self.table, name) for name in TABLE}

    @classmethod
    def open(
        cls, folder: Path, manifest: dict[str, Any], specs: Sequence[Spec] | None = None
    ) -> "Extraction":
        """Read what `write` wrote; `pyengine.open_run` calls this after checking the files."""
        tensors, record = load_tensors(folder / RESULT)
        specs = specs_of(manifest) if specs is None else specs
        finals: list[Arrays] = [{} for _ in specs]
        for key, array in tensors.items():
            owner, _, name = key.partition(".")
            if owner != "table":
                finals[int(owner)][name] = array
        table = UnitTable(**{name: tensors[f"table.{name}"] for name in TABLE})
        return cls(specs, finals, table, TokenText.load(folder), manifest, record)

    @classmethod
    def from_shard(
        cls, specs: Sequence[Spec], shard: Shard, text: TokenText, manifest: dict[str, Any]
    ) -> "Extraction":
        """Turn a complete shard (or a merge of them) into a result."""
        table = shard.table
        assert table is not None, "only complete shards have a table"
        pairs = zip(specs, shard.states, strict=True)
        finals = [spec.final(state, table) for spec, state in pairs]
        sites = dict.fromkeys(site for spec in specs for site in spec.sites)
        counters = {name: shard.record[name] for name in ("n_tokens", "n_computed", "exact")}
        record = counters | {"n_nan": dict(zip(sites, shard.record["n_nan"], strict=True))}
        return cls(specs, finals, table, text, manifest, record)
