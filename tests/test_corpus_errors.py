"""Bad input ends in one line that names it."""

from pathlib import Path

import pytest
from small_tokenizers import byte_tokenizer

from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.store import tokenize


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "word"}, "unknown unit 'word'; known are: line, sentence, window"),
        ({"long": "keep"}, "unknown long 'keep'"),
        ({"max_units": 0}, "max_units must be a whole number from 1 on, not 0"),
        ({"max_units": True}, "max_units"),
        ({"unit": "window"}, "needs window=N"),
        ({"unit": "window", "window": 0}, "window must be"),
        ({"window": 5}, "needs unit='window'"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(PyengineError, match=message):
        Corpus.from_texts(["a"], **options)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"", r"a\.txt: there are no units"),
        ("a.txt", b"\n  \n", "there are no units"),
        ("a.txt", b"ok\nb\xffd\n", r"a\.txt:2: not UTF-8"),
        ("a.tokens", b"ok\n\n\xc3\n", r"a\.tokens:3: not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{oops\n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b'{"body": "a"}\n', r"a\.jsonl:1: no field 'text' \(there is: body\)"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: no field 'text' \(there is: list\)"),
        ("a.jsonl", b'{"text": null}\n', r"a\.jsonl:1: field 'text' is NoneType, not text"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"a\.jsonl:1: field 'text' holds a lone surrogate"),
        ("a.npy", b"junk", "not an array that can be read safely"),
        ("a.npy", b"", "cannot read"),
        ("a.safetensors", b"junk", "cannot read"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(PyengineError, match=message) as caught:
        tokenize(Corpus.from_path(path), byte_tokenizer(), max_tokens=99)
    assert "\n" not in str(caught.value)


def test_bad_paths(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "none.txt", "no such file"),
        (tmp_path, "unknown ending"),
        (tmp_path / "a.docx", "unknown ending"),
    ]:
        with pytest.raises(PyengineError, match=message):
            Corpus.from_path(path)
    with pytest.raises(PyengineError, match="is a folder"):
        Corpus.from_wikitext(tmp_path)
    with pytest.raises(PyengineError, match="no file was given"):
        Corpus.from_text_file([])
    with pytest.raises(PyengineError, match="unknown format 'xml'"):
        Corpus.from_path(tmp_path, format="xml")


def test_a_file_that_is_gone_or_closed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    corpus = Corpus.from_text_file(path)
    path.unlink()
    with pytest.raises(PyengineError, match=r"cannot read .*a\.txt"):
        tokenize(corpus, byte_tokenizer(), max_tokens=9)


def test_bad_texts() -> None:
    with pytest.raises(PyengineError, match="not one text"):
        Corpus.from_texts("abc")
    with pytest.raises(PyengineError, match=r"texts\[1\] is int"):
        Corpus.from_texts(["a", 5])  # type: ignore[list-item]
    with pytest.raises(PyengineError, match=r"texts\[0\] holds a lone surrogate"):
        Corpus.from_texts(["\ud800"])
