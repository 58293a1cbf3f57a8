"""Merging the shards of one run, found in one or several run directories."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyengine.errors import PyengineError
from pyengine.manifest import differences, read_manifest
from pyengine.parts import Part, drop_parts, find_parts
from pyengine.run import RunFolder, open_run
from pyengine.shards import FOLDER, check_cover
from pyengine.token_text import TokenText


def merge_runs(
    folders: list[str | Path], out: str | Path, *, allow_mixed: bool = False, n_threads: int = 0
) -> Any:
    """Merge the shards of one run, found in one or several directories, into a complete run.

    Args:
        folders: run directories that hold complete shards.
        out: the run directory to write; may be one of `folders`.
        allow_mixed: accept shards that differ in numerics (device, threads, versions, dtype);
            the result is then recorded as not bit-exact.
        n_threads: 0 takes all cores.

    Returns:
        A `TriggerExamples`, `Predictions` or `FactNeurons`.

    Raises:
        PyengineError: if the shards belong to different runs, or do not cover the corpus.
    """
    paths = [Path(folder) for folder in folders]
    manifests = [read_manifest(path) for path in paths]
    mixed = _check_same_run(paths, manifests, allow_mixed)
    manifest = manifests[0]
    if manifest["analysis"] == "triggers":
        _merge_triggers(paths, Path(out), manifest, mixed, n_threads)
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
    from pyengine.shards import merge_shards

    files = sorted({file.resolve() for path in paths for file in _shard_files(path)})
    merged = merge_shards(
        files, manifest["corpus"]["n_units"], sign=manifest["question"]["sign"], n_threads=n_threads
    )
    if mixed:
        merged.record["exact"] = False
    text = TokenText.load(paths[0])
    triggers = TriggerExamples.from_shard(merged, text, restarted(manifest))
    run = RunFolder.begin(out, triggers.manifest)
    triggers.write(run, merged_from=[str(f) for f in files])


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
    drop_parts(out)


def _predictions(parts: list[Part], run: Path, manifest: dict[str, Any], mixed: bool) -> Any:
    from pyengine.analyses.prediction_run import from_parts

    return from_parts(parts, TokenText.load(run), manifest, mixed=mixed)


def _neurons(parts: list[Part], _run: Path, manifest: dict[str, Any], mixed: bool) -> Any:
    from pyengine.analyses.fact_run import from_parts

    return from_parts(parts, manifest, mixed=mixed)


# Runs whose shards leave part files: how the manifest counts what they cover, and their result.
_OF_PARTS: dict[str, tuple[str, Callable[[list[Part], Path, dict[str, Any], bool], Any]]] = {
    "predictions": ("n_units", _predictions),
    "neurons": ("n_facts", _neurons),
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
