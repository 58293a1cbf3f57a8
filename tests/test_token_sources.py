"""Token ids given in memory or as arrays: fed as they are, or refused."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.store import TokenStore, tokenize


def units(store: TokenStore) -> list[list[int]]:
    return [store.unit_tokens(i).tolist() for i in range(store.n_units)]


def test_token_ids() -> None:
    given = [[1, 2], np.array([3], np.uint16), [], (4, 5, 70_000)]
    store = tokenize(Corpus.from_token_ids(given), max_tokens=2)
    assert units(store) == [[1, 2], [3], [4, 5], [70_000]]
    assert store.tokens.dtype == np.uint32
    assert (store.report.split_units, store.report.skipped_empty) == (1, 1)
    assert not store.adds_special
    dropped = Corpus.from_token_ids(given, long="drop", max_units=2)
    assert units(tokenize(dropped, max_tokens=2)) == [[1, 2], [3]]


@pytest.mark.parametrize("ending", [".npy", ".safetensors"])
def test_token_arrays(tmp_path: Path, ending: str) -> None:
    def save(array: np.ndarray) -> Path:
        path = tmp_path / f"ids{ending}"
        if ending == ".npy":
            np.save(path, array)
        else:
            safetensors.numpy.save_file({"ids": array}, path)
        return path

    path = save(np.arange(6, dtype=np.int32).reshape(3, 2))
    assert units(tokenize(Corpus.from_path(path), max_tokens=9)) == [[0, 1], [2, 3], [4, 5]]
    path = save(np.arange(7, dtype=np.uint16))
    corpus = Corpus.from_path(path, unit="window", window=3)
    assert units(tokenize(corpus, max_tokens=9)) == [[0, 1, 2], [3, 4, 5], [6]]
    for array, message in [
        (np.arange(7), "window=N"),
        (np.zeros((1, 2, 3), np.int64), "shape"),
        (np.zeros((1, 2)), "integers"),
        (-np.ones((1, 2), np.int64), "negative token id -1"),
        (np.zeros((0, 2), np.int64), "no units"),
    ]:
        with pytest.raises(PyengineError, match=message):
            tokenize(Corpus.from_token_array(save(array)), max_tokens=9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no units"),
        ([[]], "no units"),
        ([[1, -2]], "unit 0: negative token id -2"),
        ([[1], [1.5]], "unit 1: token ids must be integers"),
        ([[True]], "integers"),
        ([["a"]], "integers"),
        ([[2**32]], "above"),
        ([1, 2], "unit 0: expected a sequence"),
        ([[[1]]], "unit 0: expected a sequence"),
        ([[1, [2]]], "unit 0: not a sequence"),
    ],
)
def test_bad_token_ids(given: list, message: str) -> None:
    with pytest.raises(PyengineError, match=message):
        tokenize(Corpus.from_token_ids(given), max_tokens=9)
