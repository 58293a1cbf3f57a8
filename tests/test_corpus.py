"""Every kind of source and every unit."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import zstandard
from small_tokenizers import byte_tokenizer, word_tokenizer

from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.store import TokenStore, tokenize

WIKITEXT = """ 
 = First article = 
 
 A cat sat . The dog 's <unk> ran , he said . 
 
 = = Part = = 
 
 One @-@ two . 
 = Second article = 
 
 The end . 
"""
SENTENCES = [
    "= First article =",
    "A cat sat.",
    "The dog's <unk> ran, he said.",
    "== Part ==",
    "One-two.",
    "= Second article =",
    "The end.",
]


def texts(corpus: Corpus, max_tokens: int = 10_000) -> list[str]:
    """Return the units as text, through a tokenizer that loses nothing."""
    tokenizer = byte_tokenizer()
    store = tokenize(corpus, tokenizer, max_tokens=max_tokens)
    return [str(tokenizer.decode(unit)) for unit in units(store)]


def units(store: TokenStore) -> list[list[int]]:
    return [store.unit_tokens(i).tolist() for i in range(store.n_units)]


@pytest.fixture
def wikitext(tmp_path: Path) -> Path:
    path = tmp_path / "wiki.valid.tokens"
    path.write_text(WIKITEXT, encoding="utf-8")
    return path


def test_wikitext_sentences(wikitext: Path) -> None:
    assert texts(Corpus.from_wikitext(wikitext)) == SENTENCES
    assert texts(Corpus.from_path(wikitext)) == SENTENCES
    assert texts(Corpus.from_wikitext([wikitext, str(wikitext)])) == SENTENCES * 2


def test_wikitext_lines(wikitext: Path) -> None:
    lines = texts(Corpus.from_wikitext(wikitext, unit="line"))
    assert lines[1] == "A cat sat. The dog's <unk> ran, he said."
    assert len(lines) == 6


def test_wikitext_left_tokenised(wikitext: Path) -> None:
    found = texts(Corpus.from_wikitext(wikitext, detokenize=False))
    assert found[:3] == ["= First article =", "A cat sat .", "The dog 's <unk> ran , he said ."]
    assert texts(Corpus.from_wikitext(wikitext, unit="line", detokenize=False))[2] == "= = Part = ="


@pytest.mark.parametrize("window", [1, 7, 16, 1000])
def test_windows_stay_inside_an_article_and_keep_the_tail(wikitext: Path, window: int) -> None:
    found = texts(Corpus.from_wikitext(wikitext, unit="window", window=window))
    articles = [
        "\n".join([SENTENCES[0], f"{SENTENCES[1]} {SENTENCES[2]}", *SENTENCES[3:5]]),
        "\n".join(SENTENCES[5:]),
    ]
    assert found == [a[i : i + window] for a in articles for i in range(0, len(a), window)]


def test_windows_over_many_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyengine.tokenizing.CHUNK_UNITS", 3)
    path = tmp_path / "a.txt"
    path.write_text("\n".join("abcdefghij"[: i % 10 + 1] for i in range(40)))
    whole = path.read_text()
    found = texts(Corpus.from_text_file([path, path], unit="window", window=7))
    assert found == [whole[i : i + 7] for i in range(0, len(whole), 7)] * 2


def test_max_units_and_long_over_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["ab", "abcdefg", "", "x", "abcde", "fgh"]
    expected = ["ab", "abc", "def", "g", "x", "abc", "de", "fgh"]
    for size in (1, 2, 100):
        monkeypatch.setattr("pyengine.tokenizing.CHUNK_UNITS", size)
        for limit in range(1, 9):
            corpus = Corpus.from_texts(given, max_units=limit)
            assert texts(corpus, max_tokens=3) == expected[:limit]
    assert texts(Corpus.from_texts(given, long="drop"), max_tokens=3) == ["ab", "x", "fgh"]
    assert texts(Corpus.from_texts(given, long="drop", max_units=2), max_tokens=3) == ["ab", "x"]


def test_long_units_are_counted() -> None:
    given = ["ab", "abcdefg", "abcdef"]
    tokenizer = byte_tokenizer()
    split = tokenize(Corpus.from_texts(given), tokenizer, max_tokens=3).report
    assert (split.units, split.tokens, split.split_units, split.dropped_units) == (6, 15, 2, 0)
    drop = tokenize(Corpus.from_texts(given, long="drop"), tokenizer, max_tokens=3).report
    assert (drop.units, drop.tokens, drop.split_units, drop.dropped_units) == (1, 2, 0, 2)


def test_texts() -> None:
    given = ["One. Two?", " \n", "Three\r\nfour "]
    assert texts(Corpus.from_texts(given)) == ["One. Two?", "Three", "four"]
    assert texts(Corpus.from_texts(given, unit="sentence")) == ["One.", "Two?", "Three", "four"]
    windows = texts(Corpus.from_texts(given, unit="window", window=6))
    assert windows == ["One. T", "wo?", "Three\n", "four"]


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffÉin Satz.  Zwei.\r\n\r\n = X = \n".encode())
    assert texts(Corpus.from_text_file(path)) == ["Éin Satz.  Zwei.", "= X ="]
    assert texts(Corpus.from_path(path, unit="sentence")) == ["Éin Satz.", "Zwei.", "= X ="]
    assert texts(Corpus.from_path(path, format="wikitext"))[0] == "Éin Satz. Zwei."


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    records = [{"text": "One.\nTwo. Three.", "body": "x"}, {"text": "Four", "body": "y"}]
    path.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    assert texts(Corpus.from_jsonl(path)) == ["One.", "Two. Three.", "Four"]
    assert texts(Corpus.from_jsonl(path, "body")) == ["x", "y"]
    assert texts(Corpus.from_path(path, field="body")) == ["x", "y"]
    windows = texts(Corpus.from_path(path, unit="window", window=12))
    assert windows == ["One.\nTwo. Th", "ree.", "Four"]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.tokens", "a.txt", "a.jsonl", "a.npy", "a.safetensors"])
def test_compressed_files(tmp_path: Path, name: str, ending: str) -> None:
    plain = tmp_path / name
    if name.endswith(".npy"):
        np.save(plain, np.array([[1, 2], [3, 4]], np.uint16))
    elif name.endswith(".safetensors"):
        safetensors.numpy.save_file({"ids": np.array([[1, 2], [3, 4]])}, plain)
    elif name.endswith(".jsonl"):
        plain.write_text('{"text": "One."}\n{"text": "Two."}\n')
    else:
        plain.write_text(WIKITEXT)
    packed = Path(f"{plain}{ending}")
    data = plain.read_bytes()
    half = len(data) // 2
    compress = gzip.compress if ending == ".gz" else zstandard.ZstdCompressor().compress
    # Two members, as `cat a.gz b.gz` makes them.
    packed.write_bytes(compress(data[:half]) + compress(data[half:]))
    tokenizer = byte_tokenizer()
    a, b = (tokenize(Corpus.from_path(path), tokenizer, max_tokens=500) for path in (plain, packed))
    assert a.content_hash == b.content_hash
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(PyengineError, match=r"cannot read .*a\."):
        tokenize(Corpus.from_path(packed), tokenizer, max_tokens=500)
    packed.write_bytes(b"\x1f\x8b\x08\x00" + b"junk" * 9)
    with pytest.raises(PyengineError, match=r"cannot read .*a\."):
        tokenize(Corpus.from_path(packed), tokenizer, max_tokens=500)


@pytest.mark.parametrize("unk", ["[UNK]", "<unk>"])
def test_unk_becomes_the_tokenizers_own(wikitext: Path, unk: str) -> None:
    tokenizer = word_tokenizer(unk)
    wikitext.write_text(" the <unk> cat \n")
    store = tokenize(Corpus.from_wikitext(wikitext), tokenizer, max_tokens=99)
    assert units(store) == [tokenizer.convert_tokens_to_ids(["the", unk, "cat"])]


def test_unk_stays_literal_where_it_would_end_the_text(wikitext: Path) -> None:
    tokenizer = byte_tokenizer()
    assert tokenizer.unk_token == tokenizer.eos_token
    wikitext.write_text(" the <unk> cat \n")
    store = tokenize(Corpus.from_wikitext(wikitext), tokenizer, max_tokens=99)
    assert units(store) == [tokenizer("the <unk> cat")["input_ids"]]
    assert tokenizer.eos_token_id not in store.tokens


def test_unk_of_other_text_is_left_alone() -> None:
    tokenizer = word_tokenizer()
    store = tokenize(Corpus.from_texts(["a <unk> cat"]), tokenizer, max_tokens=99)
    assert units(store)[0] == tokenizer("a <unk> cat")["input_ids"]
    assert store.n_tokens == 5


class Rows(list):
    """Rows as a loaded dataset gives them."""


def test_dataset_rows() -> None:
    rows = Rows([{"text": "One. Two.", "n": 1}, {"text": "", "n": 2}, {"text": "Three", "n": 3}])
    assert texts(Corpus.from_dataset(rows)) == ["One. Two.", "Three"]
    assert texts(Corpus.from_dataset(rows, unit="sentence")) == ["One.", "Two.", "Three"]
    with pytest.raises(PyengineError, match=r"row 0: no field 'body' \(there is: text, n\)"):
        texts(Corpus.from_dataset(rows, field="body"))
    with pytest.raises(PyengineError, match="row 0: field 'n' is int, not text"):
        texts(Corpus.from_dataset(rows, field="n"))


def test_wikitext_rows_are_lines_of_articles() -> None:
    class Info:
        dataset_name = "wikitext"

    rows = Rows({"text": line} for line in WIKITEXT.split("\n"))
    rows.info = Info()  # type: ignore[attr-defined]
    assert texts(Corpus.from_dataset(rows)) == SENTENCES
    windows = texts(Corpus.from_dataset(rows, unit="window", window=1000))
    assert len(windows) == 2 and windows[1] == "= Second article =\nThe end."


def test_a_dataset_on_disk_is_loaded_by_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "notes"
    folder.mkdir()
    lines = [json.dumps({"body": f"Row {number}. Its end."}) for number in range(1500)]
    (folder / "train.jsonl").write_text("\n".join(lines))
    corpus = Corpus.from_dataset(str(folder), field="body", unit="sentence")
    assert texts(corpus) == [t for i in range(1500) for t in (f"Row {i}.", "Its end.")]
    with pytest.raises(PyengineError, match=r"row 0: no field 'text' \(there is: body\)"):
        texts(Corpus.from_dataset(str(folder)))
    with pytest.raises(PyengineError, match="cannot load dataset"):
        Corpus.from_dataset(str(tmp_path / "nothing"))


def test_a_missing_datasets_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(PyengineError, match=r"pip install 'pyengine\[datasets\]'"):
        Corpus.from_dataset("ag_news")


def test_describe_names_source_and_units(wikitext: Path) -> None:
    corpus = Corpus.from_wikitext(wikitext, max_units=7)
    assert corpus.describe() == f"{wikitext}, sentences, first 7"
    assert Corpus.from_token_ids([[1]]).describe() == "1 sequences, token ids"
    window = Corpus.from_texts(["a"], unit="window", window=5)
    assert window.describe() == "1 texts, windows of 5 tokens"
