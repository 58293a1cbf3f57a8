"""Run directories: results with a manifest, resumable while incomplete, verified on opening."""

import contextlib
import fcntl
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyengine.errors import PyengineError
from pyengine.files import sha256_file
from pyengine.manifest import (
    MANIFEST,
    differences,
    read_manifest,
    write_manifest,
    write_provenance,
)
from pyengine.shards import FOLDER, load_tensors, save_tensors, shard_path
from pyengine.token_text import TokenText

if TYPE_CHECKING:
    from pyengine.analyses.trigger_result import TriggerExamples

RESULT = "triggers.safetensors"


class RunFolder:
    """A run directory that this process may write to.

    Attributes:
        path: the directory.
        manifest: as on disk.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self._started = time.time()

    @classmethod
    def begin(cls, path: Path, manifest: Mapping[str, Any]) -> "RunFolder":
        """Create a run directory, or join the one that is there.

        Raises:
            PyengineError: if it holds something else, or a run that differs; the difference is
                named and nothing is changed.
        """
        if (path / MANIFEST).exists():
            return cls._join(path, manifest)
        if path.exists() and not path.is_dir():
            raise PyengineError(f"{path} is a file; give a directory for the run")
        if path.is_dir() and any(path.iterdir()):
            raise PyengineError(f"{path} is not empty and not a run; give another directory")
        write_manifest(path, manifest)
        return cls(path, dict(manifest))

    @classmethod
    def _join(cls, path: Path, manifest: Mapping[str, Any]) -> "RunFolder":
        existing = read_manifest(path)
        if found := differences(existing, manifest):
            raise PyengineError(
                f"{path} was made with other settings ({'; '.join(found)}); give another directory"
            )
        return cls(path, existing)

    @property
    def complete(self) -> bool:
        return self.manifest["status"] == "complete"

    def shard_file(self, shard: int, n_shards: int) -> Path:
        """Name the checkpoint of a shard."""
        return shard_path(self.path, shard, n_shards)

    @contextlib.contextmanager
    def lock(self, shard: int, n_shards: int) -> Iterator[None]:
        """Keep other processes from working on the same shard.

        Raises:
            PyengineError: if one already does.
        """
        file = self.shard_file(shard, n_shards).with_suffix(".lock")
        file.parent.mkdir(exist_ok=True)
        with file.open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise PyengineError(
                    f"another process is working on shard {shard}/{n_shards} of {self.path}"
                ) from error
            yield
        file.unlink(missing_ok=True)

    def finish(
        self,
        tensors: Mapping[str, np.ndarray],
        record: Mapping[str, Any],
        text: TokenText,
        **provenance: Any,
    ) -> None:
        """Write the result, then the manifest that vouches for it, then drop the checkpoints."""
        save_tensors(self.path / RESULT, tensors, record)
        names = [name for name in (RESULT, text.save(self.path)) if name is not None]
        files = {name: sha256_file(self.path / name) for name in names}
        counters = {name: record[name] for name in ("n_tokens", "n_nan", "exact")}
        self.manifest |= {"status": "complete", "files": files, "result": counters}
        seconds = time.time() - self._started
        write_provenance(
            self.path, {"seconds": seconds, "n_computed": record["n_computed"], **provenance}
        )
        write_manifest(self.path, self.manifest)
        shutil.rmtree(self.path / FOLDER, ignore_errors=True)


def open_run(folder: str | Path) -> "TriggerExamples":
    """Open a complete run, verifying its checksums.

    Raises:
        PyengineError: if it is not a run, is incomplete, or a file is damaged.
    """
    from pyengine.analyses.trigger_result import TriggerExamples

    path = Path(folder)
    manifest = verify(path)
    tensors, record = load_tensors(path / RESULT)
    return TriggerExamples.from_tensors(tensors, TokenText.load(path), manifest, record)


def verify(folder: str | Path) -> dict[str, Any]:
    """Check every file of a run against its checksum; return the manifest.

    Raises:
        PyengineError: naming the first thing that is wrong.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    if manifest["status"] != "complete":
        raise PyengineError(
            f"{path} is incomplete; run its command again to resume, or merge its shards"
        )
    for name, expected in manifest["files"].items():
        if not (path / name).is_file():
            raise PyengineError(f"{path / name} is missing")
        if sha256_file(path / name) != expected:
            raise PyengineError(f"{path / name} is damaged: it does not match its checksum")
    return manifest


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
    run.finish(triggers.tensors(), triggers.record, text, merged_from=[str(f) for f in files])
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
