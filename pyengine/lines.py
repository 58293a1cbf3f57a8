"""Reading text files: lines of UTF-8, plain or compressed, with errors that name the line."""

import contextlib
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from pyengine.errors import PyengineError
from pyengine.files import CHUNK_BYTES, sha256_file

COMPRESSED = (".gz", ".zst")


def check_text(text: Any, where: str) -> str:
    """Return `text` if it is a string that can be written as UTF-8.

    Raises:
        PyengineError: if it is not; `where` names it.
    """
    if not isinstance(text, str):
        raise PyengineError(f"{where} is {type(text).__name__}, not text")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PyengineError(f"{where} holds a lone surrogate, which is not text") from error
    return text


def check_files(paths: str | Path | Iterable[str | Path]) -> tuple[Path, ...]:
    """Return the paths of files that exist.

    Raises:
        PyengineError: if there is none, or one is missing or a folder.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    files = tuple(map(Path, paths))
    if not files:
        raise PyengineError("no file was given")
    for path in files:
        if path.is_dir():
            raise PyengineError(f"{path} is a folder; name the files in it")
        if not path.exists():
            raise PyengineError(f"no such file: {path}")
    return files


def read_lines(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (line with its newline, number from 1, bytes) of a UTF-8 file.

    `.gz` and `.zst` files are decompressed on the way. A byte order mark is left out.

    Raises:
        PyengineError: if the file cannot be read or decompressed, or is not UTF-8 (with the line).
    """
    with _readable(path) as stream:
        for number, raw in enumerate(stream, 1):
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                raise PyengineError(f"{path}:{number}: not UTF-8: {error.reason}") from error
            yield line.removeprefix("\ufeff") if number == 1 else line, number, len(raw)


def read_bytes(path: Path) -> bytes:
    """Return the whole of a file, decompressed if it is a `.gz` or `.zst`.

    Raises:
        PyengineError: if it cannot be read or decompressed.
    """
    with _readable(path) as stream:
        return b"".join(stream)


def plain_size(paths: Iterable[Path]) -> int:
    """Return the bytes of the files; 0 if one is compressed, since its text's size is unknown."""
    paths = list(paths)
    if any(path.suffix in COMPRESSED for path in paths):
        return 0
    return sum(path.stat().st_size for path in paths)


def hash_files(paths: Iterable[Path]) -> str:
    """Hash the bytes of files, and where one ends and the next begins."""
    try:
        return hashlib.sha256("\n".join(map(sha256_file, paths)).encode()).hexdigest()
    except OSError as error:
        raise PyengineError(f"cannot read {error.filename}: {error.strerror}") from error


def hash_texts(texts: Iterable[str]) -> str:
    """Hash texts, and where one ends and the next begins."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


class _ZstdFile(io.RawIOBase):
    """Decompresses frame after frame; unlike the library's reader it refuses a file cut short."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._started = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and (data := self._frame.unused_data or self._raw.read(CHUNK_BYTES)):
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._ready = self._frame.decompress(data)
            self._started = True
        if not self._ready and self._started and not self._frame.eof:
            raise EOFError("the compressed file ends early")
        n = min(len(buffer), len(self._ready))
        buffer[:n], self._ready = self._ready[:n], self._ready[n:]
        return n


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[Iterable[bytes]]:
    try:
        with path.open("rb") as raw:
            if path.suffix == ".gz":
                yield gzip.GzipFile(fileobj=raw)
            elif path.suffix == ".zst":
                yield io.BufferedReader(_ZstdFile(raw), CHUNK_BYTES)
            else:
                yield raw
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PyengineError(f"cannot read {path}: {reason}") from error
