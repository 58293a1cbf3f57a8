"""Merging the shards of one run, found in one or several run directories."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyengine.errors import PyengineError
from pyengine.manifest import differences, read_manifest
from pyengine.merge_kinds import KINDS, OF_PARTS
from pyengine.shards import FOLDER


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
        A `TriggerExamples`, `Extraction`, `Predictions`, `FactNeurons`, `CachedActivations`,
        `Shortcuts` or `HeadBank`.

    Raises:
        PyengineError: if the shards belong to different runs, or do not cover the corpus.
    """
    paths = [Path(folder) for folder in folders]
    manifests = [read_manifest(path) for path in paths]
    mixed = _check_same_run(paths, manifests, allow_mixed)
    merge = RunMerge(manifests[0], n_threads=n_threads, reducers=reducers)
    for run, file in _shards_in(paths, manifests):
        merge.add(run, file)
    return merge.finish(out, mixed=mixed)


class RunMerge:
    """Merges the shards of one run as they come; two are in memory at a time.

    The result has the same bits for any order of the shards.

    Args:
        manifest: of the run.
        n_threads: 0 takes all cores.
        reducers: of a run of `extract`, fresh instances of the user's own reducers, in its order.

    Raises:
        PyengineError: if a run of this analysis has no shards, or its reducers are not these.
    """

    def __init__(
        self, manifest: dict[str, Any], *, n_threads: int = 0, reducers: Sequence[Any] = ()
    ) -> None:
        analysis = manifest["analysis"]
        if analysis not in KINDS:
            raise PyengineError(f"a run of {analysis} has no shards to merge")
        if reducers and analysis != "extract":
            raise PyengineError(f"a run of {analysis} has no reducers")
        self._kind = KINDS[analysis](restarted(manifest), n_threads, reducers)

    def add(self, run: Path, file: Path | None = None) -> None:
        """Merge one shard.

        Args:
            run: the run directory that it belongs to.
            file: its file. Where the analysis leaves parts, nothing but `run` is looked at, and
                not before `finish`.

        Raises:
            PyengineError: if the file is missing, damaged or incomplete.
        """
        self._kind.add(run, file)

    def finish(self, out: str | Path, *, mixed: bool = False, **provenance: Any) -> Any:
        """Write the complete run.

        Args:
            out: the run directory to write; may be one of those that were added.
            mixed: whether the shards differ in numerics; the result is then not bit-exact.
            provenance: what may differ between two runs with the same bits.

        Returns:
            As `merge_runs`.

        Raises:
            PyengineError: if a shard is missing, or was added twice.
        """
        return self._kind.finish(Path(out), mixed, provenance)


def restarted(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of the same run before it was complete."""
    kept = {k: v for k, v in manifest.items() if k not in ("files", "result")}
    return {**kept, "status": "incomplete"}


def _shards_in(
    paths: list[Path], manifests: list[dict[str, Any]]
) -> list[tuple[Path, Path | None]]:
    """List the shards in some run directories, each file once."""
    if manifests[0]["analysis"] not in OF_PARTS:
        of_file = {file.resolve(): path for path in paths for file in _shard_files(path)}
        return [(of_file[file], file) for file in sorted(of_file)]
    for path, manifest in zip(paths, manifests, strict=True):
        if manifest["status"] == "complete":
            raise PyengineError(f"{path} holds no shards; is it already merged?")
    return [(path, None) for path in paths]


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
