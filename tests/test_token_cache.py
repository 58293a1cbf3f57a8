"""The cache of token stores: tokenised once, never half, never stale."""

import errno
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_tokenizers import byte_tokenizer, word_tokenizer

from pyengine import token_cache, tokenizing
from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.store import META, OFFSETS, TOKENS, TokenStore, tokenize

TEXTS = ["the cat sat .", "a dog", "the cat on the mat !", "one"]


def folders(cache: Path) -> list[Path]:
    return sorted((cache / "tokens").iterdir())


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the calls that tokenise."""
    calls: list[int] = []
    encoder = tokenizing._encoder

    def counting(tokenizer: object) -> tokenizing.Encode:
        encode = encoder(tokenizer)
        return lambda texts: calls.append(len(texts)) or encode(texts)  # type: ignore[func-returns-value]

    monkeypatch.setattr(tokenizing, "_encoder", counting)
    return calls


def test_the_second_call_does_not_tokenise(tmp_path: Path, counted: list[int]) -> None:
    def store(corpus: Corpus, max_tokens: int = 99, tokenizer: object = None) -> TokenStore:
        tokenizer = tokenizer or word_tokenizer()
        return tokenize(corpus, tokenizer, max_tokens=max_tokens, cache_dir=tmp_path)

    first = store(Corpus.from_texts(TEXTS))
    again = store(Corpus.from_texts(list(TEXTS)))
    assert counted == [4]
    assert again.content_hash == first.content_hash and again.report == first.report
    assert again.tokens.tolist() == first.tokens.tolist()
    assert len(folders(tmp_path)) == 1
    for other in (
        Corpus.from_texts(TEXTS[:3]),
        Corpus.from_texts(TEXTS, max_units=2),
        Corpus.from_texts(TEXTS, long="drop"),
        Corpus.from_texts(TEXTS, unit="sentence"),
        Corpus.from_texts(TEXTS, unit="window", window=2),
    ):
        store(other)
    store(Corpus.from_texts(TEXTS), max_tokens=3)
    store(Corpus.from_texts(TEXTS), tokenizer=byte_tokenizer())
    assert len(counted) == 8 and len(folders(tmp_path)) == 8


def test_the_key_is_the_content_of_the_file_not_its_name(
    tmp_path: Path, counted: list[int]
) -> None:
    a, b, cache = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "cache"
    for path in (a, b):
        path.write_text("the cat\n")
        tokenize(Corpus.from_path(path), word_tokenizer(), max_tokens=9, cache_dir=cache)
    assert counted == [1]
    b.write_text("the dog\n")
    tokenize(Corpus.from_path(b), word_tokenizer(), max_tokens=9, cache_dir=cache)
    # The same bytes read as WikiText are other texts.
    tokenize(Corpus.from_path(b, "wikitext"), word_tokenizer(), max_tokens=9, cache_dir=cache)
    assert counted == [1, 1, 1]


@pytest.mark.parametrize("name", [TOKENS, OFFSETS, META])
@pytest.mark.parametrize("how", ["cut", "flip", "delete", "empty"])
def test_a_damaged_store_is_built_again(
    tmp_path: Path, counted: list[int], name: str, how: str
) -> None:
    def store() -> TokenStore:
        return tokenize(
            Corpus.from_texts(TEXTS), word_tokenizer(), max_tokens=99, cache_dir=tmp_path
        )

    expected = store().tokens.tolist()
    [folder] = folders(tmp_path)
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    if how == "cut":
        (folder / name).write_bytes(data[:-1])
    elif how == "flip":
        (folder / name).write_bytes(data[:4] + bytes([data[4] ^ 1]) + data[5:])
    elif how == "empty":
        (folder / name).write_bytes(b"")
    if name == META and how == "cut":  # only the last newline is gone
        (folder / name).write_bytes(data[:-3])
    with pytest.raises(PyengineError, match="damaged"):
        TokenStore.open(folder)
    assert store().tokens.tolist() == expected
    assert counted == [4, 4]
    assert folders(tmp_path) == [folder]
    assert sorted(path.name for path in folder.iterdir()) == sorted([TOKENS, OFFSETS, META])


def test_another_format_is_not_read(tmp_path: Path) -> None:
    tokenize(Corpus.from_texts(TEXTS), word_tokenizer(), max_tokens=99, cache_dir=tmp_path)
    [folder] = folders(tmp_path)
    meta = json.loads((folder / META).read_text())
    (folder / META).write_text(json.dumps(meta | {"format": 99}))
    with pytest.raises(PyengineError, match="another format"):
        TokenStore.open(folder)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    path, cache = tmp_path / "a.txt", tmp_path / "cache"
    path.write_bytes(b"the cat\n\xff\n")
    with pytest.raises(PyengineError, match=r"a\.txt:2"):
        tokenize(Corpus.from_path(path), word_tokenizer(), max_tokens=9, cache_dir=cache)
    assert folders(cache) == []


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    corpus = Corpus.from_texts(TEXTS)
    first = tokenize(corpus, word_tokenizer(), max_tokens=99, cache_dir=tmp_path)
    [folder] = folders(tmp_path)
    folder.rename(token_cache.sibling(folder))  # written, killed before it was published
    others = folder.parent / ".another-store.0123"
    others.mkdir()
    again = tokenize(corpus, word_tokenizer(), max_tokens=99, cache_dir=tmp_path)
    assert again.content_hash == first.content_hash
    assert folders(tmp_path) == sorted([folder, others])


def test_another_process_may_publish_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, other = Corpus.from_texts(TEXTS), tmp_path / "other"
    expected = tokenize(corpus, word_tokenizer(), max_tokens=99, cache_dir=other)
    write = tokenizing._write

    def late(folder: Path, *arguments: object) -> Iterator[TokenStore]:
        yield from write(folder, *arguments)  # type: ignore[arg-type]
        [theirs] = folders(other)
        shutil.copytree(theirs, folder.parent / theirs.name)

    monkeypatch.setattr(tokenizing, "_write", late)
    store = tokenize(corpus, word_tokenizer(), max_tokens=99, cache_dir=tmp_path / "mine")
    assert store.content_hash == expected.content_hash
    assert [path.name for path in folders(tmp_path / "mine")] == [folders(other)[0].name]


def test_an_unwritable_cache_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(PyengineError, match=r"cannot write the token cache .*PYENGINE_CACHE"):
        tokenize(Corpus.from_texts(TEXTS), word_tokenizer(), max_tokens=9, cache_dir=file)


def test_too_many_open_files_are_not_a_lack_of_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(tokenizing, "publish", refused)
    with pytest.raises(PyengineError, match=r"Too many open files; .*ulimit -n") as caught:
        tokenize(Corpus.from_texts(TEXTS), word_tokenizer(), max_tokens=9, cache_dir=tmp_path)
    assert "room" not in str(caught.value)


def test_the_cache_folder_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYENGINE_CACHE", str(tmp_path / "here"))
    tokenize(Corpus.from_texts(TEXTS), word_tokenizer(), max_tokens=9)
    assert len(folders(tmp_path / "here")) == 1


def test_writers_of_the_same_store_wait_for_each_other(tmp_path: Path) -> None:
    """Each opens the lock anew, so that threads stand for processes here."""

    def work(_: int) -> tuple[bool, str]:
        calls: list[int] = []
        store = tokenize(
            Corpus.from_texts(TEXTS * 2000),
            word_tokenizer(),
            max_tokens=9,
            cache_dir=tmp_path,
            progress=lambda *_: calls.append(1),
        )
        return bool(calls), store.content_hash

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(work, range(3)))
    assert sorted(tokenised for tokenised, _ in found) == [False, False, True]
    assert len({content for _, content in found}) == 1
