"""From a corpus to a token store: stream, tokenise in parallel, write, publish."""

import hashlib
import json
from collections.abc import Callable, Generator, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pyengine.corpus import Corpus, Part
from pyengine.errors import PyengineError
from pyengine.prefetch import newest
from pyengine.store import FORMAT, OFFSETS, TOKENS, TokenStore, tokenizer_hash
from pyengine.token_cache import alone, cache_folder, publish, reusable, temporary, writing
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
    in_thread: bool = False,
) -> Generator[TokenStore]:
    """Do what `pyengine.store.tokenize` says, or `tokenize_ahead`; the whole store comes last."""
    _check(corpus, tokenizer, max_tokens)
    if isinstance(corpus.source, TokenSource):
        yield _in_memory(corpus, corpus.source.chunks(), max_tokens)
        return
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        yield _in_memory(corpus, _encoded(corpus, tokenizer, progress), max_tokens)
        return
    folder = cache_folder(cache_dir) / _key(corpus, tokenizer, max_tokens)
    if (store := reusable(folder)) is not None:
        yield store
        return
    with writing(folder.parent), alone(folder):
        if (store := reusable(folder)) is not None:  # another process has just written it
            yield store
            return
        with temporary(folder) as own:
            stores = _written(own, folder, corpus, tokenizer, max_tokens, progress)
            yield from newest(stores) if in_thread else stores


def is_cached(
    corpus: Corpus, tokenizer: Any, max_tokens: int, cache_dir: str | Path | None
) -> bool:
    """Whether the store of a text is there already."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return False
    return (cache_folder(cache_dir) / _key(corpus, tokenizer, max_tokens)).exists()


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


def _written(own: Path, folder: Path, *how: Any) -> Generator[TokenStore]:
    """Write a store and put it in its place; yield it as it grows, and from there."""
    yield from _write(own, *how)
    publish(own, folder)
    yield TokenStore.open(folder)


def _write(
    folder: Path, corpus: Corpus, tokenizer: Any, max_tokens: int, progress: Progress | None
) -> Generator[TokenStore]:
    """Write a store, yielding what is in its files so far."""
    policy = UnitPolicy(corpus, max_tokens)
    dtype = np.uint16 if max(tokenizer.get_vocab().values()) < 1 << 16 else np.uint32
    end = 0
    with (folder / TOKENS).open("wb") as tokens, (folder / OFFSETS).open("wb") as offsets:
        offsets.write(np.zeros(1, np.int64).data)
        for chunk in policy.apply(_encoded(corpus, tokenizer, progress)):
            tokens.write(chunk.tokens.astype(dtype).data)
            offsets.write((end + np.cumsum(chunk.lengths)).data)
            end += len(chunk.tokens)
            tokens.flush()
            offsets.flush()
            yield TokenStore(*_mapped(folder, dtype), policy.report(), True, content_hash="")
    arrays = _mapped(folder, dtype)
    TokenStore.in_memory(*arrays, policy.report(), adds_special=True).write_meta(folder)


def _mapped(folder: Path, dtype: type[np.unsignedinteger[Any]]) -> tuple[np.ndarray, np.ndarray]:
    files = ((TOKENS, dtype), (OFFSETS, np.int64))
    tokens, offsets = (np.memmap(folder / name, kind, mode="r") for name, kind in files)
    return tokens.view(np.ndarray), offsets.view(np.ndarray)


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
