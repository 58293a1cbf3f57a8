"""From a corpus to a token store: stream, tokenise in parallel, write, rename into place."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pyengine.corpus import Corpus, Part
from pyengine.errors import PyengineError
from pyengine.store import FORMAT, OFFSETS, TOKENS, TokenStore, tokenizer_hash
from pyengine.token_sources import Chunk, TokenSource
from pyengine.unit_policy import UnitPolicy, Windows

Progress = Callable[[int, int], None]
Encode = Callable[[list[str]], list[list[int]]]

CHUNK_UNITS = 8192
CHUNK_CHARACTERS = 1 << 23


def build(
    corpus: Corpus,
    tokenizer: Any,
    max_tokens: int,
    cache_dir: str | Path | None,
    progress: Progress | None,
) -> TokenStore:
    """Do what `pyengine.store.tokenize` says."""
    _check(corpus, tokenizer, max_tokens)
    if isinstance(corpus.source, TokenSource):
        return _in_memory(corpus, corpus.source.chunks(), max_tokens)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return _in_memory(corpus, _encoded(corpus, tokenizer, progress), max_tokens)
    folder = _cache_folder(cache_dir) / _key(corpus, tokenizer, max_tokens)
    if (store := _reusable(folder)) is not None:
        return store
    with _writing(folder.parent), _alone(folder):
        if (store := _reusable(folder)) is not None:  # another process has just written it
            return store
        with _temporary(folder) as temporary:
            _write(temporary, corpus, tokenizer, max_tokens, progress)
            _publish(temporary, folder)
        return TokenStore.open(folder)


def _check(corpus: Corpus, tokenizer: Any, max_tokens: int) -> None:
    if max_tokens < 1:
        raise PyengineError(f"no room for content: the longest unit would have {max_tokens} tokens")
    if corpus.window is not None and corpus.window > max_tokens:
        raise PyengineError(f"window={corpus.window} is more than the {max_tokens} tokens that fit")
    if corpus.is_text and tokenizer is None:
        raise PyengineError("text needs a tokenizer, and the model has none; use from_token_ids")


def _in_memory(corpus: Corpus, chunks: Iterator[Chunk], max_tokens: int) -> TokenStore:
    policy = UnitPolicy(corpus, max_tokens)
    kept = list(policy.apply(chunks))
    tokens = np.concatenate([chunk.tokens for chunk in kept])
    lengths = np.concatenate([chunk.lengths for chunk in kept])
    if int(tokens.max()) < 1 << 16:
        tokens = tokens.astype(np.uint16)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return TokenStore.in_memory(tokens, offsets, policy.report(), corpus.is_text)


def _write(
    folder: Path, corpus: Corpus, tokenizer: Any, max_tokens: int, progress: Progress | None
) -> None:
    policy = UnitPolicy(corpus, max_tokens)
    dtype = np.uint16 if max(tokenizer.get_vocab().values()) < 1 << 16 else np.uint32
    end = 0
    with (folder / TOKENS).open("wb") as tokens, (folder / OFFSETS).open("wb") as offsets:
        offsets.write(np.zeros(1, np.int64).data)
        for chunk in policy.apply(_encoded(corpus, tokenizer, progress)):
            tokens.write(chunk.tokens.astype(dtype).data)
            offsets.write((end + np.cumsum(chunk.lengths)).data)
            end += len(chunk.tokens)
    report = policy.report()
    arrays = (
        np.memmap(folder / TOKENS, dtype, mode="r"),
        np.memmap(folder / OFFSETS, np.int64, mode="r"),
    )
    TokenStore.in_memory(*arrays, report, adds_special=True).write_meta(folder)


def _encoded(corpus: Corpus, tokenizer: Any, progress: Progress | None) -> Iterator[Chunk]:
    encode = _encoder(tokenizer)
    assert not isinstance(corpus.source, TokenSource)
    size = corpus.source.size()
    windows = None if corpus.window is None else Windows(corpus.window)
    for parts in _groups(corpus.parts(_real_unk(tokenizer))):
        ids = encode([part.text for part in parts])
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        tokens = np.fromiter(chain.from_iterable(ids), np.uint32, int(lengths.sum()))
        chunk = Chunk(tokens, lengths)
        if windows is not None:
            chunk = windows.cut(chunk, np.array([part.starts_document for part in parts]))
        yield chunk
        if progress is not None:
            progress(parts[-1].done, size)
    if windows is not None:
        yield windows.rest()


def _groups(parts: Iterator[Part]) -> Iterator[list[Part]]:
    group: list[Part] = []
    characters = 0
    for part in parts:
        group.append(part)
        characters += len(part.text)
        if len(group) == CHUNK_UNITS or characters >= CHUNK_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _encoder(tokenizer: Any) -> Encode:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"]
    # A copy: truncation, padding and the like on the caller's tokenizer change from call to call.
    own = Tokenizer.from_str(backend.to_str())
    own.no_truncation()
    own.no_padding()
    own.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))

    def encode(texts: list[str]) -> list[list[int]]:
        encodings = own.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    return encode


def _real_unk(tokenizer: Any) -> str | None:
    unk = getattr(tokenizer, "unk_token", None)
    ends = [getattr(tokenizer, name, None) for name in ("eos_token", "bos_token")]
    return None if unk in ends else unk


def _key(corpus: Corpus, tokenizer: Any, max_tokens: int) -> str:
    split_special = bool(getattr(tokenizer, "split_special_tokens", False))
    unk = _real_unk(tokenizer)
    settings = [FORMAT, corpus.fingerprint(), tokenizer_hash(tokenizer), split_special, unk]
    settings += [len(tokenizer), max_tokens]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def _cache_folder(cache_dir: str | Path | None) -> Path:
    if cache_dir is None:
        cache_dir = os.environ.get("PYENGINE_CACHE") or Path.home() / ".cache" / "pyengine"
    return Path(cache_dir).expanduser() / "tokens"


def _reusable(folder: Path) -> TokenStore | None:
    if not folder.exists():
        return None
    try:
        return TokenStore.open(folder)
    except PyengineError:
        return None  # damaged: built again, and replaced


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PyengineError(
            f"cannot write the token cache {folder}: {error.strerror or error}; "
            "set PYENGINE_CACHE or cache_dir to a folder with room"
        ) from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for other processes that write the same store."""
    locks = folder.parent.parent / "locks"
    for path in (folder.parent, locks):
        path.mkdir(parents=True, exist_ok=True)
    with (locks / f"{folder.name}.lock").open("w") as stream:
        with contextlib.suppress(OSError):  # without locks here it may be tokenised twice
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    # Nobody else writes this store now: what is there was left by a process that was killed.
    for left in folder.parent.glob(f".{folder.name[:16]}.*"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = _sibling(folder)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, folder: Path) -> None:
    """Sync the files and rename their folder into place, over a damaged one if there is one."""
    for path in temporary.iterdir():
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())
    if folder.exists() and _reusable(folder) is None:
        damaged = _sibling(folder)
        folder.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        temporary.rename(folder)
    except OSError as error:
        # Another process has published the same store first; it is as good as ours.
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _sibling(folder: Path) -> Path:
    return folder.parent / f".{folder.name[:16]}.{uuid.uuid4().hex}"
