"""Exports, read back: ff-layers' two formats and Parquet."""

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tiny_models import tiny_model, word_tokenizer

import pyengine
from pyengine import Corpus, PyengineError
from pyengine.export import export

TEXTS = ["w1 w2 w3 w4", "w5", "w6 w1 w2", "w1 w2 w3 w4"]


def search(**more: object) -> pyengine.TriggerExamples:
    model = pyengine.load((tiny_model("gpt2"), word_tokenizer()))
    return pyengine.trigger_examples(model, Corpus.from_texts(TEXTS), k=6, **more)  # type: ignore[arg-type]


def test_jsonl_is_one_line_per_dim_as_ff_layers_writes_it(tmp_path: Path) -> None:
    found = search(dims=[4, 9])
    export(found, "jsonl", tmp_path / "t.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [line["dim"] for line in lines] == [4, 9]
    for line in lines:
        assert line["value"] == "post"
        assert len(line["top_values"]) == 3
        for layer, records in enumerate(line["top_values"]):
            examples = found.examples(layer, line["dim"])
            assert len(records) == len(examples) == 4
            for record, example in zip(records, examples, strict=True):
                assert list(record) == ["rank", "layer_index", "token_indice", "fc1_value", "text"]
                assert record["rank"] == example.rank
                assert record["layer_index"] == layer
                assert record["token_indice"] == float(example.position + 1)
                assert record["fc1_value"] == example.score
                assert record["text"] == TEXTS[example.unit]


def test_text_stars_the_token_after_the_firing_one(tmp_path: Path) -> None:
    found = search()
    export(found, "text", tmp_path / "out")
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert len(files) == 3 * 37 and "5_2.txt" in files
    lines = (tmp_path / "out" / "5_2.txt").read_text().splitlines()
    for line, example in zip(lines, found.examples(2, 5), strict=True):
        score, text = line.split("\t")
        words = TEXTS[example.unit].split()
        after = words[example.position + 1] if example.position + 1 < len(words) else "</s>"
        assert float(score) == example.score
        assert text == " ".join([*words[: example.position + 1], f"*{after}*"])
    about = json.loads((tmp_path / "out.about.json").read_text())
    assert about == {"value": "post", "starred": "next token"}
    with pytest.raises(PyengineError, match="exists already"):
        export(found, "text", tmp_path / "out")


def test_parquet_has_one_row_per_key_and_rank(tmp_path: Path) -> None:
    found = search(sign="both", dims=[0, 7])
    export(found, "parquet", tmp_path / "a.parquet")
    export(found, "parquet", tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert len(rows) == 2 * 3 * 2 * 4
    for row in rows:
        side = found.sides()[row["direction"]]
        example = side.examples(row["layer"], row["dim"])[row["rank"]]
        assert row["score"] == example.score and math.isfinite(row["score"])
        assert (row["unit"], row["position"]) == (example.unit, example.position)
        assert (row["token"], row["next_token"]) == (example.token, example.next_token)
        assert row["text"] == " ".join(TEXTS[example.unit].split()[: example.position + 1])


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PyengineError, match="unknown format 'csv'; known are: jsonl, text"):
        export(search(), "csv", tmp_path / "x")


def test_a_run_without_tokenizer_shows_ids(tmp_path: Path) -> None:
    model = pyengine.load((tiny_model("gpt2"), None))
    found = pyengine.trigger_examples(model, Corpus.from_token_ids([[5, 6, 7]]), k=2)
    example = found.examples(0, 0)[0]
    assert example.text.split() == ["5", "6", "7"][: example.position + 1]
    export(found, "text", tmp_path / "out")
