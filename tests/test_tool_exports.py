"""Exports for other tools, read back by their published schemas, against plain transformers."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from brute_force import activations, unit_inputs
from command_line import Run, assert_one_line
from published_schemas import read_delphi, read_neuron_record, read_neuronpedia
from tiny_models import FAMILIES, tiny_model, word_tokenizer
from tool_export_cases import BAND, search, units

import pyengine
from pyengine import Corpus, PyengineError
from pyengine.export import export, neuronpedia, unit_activations


def plain(model: Any, value: str = "post") -> list[list[np.ndarray]]:
    """Return what Hugging Face computes for each unit alone: [unit][layer], [length, d_ff]."""
    n_encoder = len(model.layers) - getattr(model.config, "num_decoder_layers", len(model.layers))
    found = []
    for unit in units():
        layers = activations(model.hf, unit_inputs(model.hf, unit, [], []), value)
        shift = [int(model.family.encoder_decoder and i >= n_encoder) for i in range(len(layers))]
        found.append(
            [acts[0, s : s + len(unit)].numpy() for acts, s in zip(layers, shift, strict=True)]
        )
    return found


@pytest.mark.parametrize("value", ["post", "pre"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_neuron_record_holds_whole_units_with_the_models_activations(
    family: str, value: str, tmp_path: Path
) -> None:
    model, found = search(family, value=value)
    export(found, "openai", tmp_path / "out", model=model)
    wanted, texts = plain(model, value), units()
    largest = [max(np.abs(acts).max() for acts in layer) for layer in zip(*wanted, strict=True)]
    files = sorted((tmp_path / "out").glob("*/*.json"))
    assert len(files) == len(found.layers) * model.d_ff
    for file in files:
        layer, dim = int(file.parent.name), int(file.stem)
        record = read_neuron_record(file)
        assert record["neuron_id"]["layer_index"] == layer
        assert record["neuron_id"]["neuron_index"] == dim
        assert record["random_sample"] == [] and record["mean"] is None
        examples = found.examples(layer, dim)
        kept = record["most_positive_activation_records"]
        assert len(kept) == len(examples)
        for part, example in zip(kept, examples, strict=True):
            assert part["tokens"] == [f" {token}" for token in texts[example.unit]]
            assert part["activations"][example.position] == example.score
            expected = wanted[example.unit][layer][:, dim]
            np.testing.assert_allclose(
                part["activations"], expected, rtol=0, atol=BAND * largest[layer]
            )


def test_a_neuron_record_has_each_unit_once(tmp_path: Path) -> None:
    model, found = search(per="token", sign="both", layers=[1], dims=[3, 30], k=40)
    export(found, "openai", tmp_path / "out", model=model)
    assert sorted(str(f.relative_to(tmp_path / "out")) for f in tmp_path.glob("out/*/*")) == [
        "1/3.json",
        "1/30.json",
    ]
    for dim in (3, 30):
        record = read_neuron_record(tmp_path / "out" / "1" / f"{dim}.json")
        examples = found.examples(1, dim)
        best_first = list(dict.fromkeys(example.unit for example in examples))
        assert len(best_first) < len(examples)
        kept = record["most_positive_activation_records"]
        assert [len(part["tokens"]) for part in kept] == [len(units()[u]) for u in best_first]
        for example in examples:  # every kept position, exactly
            part = kept[best_first.index(example.unit)]
            assert part["activations"][example.position] == example.score


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5_gated"])
def test_neuronpedia_has_a_row_per_neuron_and_per_example(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neuronpedia, "NEURONS_PER_FILE", 16)
    model, found = search(family, per="token", k=7)
    export(found, "neuronpedia", tmp_path / "out", model=model)
    (name,) = (tmp_path / "out").iterdir()
    assert name.name == type(model.hf).__name__.lower()
    ids = set()
    for layer in found.layers:
        source = name / str(layer)
        assert len(list((source / "features").iterdir())) == 3  # 16 + 16 + 5
        neurons, rows = read_neuronpedia(source)
        assert [row["index"] for row in neurons] == [str(dim) for dim in range(model.d_ff)]
        assert {row["layer"] for row in [*neurons, *rows]} == {str(layer)}
        examples = [(dim, e) for dim in found.dims for e in found.examples(layer, dim)]
        assert len(rows) == len(examples)
        for row, (dim, example) in zip(rows, examples, strict=True):
            assert (row["index"], row["dataIndex"]) == (str(dim), str(example.unit))
            assert row["qualifyingTokenIndex"] == example.position
            assert row["values"][example.position] == example.score
            assert row["tokens"] == [f" {token}" for token in units()[example.unit]]
            assert row["maxValue"] == row["values"][row["maxValueTokenIndex"]] == max(row["values"])
            assert row["binMax"] == found.examples(layer, dim)[0].score
            ids.add(row["id"])
    assert len(ids) == int((found.units >= 0).sum())


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = search()
    for name, bytes_ in {"a": 1 << 30, "b": 1}.items():  # all layers in one pass, or one by one
        monkeypatch.setattr(unit_activations, "LAYERS_BYTES", bytes_)
        export(found, "openai", tmp_path / name / "openai", model=model)
        export(found, "neuronpedia", tmp_path / name / "neuronpedia", model=model)
        export(found, "delphi", tmp_path / name / "delphi")
    whole = tmp_path / "a"
    files = sorted(file.relative_to(whole) for file in whole.rglob("*") if file.is_file())
    assert len(files) == 3 * 37 + 3 * 5 + 3 * 2
    for file in files:
        assert (whole / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    written = (tmp_path / "a" / "neuronpedia").rglob("*.gz")
    assert {file.read_bytes()[4:8] for file in written} == {bytes(4)}  # gzip's time of writing


def test_keys_without_examples_are_there(tmp_path: Path) -> None:
    model, found = search(layers=[0], floor=1e9)
    assert not (found.units >= 0).any()
    export(found, "openai", tmp_path / "openai", model=model)
    assert len(list((tmp_path / "openai" / "0").iterdir())) == model.d_ff
    record = read_neuron_record(tmp_path / "openai" / "0" / "0.json")
    assert record["most_positive_activation_records"] == []
    export(found, "neuronpedia", tmp_path / "neuronpedia", model=model)
    neurons, rows = read_neuronpedia(tmp_path / "neuronpedia" / "gpt2lmheadmodel" / "0")
    assert len(neurons) == model.d_ff and rows == []
    export(found, "delphi", tmp_path / "delphi")
    assert read_delphi(tmp_path / "delphi" / "h.0.mlp.act").locations == {}


def with_special_tokens() -> Any:
    from tokenizers.processors import TemplateProcessing

    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return tokenizer


LINES = ["w1 w2 w3 w4", "w5", "w6 w1 w2", " ".join(f"w{i}" for i in range(30))]


@pytest.mark.parametrize(
    ("family", "bos", "corpus"),
    [
        ("gpt2", True, lambda: Corpus.from_texts(LINES)),
        ("gpt2", True, lambda: Corpus.from_token_ids([[5, 6, 7], [8, 9]])),
        ("bert", False, lambda: Corpus.from_texts(LINES)),
        ("bert", False, lambda: Corpus.from_token_ids([[5, 6, 7], [8, 9]])),
        ("bert", False, lambda: Corpus.from_token_ids([list(range(4, 36))])),  # no room for more
        ("t5", False, lambda: Corpus.from_texts(LINES)),
    ],
)
def test_special_tokens_are_where_they_were(
    family: str, bos: bool, corpus: Callable[[], Corpus], tmp_path: Path
) -> None:
    model = pyengine.load((tiny_model(family), with_special_tokens()))
    found = pyengine.trigger_examples(model, corpus(), k=2, bos=bos)
    export(found, "openai", tmp_path / "out", model=model)  # refuses other activations
    example = found.examples(1, 9)[0]
    record = read_neuron_record(tmp_path / "out" / "1" / "9.json")
    best = record["most_positive_activation_records"][0]
    assert len(best["tokens"]) == len(found.unit_tokens(example.unit))
    assert max(best["activations"]) == best["activations"][example.position] == example.score


def test_the_model_is_checked(tmp_path: Path) -> None:
    model, found = search()
    for format in ("openai", "neuronpedia"):
        with pytest.raises(PyengineError, match=r"firing positions only; give --model"):
            export(found, format, tmp_path / "out")
        other = (tiny_model("gpt2", seed=1), None)
        with pytest.raises(PyengineError, match=r"made with another model .* weights"):
            export(found, format, tmp_path / "out", model=other)
        with pytest.raises(
            PyengineError, match=r"does not give the activations .* dim 0: .* holds"
        ):
            export(replace(found, scores=found.scores + 1), format, tmp_path / "out", model=model)
    for format in ("delphi", "parquet"):
        with pytest.raises(PyengineError, match=f"{format} is written from the run alone"):
            export(found, format, tmp_path / "out", model=model)
    assert not list(tmp_path.iterdir())


def test_minima_have_no_place_among_maxima(tmp_path: Path) -> None:
    model, found = search(sign="min")
    with pytest.raises(PyengineError, match=r"a NeuronRecord is for the largest .* holds minima"):
        export(found, "openai", tmp_path / "out", model=model)
    with pytest.raises(PyengineError, match="Neuronpedia's import is for the largest"):
        export(found, "neuronpedia", tmp_path / "out", model=model)


def test_an_activation_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    hf = tiny_model("gpt2")
    with torch.no_grad():
        hf.transformer.h[0].mlp.c_fc.bias[3] = torch.inf
    model = pyengine.load((hf, None))
    found = pyengine.trigger_examples(model, Corpus.from_token_ids(units()), k=2, layers=[0])
    with pytest.raises(PyengineError, match="layer 0, dim 3 in unit 0 is inf, which JSON cannot"):
        export(found, "openai", tmp_path / "out", model=model)
    export(found, "delphi", tmp_path / "out")
    assert read_delphi(tmp_path / "out" / "h.0.mlp.act").activations[3] == [np.inf] * 2


def test_from_the_command_line(run: Run, model: Path, corpus: Path, tmp_path: Path) -> None:
    assert run("triggers", model, corpus, "--out", tmp_path / "run", "--k", 2).code == 0
    found = pyengine.open_run(tmp_path / "run")
    out = tmp_path / "out"
    ask = ("export", tmp_path / "run", "--out", out, "--format")
    read = ("--model", model, "--device", "cpu")
    assert_one_line(run(*ask, "openai"), 1, "--model")
    assert run(*ask, "neuronpedia", *read).code == 0
    _, rows = read_neuronpedia(out / "model" / "2")
    assert [row["values"][row["qualifyingTokenIndex"]] for row in rows[:2]] == [
        example.score for example in found.examples(2, 0)
    ]
    assert rows[0]["tokens"][0].startswith(" w")
    assert_one_line(run(*ask, "openai", *read), 1, "exists already")
    delphi = tmp_path / "delphi"
    assert run("export", tmp_path / "run", "--format", "delphi", "--out", delphi).code == 0
    config = json.loads((delphi / "h.0.mlp.act" / "config.json").read_text())
    assert config["model_name"] == str(model) and config["pyengine"]["pad_id"] == 0
    assert gzip.decompress((out / "model/0/features/batch-0.jsonl.gz").read_bytes())
