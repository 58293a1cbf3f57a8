"""How the shards of each analysis are merged: files at once, parts when all are there."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pyengine.parts import Part, find_parts
from pyengine.run import RunFolder, open_run, verify
from pyengine.shards import Merge, Shard, ShardMerge, check_cover
from pyengine.token_text import TokenText


class Kind(Protocol):
    """How the shards of an analysis are merged."""

    def add(self, run: Path, file: Path | None) -> None: ...

    def finish(self, out: Path, mixed: bool, provenance: dict[str, Any]) -> Any: ...


class _Files:
    """A shard is a file: merged when it is added."""

    def __init__(self, manifest: dict[str, Any], merges: Sequence[Merge]) -> None:
        self.manifest = manifest
        self.text = TokenText(None)
        self._shards, self._sources = ShardMerge(merges), list[str]()

    def add(self, run: Path, file: Path | None) -> None:
        assert file is not None, "the shards of this analysis are files"
        self._shards.add(file)
        if not self._sources:
            self.text = TokenText.load(run)
        self._sources.append(str(file))

    @property
    def n_units(self) -> int:
        """Units that the shards cover."""
        return int(self.manifest["corpus"]["n_units"])

    def merged(self, mixed: bool) -> Shard:
        merged = self._shards.finish(self.n_units)
        if mixed:
            merged.record["exact"] = False
        return merged

    def write(self, result: Any, out: Path, provenance: dict[str, Any]) -> None:
        run = RunFolder.begin(out, self.manifest)
        result.write(run, merged_from=self._sources, **provenance)


class _Triggers(_Files):
    def __init__(self, manifest: dict[str, Any], n_threads: int, _: Sequence[Any]) -> None:
        from pyengine.extraction.states import merge_heap_arrays

        super().__init__(manifest, [partial(merge_heap_arrays, n_threads=n_threads)])

    def finish(self, out: Path, mixed: bool, provenance: dict[str, Any]) -> Any:
        from pyengine.analyses.trigger_result import TriggerExamples

        found = TriggerExamples.from_shard(self.merged(mixed), self.text, self.manifest)
        self.write(found, out, provenance)
        return open_run(out)


class _Extraction(_Files):
    def __init__(self, manifest: dict[str, Any], n_threads: int, own: Sequence[Any]) -> None:
        from pyengine.extraction.specs import specs_of

        self._specs = specs_of(manifest, own)
        super().__init__(manifest, [spec.merge(n_threads) for spec in self._specs])

    def finish(self, out: Path, mixed: bool, provenance: dict[str, Any]) -> Any:
        from pyengine.extraction.result import Extraction

        found = Extraction.from_shard(self._specs, self.merged(mixed), self.text, self.manifest)
        self.write(found, out, provenance)
        return Extraction.open(out, verify(out), self._specs)


class _Shortcuts(_Files):
    def __init__(self, manifest: dict[str, Any], _n_threads: int, _: Sequence[Any]) -> None:
        from pyengine.shortcuts.fit_run import merges_of

        super().__init__(manifest, merges_of(manifest))

    @property
    def n_units(self) -> int:
        from pyengine.shortcuts.fit_run import n_units_of

        return n_units_of(self.manifest)

    def finish(self, out: Path, mixed: bool, provenance: dict[str, Any]) -> Any:
        from pyengine.shortcuts.fit_run import from_shard

        self.write(from_shard(self.merged(mixed), self.text, self.manifest), out, provenance)
        return open_run(out)


class _Parts:
    """A shard is a number of part files: read, in the corpus's order, when all are there."""

    def __init__(self, manifest: dict[str, Any], _n_threads: int, _: Sequence[Any]) -> None:
        self._manifest, self._runs = manifest, list[Path]()

    def add(self, run: Path, _: Path | None) -> None:
        self._runs.append(run)

    def finish(self, out: Path, mixed: bool, provenance: dict[str, Any]) -> Any:
        units, make = OF_PARTS[self._manifest["analysis"]]
        runs = list(dict.fromkeys(self._runs))
        folders = sorted({run.resolve() for run in runs})
        found = [part for folder in folders for part in find_parts(folder)]
        parts = sorted(found, key=lambda part: part.units)
        check_cover([{"units": part.units} for part in parts], self._manifest["corpus"][units])
        result = make(parts, runs[0], self._manifest, mixed)
        run = RunFolder.begin(out, result.manifest)
        result.write(run, merged_from=[str(run) for run in runs], **provenance)
        return open_run(out)


def _predictions(parts: list[Part], run: Path, manifest: dict[str, Any], mixed: bool) -> Any:
    from pyengine.analyses.prediction_run import from_parts

    return from_parts(parts, TokenText.load(run), manifest, mixed=mixed)


def _neurons(parts: list[Part], _run: Path, manifest: dict[str, Any], mixed: bool) -> Any:
    from pyengine.analyses.fact_run import from_parts

    return from_parts(parts, manifest, mixed=mixed)


def _activations(parts: list[Part], run: Path, manifest: dict[str, Any], mixed: bool) -> Any:
    from pyengine.analyses.cached_activations_run import from_parts

    for part in parts:
        part.check()
    return from_parts(parts, TokenText.load(run), manifest, mixed=mixed)


def _heads(parts: list[Part], run: Path, manifest: dict[str, Any], mixed: bool) -> Any:
    from pyengine.heads.extract import from_parts

    for part in parts:
        part.check()
    return from_parts(parts, run, manifest, mixed=mixed)


# Runs whose shards leave part files: how the manifest counts what they cover, and their result.
OF_PARTS: dict[str, tuple[str, Callable[[list[Part], Path, dict[str, Any], bool], Any]]] = {
    "predictions": ("n_units", _predictions),
    "neurons": ("n_facts", _neurons),
    "activations": ("n_units", _activations),
    "heads": ("n_units", _heads),
}

KINDS: dict[str, Callable[[dict[str, Any], int, Sequence[Any]], Kind]] = {
    "triggers": _Triggers,
    "extract": _Extraction,
    "shortcuts": _Shortcuts,
    **dict.fromkeys(OF_PARTS, _Parts),
}
