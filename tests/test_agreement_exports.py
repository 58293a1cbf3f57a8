"""Agreements in ff-layers' TSV and as Parquet, read back."""

import csv
import json
import re
from collections import Counter
from itertools import chain
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from agreement_cases import random_targets, searched_texts
from tiny_models import tiny_model

import pyengine
from pyengine import PyengineError, key_value_agreement
from pyengine.export import export
from pyengine.export.agreement_tsv import COLUMNS


@pytest.mark.parametrize("dims", [None, [2, 30]])
def test_tsv_is_that_of_ff_layers(tmp_path: Path, dims: list[int] | None) -> None:
    model, triggers = searched_texts(dims=dims, floor=0.5)
    found = key_value_agreement(model, triggers, target="input")
    export(found, "tsv", tmp_path / "base")  # as the original's --output_base
    with (tmp_path / "base.tsv").open(newline="") as stream:
        header, *rows = csv.reader(stream, delimiter="\t")
    names = "layer W2_dim max_prob embedding_index embedding_token embedding_token_target_count"
    assert tuple(header) == COLUMNS == (*names.split(), "target_rankings")
    counts = set()
    for row, value in zip(rows, found.table.to_pylist(), strict=True):
        assert [int(row[0]), int(row[1])] == [value["layer"], value["dim"]]
        assert float(row[2]) == value["top_prob"]
        assert int(row[3]) == value["top_token"] and row[4] == value["top_text"]
        examples = triggers.examples(value["layer"], value["dim"])
        tokens = Counter(example.token for example in examples)
        assert int(row[5]) == (tokens[value["top_token"]] if examples else -1)
        counts.add(int(row[5]))
        by_token = dict(zip(value["targets"], value["target_ranks"], strict=True))
        expected = [[by_token[token]] * n for token, n in tokens.most_common()]
        assert row[6] == str([*chain(*expected)])
    assert counts >= {-1, 0}
    probs = json.loads((tmp_path / "base_max_probs.json").read_text())
    assert [len(layer) for layer in probs] == [len(triggers.dims)] * 3
    assert [*chain(*probs)] == [float(row[2]) for row in rows]
    assert (tmp_path / "base_max_probs.json").read_text().startswith("[\n    [\n        0.")


def test_tokens_that_would_break_a_tsv_come_back(tmp_path: Path) -> None:
    """Byte-level tokens: tabs, newlines, quotes, backslashes, and the words nan and null."""
    from small_tokenizers import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["nan", "null", '"quoted"', "\t\n"])
    size = len(tokenizer)
    hf = tiny_model("gpt2", vocab_size=size, n_embd=size, n_head=1, n_layer=1, n_inner=size)
    with torch.no_grad():
        hf.transformer.wte.weight.copy_(torch.eye(size))
        hf.transformer.h[0].mlp.c_proj.weight.copy_(9 * torch.eye(size))
    model = pyengine.load((hf, tokenizer))
    found = key_value_agreement(model, random_targets(model))
    export(found, "tsv", tmp_path / "base.tsv")
    assert len((tmp_path / "base.tsv").read_text().split("\n")) == size + 2
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(tmp_path / "base.tsv", sep="\t", keep_default_na=False)
    texts = found.table["top_text"].to_pylist()
    assert {"\t", "\n", '"', "\\", "nan", "null", '"quoted"', "\t\n"} <= set(texts)
    meant = {"\\": "\\", "t": "\t", "n": "\n", "r": "\r"}
    for written, text in zip(frame["embedding_token"], texts, strict=True):
        assert re.sub(r"\\(.)", lambda escape: meant[escape[1]], written) == text


def test_parquet_export_and_unknown_formats(tmp_path: Path) -> None:
    model, triggers = searched_texts()
    found = key_value_agreement(model, triggers)
    export(found, "parquet", tmp_path / "a.parquet")
    export(found, "parquet", tmp_path / "b.parquet")
    assert pq.read_table(tmp_path / "a.parquet").equals(found.table)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    with pytest.raises(PyengineError, match="unknown format 'jsonl'; known are: parquet, tsv"):
        export(found, "jsonl", tmp_path / "x")
    with pytest.raises(PyengineError, match=r"of type .* is not exported"):
        export(found.table, "parquet", tmp_path / "x")
