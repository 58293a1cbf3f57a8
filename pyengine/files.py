"""Files that are either whole or absent: write to a temporary name, sync, rename."""

import contextlib
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from pyengine.errors import PyengineError

CHUNK_BYTES = 1 << 20
SUFFIX = ".tmp"


def atomic_write(path: str | Path, write: Callable[[Path], None]) -> None:
    """Create `path` by calling `write(temporary_path)`, then fsync and rename.

    A crash at any moment leaves either the old file or the new one, never a part of one.

    Raises:
        PyengineError: if the folder is read-only or the disk is full; `path` is then unchanged.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=SUFFIX)
    except OSError as error:
        raise PyengineError(f"cannot write {path}: {error.strerror or error}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise PyengineError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def atomic_folder(folder: str | Path, write: Callable[[Path], None]) -> None:
    """Create `folder` by calling `write(temporary_folder)`, then fsync its files and rename.

    Raises:
        PyengineError: if it exists and is not empty, or cannot be written; it is then unchanged.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PyengineError(f"{folder} exists already; give a new directory")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        name = tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=SUFFIX)
    except OSError as error:
        raise PyengineError(f"cannot write {folder}: {error.strerror or error}") from error
    temporary = Path(name)
    try:
        write(temporary)
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb+") as stream:
                    os.fsync(stream.fileno())
        temporary.chmod(0o777 & ~_umask())
        os.replace(temporary, folder)
        _sync_folder(folder.parent)
    except OSError as error:
        raise PyengineError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 through `atomic_write`."""
    atomic_write(path, lambda temporary: _write_text(temporary, text))


def create_text(path: Path, text: str) -> bool:
    """Write `text` as UTF-8 to a new file; of several processes that try, one does.

    Returns:
        Whether this one did.

    Raises:
        PyengineError: if the folder is read-only or the disk is full.
    """
    own = path.with_name(f".{path.name}.{uuid.uuid4().hex}{SUFFIX}")
    atomic_write_text(own, text)
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: the last one does
        os.replace(own, path)
    finally:
        own.unlink(missing_ok=True)
    return True


def is_temporary(path: Path) -> bool:
    """Whether a file is being written, or its writer died."""
    return path.name.startswith(".") and path.name.endswith(SUFFIX)


def sha256_file(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes, reading it in chunks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    # Some network file systems refuse to sync a folder; the rename itself is still atomic there.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def second_name(source: Path, target: Path) -> None:
    """Give a file a second name; where the file system has none, copy it."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        atomic_write(target, lambda temporary: _copy(source, temporary))


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
