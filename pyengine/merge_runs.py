"""Merging the shards of one run, found in one or several run directories."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyengine.errors import PyengineError
from pyengine.manifest import differences, read_manifest
from pyengine.run import RunFolder, open_run
from pyengine.shards import FOLDER
from pyengine.token_text import TokenText

if TYPE_CHECKING:
    from pyengine.analyses.trigger_result import TriggerExamples


def merge_runs(
    folders: list[str | Path], out: str | Path, *, allow_mixed: bool = False, n_threads: int = 0
) -> "TriggerExamples":
    """Merge the shards of one run, found in one or several directories, into a complete run.

    Args:
        folders: run directories that hold complete shards.
        out: the run directory to write; may be one of `folders`.
        allow_mixed: accept shards that differ in numerics (device, threads, versions, dtype);
            the result is then recorded as not bit-exact.
        n_threads: 0 takes all cores.

    Raises:
        PyengineError: if the shards belong to different runs, or do not cover the corpus.
    """
    from pyengine.analyses.trigger_result import TriggerExamples
    from pyengine.shards import merge_shards

    paths = [Path(folder) for folder in folders]
    manifests = [read_manifest(path) for path in paths]
    mixed = _check_same_run(paths, manifests, allow_mixed)
    files = sorted({file.resolve() for path in paths for file in _shard_files(path)})
    first = manifests[0]
    merged = merge_shards(
        files, first["corpus"]["n_units"], sign=first["question"]["sign"], n_threads=n_threads
    )
    if mixed:
        merged.record["exact"] = False
    text = TokenText.load(paths[0])
    triggers = TriggerExamples.from_shard(merged, text, _restarted(first))
    run = RunFolder.begin(Path(out), triggers.manifest)
    triggers.write(run, merged_from=[str(f) for f in files])
    return open_run(out)


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


def _restarted(manifest: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in manifest.items() if k not in ("files", "result")}
    return {**kept, "status": "incomplete"}
