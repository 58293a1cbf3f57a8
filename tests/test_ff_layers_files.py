"""ff-layers' files, and our own in its formats, read back as targets."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_tokenizers import byte_tokenizer
from tiny_models import tiny_model, word_tokenizer

import pyengine
from pyengine import Corpus, Model, PyengineError, Targets, key_value_agreement, read_ff_layers
from pyengine.embedded import EXCERPT, MODEL
from pyengine.export import export
from pyengine.ff_layers_words import unescape, word_spans

MODELS = Path(__file__).parent / "models"
WORDS = word_tokenizer()
UNK = WORDS.unk_token_id


def word_model(**more: Any) -> Model:
    return pyengine.load((tiny_model("gpt2", n_layer=2, n_inner=4, **more), WORDS))


def ids(*words: str | None) -> list[int]:
    return [-1 if word is None else WORDS.get_vocab()[word] for word in words]


def write_folder(path: Path, files: dict[str, str]) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text, encoding="utf-8")
    return path


def record(layer: int, position: float, text: str, score: float = 1.0) -> dict[str, Any]:
    made = {"rank": 0, "layer_index": layer, "token_indice": position}
    return made | {"fc1_value": score, "text": text}


def write_jsonl(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_text_files(tmp_path: Path) -> None:
    """Keys of two layers and two dims, with lists of different lengths."""
    files = {
        "1_0.txt": "2.5\tw1 w2 *w3*\n2.0\t*w4*\n1.0\tw5 *</s>*\n",
        "3_0.txt": "7\tw1 zzz *w2*\n0.0\tw9 *w9*\n0.0\tw9 *w9*\n",
        "1_1.txt": "",
        "3_1.txt": "0.0\tw1 *w2*\n-1.0\tw3 *zzz*\n",
    }
    found = read_ff_layers(write_folder(tmp_path / "outp", files), word_model())
    assert (found.layers, found.dims, found.k, found.manifest) == ((0, 1), (1, 3), 3, None)
    assert found.source == str(tmp_path / "outp")
    nothing = ids(None, None, None)
    assert found.next[0].tolist() == [ids("w3", "w4", None), ids("w2", None, None)]
    assert found.input[0].tolist() == [ids("w2", None, "w5"), [UNK, -1, -1]]
    # A score of 0.0 is a placeholder at the end of a list only.
    assert found.next[1].tolist() == [nothing, [*ids("w2"), UNK, -1]]
    assert found.input[1].tolist() == [nothing, ids("w1", "w3", None)]
    rows = key_value_agreement(word_model(), found, ranks=2).table.to_pylist()
    assert [row["n_examples"] for row in rows] == [2, 1, 0, 2]


def test_entities_and_leading_spaces(tmp_path: Path) -> None:
    """In bytes: the word after starts with its space; only Moses' own entities are undone."""
    tokenizer = byte_tokenizer()
    model = pyengine.load((tiny_model("gpt2", vocab_size=257), tokenizer))
    lines = ["a &lt; *&amp;lt;*", "&quot;b&quot; *it*", "x *&copy;*", "*&#91;*", "é ü *ñ*"]
    text = "".join(f"1\t{line}\n" for line in lines)
    found = read_ff_layers(write_folder(tmp_path / "outp", {"0_0.txt": text}), model)
    after = tokenizer.convert_ids_to_tokens(found.next[0, 0].tolist())
    assert after == ["Ġ", "Ġ", "Ġ", "[", "Ġ"]
    before = [tokenizer.decode([token]) for token in found.input[0, 0].tolist()[:3]]
    assert before == ["<", '"', "x"] and found.input[0, 0, 3] == -1
    assert tokenizer.decode(found.input[0, 0, 4:].tolist()) == tokenizer.decode(
        tokenizer("ü")["input_ids"][-1:]
    )
    assert unescape("&amp;lt; &#124;&#93; &copy &nbsp;") == "&lt; |] &copy &nbsp;"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the <unk> a @-@ b w300 zzz", "the < unk > a @ - @ b w300 zzz"),
        ('He said , " I don\'t know " .', 'He said , " I don \'t know " .'),
        (
            "a well-known 5,300-year-old's re-entry ... and , so-on",
            "a well - known 5,300 - year - old 's re - entry ... and , so - on",
        ),
        (
            "the dogs ' 80's Ph.D. isn't 50 % of $ 3.5 , 1,2,x",
            "the dogs ' 80 's Ph.D. isn 't 50 % of $ 3.5 , 1,2 , x",
        ),
        ("Mr. Smith's U.S. co-op ( 1990s ) ; No. 5", "Mr. Smith 's U.S. co - op ( 1990s ) ; No. 5"),
        ("", ""),
    ],
)
def test_words_are_those_of_moses(text: str, words: str) -> None:
    """As sacremoses 0.2.0 cuts them, with `aggressive_dash_splits`."""
    assert [text[start:stop] for start, stop in word_spans(text)] == words.split()


def test_jsonl_of_ff_layers_counts_words_of_moses(tmp_path: Path) -> None:
    text = "w0 <unk> w1 @-@ w2 w3"  # w0 < unk > w1 @ - @ w2 w3
    positions = [0.0, 1.0, 4.0, 8.0, 9.0, 10.0]
    line = {"dim": 2, "top_values": [[record(0, p, text) for p in positions], []]}
    found = read_ff_layers(write_jsonl(tmp_path / "a.jsonl", line), word_model())
    assert (found.layers, found.dims) == ((0, 1), (2,))
    assert found.next[0, 0].tolist() == ids("w0", "<unk>", "w1", "w2", "w3", None)
    assert found.input[0, 0].tolist() == [-1, *ids("w0", "<unk>"), UNK, *ids("w2", "w3")]
    assert (found.next[1] == -1).all() and (found.input[1] == -1).all()


def test_jsonl_of_ours_counts_tokens(tmp_path: Path) -> None:
    lines = [
        {"dim": 3, "value": "post", "top_values": [[record(1, 2.0, "w1 @-@ w3 w4")], []]},
        {"dim": 0, "value": "post", "top_values": [[], [record(0, 4.0, "w1 w2 w3 w4", 0.0)]]},
    ]
    found = read_ff_layers(write_jsonl(tmp_path / "a.jsonl", *lines), word_model())
    assert (found.layers, found.dims) == ((0, 1), (0, 3))
    assert found.next.flatten().tolist() == [-1, -1, -1, *ids("w3")]
    assert found.input.flatten().tolist() == [*ids("w4"), -1, -1, UNK]


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
@pytest.mark.parametrize("format", ["jsonl", "text"])
def test_round_trip_of_words(tmp_path: Path, family: str, format: str) -> None:
    model = pyengine.load((tiny_model(family), word_tokenizer()))
    corpus = Corpus.from_texts(["w1 w2 w3 w4", "w5", "w6 w1 w2", "w1 w2 zzz w4"])
    triggers = pyengine.trigger_examples(model, corpus, k=5, dims=[3, 5, 36], layers=[0, 2])
    export(triggers, format, tmp_path / "out")
    found, own = read_ff_layers(tmp_path / "out", model), Targets.of(triggers)
    assert (found.layers, found.dims, found.k) == ((0, 2), (3, 5, 36), 4)
    if format == "text":  # `<unk>` is written as its own name, which tokenises to it again
        assert "*<unk>*" in "".join(p.read_text() for p in (tmp_path / "out").iterdir())
    assert torch.equal(found.next, own.next[:, :, :4])
    assert torch.equal(found.input, own.input[:, :, :4])
    direct = key_value_agreement(model, triggers, ranks=4).table
    assert key_value_agreement(model, found).table.equals(direct)


@pytest.mark.parametrize("name", ["gpt2", "bert", "gpt_neo", "t5"])
def test_round_trip_of_real_text(tmp_path: Path, name: str) -> None:
    """JSONL gives the tokens back; text files hold word pieces as words, so that only words do."""
    model = pyengine.load(MODEL if name == "gpt2" else MODELS / name)
    corpus = Corpus.from_wikitext(EXCERPT, max_units=60)
    triggers = pyengine.trigger_examples(model, corpus, k=5, dims=range(0, 512, 8))
    own = Targets.of(triggers)
    export(triggers, "jsonl", tmp_path / "a.jsonl")
    found = read_ff_layers(tmp_path / "a.jsonl", model)
    assert torch.equal(found.next, own.next)
    assert torch.equal(found.input, own.input)
    export(triggers, "text", tmp_path / "out")
    found = read_ff_layers(tmp_path / "out", model)
    assert (found.input == own.input).float().mean() > 0.96
    assert (found.next[own.next < 0] == -1).all()
    if name != "t5":  # whose token texts do not tell a word from a piece
        words = [triggers.text.token(token).startswith(" ") for token in range(model.vocab_size)]
        whole = torch.tensor([*words, False])[own.next]  # -1 looks up the last one
        assert (found.next == own.next)[whole].float().mean() > 0.98


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"0_0.txt": "1\tw1 *w2*\n", "notes.md": ""}, r"notes.md does not belong here"),
        ({}, "is empty"),
        ({"0_0.txt": "", "0_1.txt": "", "2_1.txt": ""}, r"lacks dim 2 of layer 0 \(2_0.txt\)"),
        ({"0_0.txt": "1\tw1 *w2*\n1\tw1 w2\n"}, r"0_0.txt:2: not `score<TAB>words \*starred\*`"),
        ({"0_0.txt": "w1 *w2*\n"}, r"0_0.txt:1: not `score"),
        ({"0_0.txt": "high\tw1 *w2*\n"}, "0_0.txt:1: 'high' is not a score"),
        ({"0_2.txt": ""}, "holds layer 2, but .* has layers 0 to 1"),
        ({"4_0.txt": ""}, "holds dim 4, but .* has dims 0 to 3"),
        ({"0_0.txt": "", "00_0.txt": ""}, "are the same key"),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    folder = write_folder(tmp_path / "outp", files)
    with pytest.raises(PyengineError, match=message) as error:
        read_ff_layers(folder, word_model())
    assert "\n" not in str(error.value)


GOOD = {"dim": 0, "top_values": [[record(0, 1.0, "w1 w2")]]}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no keys"),
        ([GOOD, GOOD], "a dim or a layer twice"),
        ([GOOD, GOOD | {"dim": 1, "value": "post"}], "mixes lines with and without"),
        ([GOOD, {"dim": 1, "top_values": [[], []]}], "2: 2 layers, but 1 before"),
        ([GOOD, {"dim": 1, "top_values": [[record(1, 0.0, "w1")]]}], "list 0 holds layers 0 and 1"),
        ([{"dim": 0}], "1: not a line of ff-layers' JSONL"),
        ([{"dim": 0, "top_values": [[{"text": "w1"}]]}], "a field is missing"),
    ],
)
def test_jsonl_that_is_refused(tmp_path: Path, lines: list[Any], message: str) -> None:
    with pytest.raises(PyengineError, match=message):
        read_ff_layers(write_jsonl(tmp_path / "a.jsonl", *lines), word_model())


def test_other_refusals(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{")
    with pytest.raises(PyengineError, match=r"a.jsonl:1: not a line of ff-layers' JSONL"):
        read_ff_layers(tmp_path / "a.jsonl", word_model())
    with pytest.raises(PyengineError, match="no such file or directory"):
        read_ff_layers(tmp_path / "none", word_model())
    with pytest.raises(PyengineError, match="has no tokenizer to read it"):
        read_ff_layers(tmp_path, pyengine.load(tiny_model("gpt2")))
