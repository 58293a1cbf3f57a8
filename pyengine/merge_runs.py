"""Merging the shards of one run, found in one or several run directories."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pyengine.errors import PyengineError
from pyengine.manifest import differences, read_manifest
from pyengine.parts import Part, find_parts
from pyengine.run import RunFolder, open_run, verify
from pyengine.shards import FOLDER, Merge, Shard, check_cover, merge_shards
from pyengine.token_text import TokenText


def merge_runs(
    folders: list[str | Path],
    out: str | Path,
    *,
    allow_mixed: bool = False,
    n_threads: int = 0,
    reducers: Sequence[Any] = (),
) -> Any:
    """Merge the shards of one run, found in one or several directories, into a complete run.

    Args:
        folders: run directories that hold complete shards.
        out: the run directory to write; may be one of `folders`.
        allow_mixed: accept shards that differ in numerics (device, threads, versions, dtype);
            the result is then recorded as not bit-exact.
        n_threads: 0 takes all cores.
        reducers: of a run of `extract`, fresh instances of the user's own reducers, in its order.

    Returns:
        A `TriggerExamples`, `Extraction`, `Predictions` or `FactNeurons`.

    Raises:
        PyengineError: if the shards belong to different runs, or do not cover the corpus.
    """
    paths = [Path(folder) for folder in folders]
    manifests = [read_manifest(path) for path in paths]
    mixed = _check_same_run(paths, manifests, allow_mixed)
    manifest = manifests[0]
    if reducers and manifest["analysis"] != "extract":
        raise PyengineError(f"{paths[0]} holds {manifest['analysis']}, which has no reducers")
    if manifest["analysis"] == "triggers":
        _merge_triggers(paths, Path(out), manifest, mixed, n_threads)
    elif manifest["analysis"] == "extract":
        return _merge_extraction(paths, Path(out), manifest, mixed, n_threads, reducers)
    elif manifest["analysis"] in _OF_PARTS:
        _merge_parts(paths, Path(out), manifest, mixed)
    else:
        raise PyengineError(f"{paths[0]} holds no shards: {manifest['analysis']} has none")
    return open_run(out)


def restarted(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of the same run before it was complete."""
    kept = {k: v for k, v in manifest.items() if k not in ("files", "result")}
    return {**kept, "status": "incomplete"}


def _merge_triggers(
    paths: list[Path], out: Path, manifest: dict[str, Any], mixed: bool, n_threads: int
) -> None:
    from pyengine.analyses.trigger_result import TriggerExamples
    from pyengine.extraction.states import merge_heap_arrays

    merge = partial(merge_heap_arrays, n_threads=n_threads)
    merged, provenance = _merged_shards(paths, manifest, mixed, [merge])
    triggers = TriggerExamples.from_shard(merged, TokenText.load(paths[0]), restarted(manifest))
    triggers.write(RunFolder.begin(out, triggers.manifest), **provenance)


def _merge_extraction(
    paths: list[Path],
    out: Path,
    manifest: dict[str, Any],
    mixed: bool,
    n_threads: int,
    reducers: Sequence[Any],
) -> Any:
    from pyengine.extraction.result import Extraction
    from pyengine.extraction.specs import specs_of

    specs = specs_of(manifest, reducers)
    merges = [spec.merge(n_threads) for spec in specs]
    merged, provenance = _merged_shards(paths, manifest, mixed, merges)
    text, manifest = TokenText.load(paths[0]), restarted(manifest)
    found = Extraction.from_shard(specs, merged, text, manifest)
    found.write(RunFolder.begin(out, manifest), **provenance)
    return Extraction.open(out, verify(out), specs)


def _merged_shards(
    paths: list[Path], manifest: dict[str, Any], mixed: bool, merges: Sequence[Merge]
) -> tuple[Shard, dict[str, Any]]:
    """Merge the shard files of some run directories; also say where they came from."""
    files = sorted({file.resolve() for path in paths for file in _shard_files(path)})
    merged = merge_shards(files, manifest["corpus"]["n_units"], merges)
    if mixed:
        merged.record["exact"] = False
    return merged, {"merged_from": [str(file) for file in files]}


def _merge_parts(paths: list[Path], out: Path, manifest: dict[str, Any], mixed: bool) -> None:
    units, make = _OF_PARTS[manifest["analysis"]]
    folders = sorted({path.resolve() for path in paths})
    for folder in folders:
        if read_manifest(folder)["status"] == "complete":
            raise PyengineError(f"{folder} holds no shards; is it already merged?")
    found = [part for folder in folders for part in find_parts(folder)]
    parts = sorted(found, key=lambda part: part.units)
    check_cover([{"units": part.units} for part in parts], manifest["corpus"][units])
    result = make(parts, paths[0], restarted(manifest), mixed)
    run = RunFolder.begin(out, result.manifest)
    result.write(run, merged_from=[str(path) for path in paths])


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


# Runs whose shards leave part files: how the manifest counts what they cover, and their result.
_OF_PARTS: dict[str, tuple[str, Callable[[list[Part], Path, dict[str, Any], bool], Any]]] = {
    "predictions": ("n_units", _predictions),
    "neurons": ("n_facts", _neurons),
    "activations": ("n_units", _activations),
}


def _check_same_run(paths: list[Path], manifests: list[dict[str, Any]], allow_mixed: bool) -> bool:
    mixed = False
    for path, manifest in zip(paths[1:], manifests[1:], strict=True):
        ignore = ("numerics",) if allow_mixed else ()
        if found := differences(manifests[0], manifest, ignore):
            raise PyengineError(
                f"{path} is not a shard of the run in {paths[0]} ({'; '.join(found)})"
                + ("" if allow_mixed else "; --allow-mixed accepts other numerics")
            )
        mixed |= bool(differences(manifests[0], manifest))
    return mixed


def _shard_files(folder: Path) -> list[Path]:
    found = sorted((folder / FOLDER).glob("*.safetensors"))
    if not found:
        raise PyengineError(f"{folder} holds no shards; is it already merged?")
    return found
