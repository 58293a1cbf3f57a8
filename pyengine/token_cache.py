"""The folders of token stores in the cache: each written by one process, published whole."""

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from pyengine.errors import PyengineError
from pyengine.store import TokenStore


def cache_folder(cache_dir: str | Path | None) -> Path:
    """Return where the stores are; None: in the user's cache."""
    if cache_dir is None:
        cache_dir = os.environ.get("PYENGINE_CACHE") or Path.home() / ".cache" / "pyengine"
    return Path(cache_dir).expanduser() / "tokens"


def reusable(folder: Path) -> TokenStore | None:
    """Open a store that is there and whole."""
    if not folder.exists():
        return None
    try:
        return TokenStore.open(folder)
    except PyengineError:
        return None  # damaged: built again, and replaced


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say what cannot be written, and what to do."""
    try:
        yield
    except OSError as error:
        remedy = "set PYENGINE_CACHE or cache_dir to a folder with room"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            remedy = "close some, or allow more (ulimit -n)"
        raise PyengineError(
            f"cannot write the token cache {folder}: {error.strerror or error}; {remedy}"
        ) from error


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait for other processes that write the same store."""
    locks = folder.parent.parent / "locks"
    for path in (folder.parent, locks):
        path.mkdir(parents=True, exist_ok=True)
    with (locks / f"{folder.name}.lock").open("w") as stream:
        with contextlib.suppress(OSError):  # without locks here it may be tokenised twice
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def temporary(folder: Path) -> Iterator[Path]:
    """Make a folder beside it to write in, which is gone afterwards unless published."""
    # Nobody else writes this store now: what is there was left by a process that was killed.
    for left in folder.parent.glob(f".{folder.name[:16]}.*"):
        shutil.rmtree(left, ignore_errors=True)
    own = sibling(folder)
    own.mkdir()
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def publish(own: Path, folder: Path) -> None:
    """Sync the files and rename their folder into place, over a damaged one if there is one."""
    for path in own.iterdir():
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())
    if folder.exists() and reusable(folder) is None:
        damaged = sibling(folder)
        folder.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        own.rename(folder)
    except OSError as error:
        # Another process has published the same store first; it is as good as ours.
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def sibling(folder: Path) -> Path:
    """Name a new folder beside it."""
    return folder.parent / f".{folder.name[:16]}.{uuid.uuid4().hex}"
