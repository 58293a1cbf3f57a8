"""Run directories: results with a manifest, resumable while incomplete, verified on opening."""

import contextlib
import fcntl
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pyengine import parts, shards
from pyengine.errors import PyengineError
from pyengine.files import is_temporary, sha256_file
from pyengine.manifest import (
    MANIFEST,
    create_manifest,
    differences,
    read_manifest,
    write_manifest,
    write_provenance,
)
from pyengine.scale import tasks

# What a complete run of each analysis opens as: a class with `open(folder, manifest)`.
_RESULTS = {
    "extract": ("pyengine.extraction.result", "Extraction"),
    "triggers": ("pyengine.analyses.trigger_result", "TriggerExamples"),
    "agreement": ("pyengine.analyses.agreement_result", "Agreement"),
    "predictions": ("pyengine.analyses.prediction_result", "Predictions"),
    "neurons": ("pyengine.analyses.fact_neuron_result", "FactNeurons"),
    "activations": ("pyengine.analyses.cached_activations_result", "CachedActivations"),
    "shortcuts": ("pyengine.shortcuts.result", "Shortcuts"),
    "shortcut_scores": ("pyengine.shortcuts.evaluation", "Evaluation"),
    "heads": ("pyengine.heads.bank", "HeadBank"),
}


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
        if path.exists() and not path.is_dir():
            raise PyengineError(f"{path} is a file; give a directory for the run")
        others = [] if not path.is_dir() else [p for p in path.iterdir() if not is_temporary(p)]
        # In this order: other processes may begin the same run, and write its manifest first.
        if (path / MANIFEST).exists():
            return cls._join(path, manifest)
        if others:
            raise PyengineError(f"{path} is not empty and not a run; give another directory")
        if create_manifest(path, manifest):
            return cls(path, dict(manifest))
        return cls._join(path, manifest)

    @classmethod
    def _join(cls, path: Path, manifest: Mapping[str, Any]) -> "RunFolder":
        existing = read_manifest(path)
        if found := differences(existing, manifest):
            raise PyengineError(
                f"{path} was made with other settings ({'; '.join(found)}); give another directory"
            )
        run = cls(path, existing)
        if run.complete:  # perhaps killed before the last step of `finish`
            run._tidy()
        return run

    @property
    def complete(self) -> bool:
        return self.manifest["status"] == "complete"

    def shard_file(self, shard: int, n_shards: int) -> Path:
        """Name the checkpoint of a shard."""
        return shards.shard_path(self.path, shard, n_shards)

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
            except BlockingIOError as error:
                raise PyengineError(
                    f"another process is working on shard {shard}/{n_shards} of {self.path}"
                ) from error
            except OSError as error:
                raise PyengineError(f"cannot lock {file}: {error.strerror or error}") from error
            yield
        file.unlink(missing_ok=True)

    def finish(self, files: Iterable[str], result: Mapping[str, Any], **provenance: Any) -> None:
        """Write the manifest that vouches for the files, then drop checkpoints and parts.

        Args:
            files: names of the result's files in this directory, already written.
            result: what the manifest says about the result: counters, never times.
            provenance: what may differ between two runs with the same bits.
        """
        sums = {name: sha256_file(self.path / name) for name in files}
        self.manifest |= {"status": "complete", "files": sums, "result": dict(result)}
        write_provenance(self.path, {"seconds": time.time() - self._started, **provenance})
        write_manifest(self.path, self.manifest)
        self._tidy()

    def _tidy(self) -> None:
        """Leave nothing but the result; nobody writes to a complete run."""
        for folder in (shards.FOLDER, parts.FOLDER, tasks.FOLDER):
            shutil.rmtree(self.path / folder, ignore_errors=True)
        for file in filter(is_temporary, list(self.path.rglob("*"))):
            file.unlink(missing_ok=True)


def open_run(folder: str | Path) -> Any:
    """Open a complete run, verifying its checksums.

    Returns:
        What its analysis gives: a `TriggerExamples`, `Extraction`, `Agreement`, `Predictions`,
        `FactNeurons`, `CachedActivations`, `Shortcuts`, the `Evaluation` of these, or a
        `HeadBank`.

    Raises:
        PyengineError: if it is not a run, is incomplete, or a file is damaged.
    """
    path = Path(folder)
    manifest = verify(path)
    if manifest["analysis"] not in _RESULTS:
        raise PyengineError(f"{path} holds an unknown analysis, {manifest['analysis']!r}")
    module, name = _RESULTS[manifest["analysis"]]
    return getattr(import_module(module), name).open(path, manifest)


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
