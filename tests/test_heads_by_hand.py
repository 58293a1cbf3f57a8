"""Vectors against transformers run by hand, with hooks of its own, where sentences are unusual."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from heads_helpers import extracted, task, tiny
from tiny_models import tiny_model, word_tokenizer
from tokenizers import Tokenizer, models
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import PreTrainedTokenizerFast

from pyengine import HeadBank, PyengineError, extract_heads, load
from pyengine.heads.sentences import Sentences

CLOSE = 2e-5
LONGEST = 32  # positions of the tiny models


def words(n: int, seed: int = 0) -> str:
    return " ".join(f"w{i}" for i in np.random.default_rng(seed).integers(0, 80, n))


def bank_of(out: Path, model: Any, texts: list[str], **more: Any) -> HeadBank:
    return extracted(out, model=model, tasks=[task("A", texts)], activation="model", **more)


def read_of(hf: nn.Module, module: str, **inputs: Any) -> torch.Tensor:
    """Run a model and return what a module reads, [T, n], of one row."""
    seen: list[torch.Tensor] = []
    hook = hf.get_submodule(module).register_forward_pre_hook(
        lambda module, arguments: seen.append(arguments[0])
    )
    with torch.no_grad():
        hf.eval()(**{name: torch.tensor([ids]) for name, ids in inputs.items()})
    hook.remove()
    return seen[0][0]


def check(bank: HeadBank, place: tuple[str, int], text: str, expected: torch.Tensor) -> None:
    found = bank.vectors(*place)[bank.texts().index(text)]
    np.testing.assert_allclose(found.reshape(-1), expected.numpy(), atol=CLOSE, rtol=CLOSE)


def ids_of(text: str) -> list[int]:
    return list(word_tokenizer()(text, add_special_tokens=False)["input_ids"])


def with_specials(single: str) -> Any:
    """A tokenizer that surrounds texts with special tokens, as BERT's or LLaMA's does."""
    tokenizer = word_tokenizer()
    names = [name for name in single.split() if name != "$A"]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    specials = [(name, tokenizer.convert_tokens_to_ids(name)) for name in names]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, special_tokens=specials
    )
    return tokenizer


@pytest.mark.parametrize(("pooling", "room"), [("last", LONGEST), ("pad", LONGEST - 1)])
def test_a_sentence_as_long_as_the_model_reads(tmp_path: Path, pooling: str, room: int) -> None:
    hf: Any = tiny_model("gpt2")
    model = load((hf, word_tokenizer()))
    texts = [words(room - 1), words(room), words(room + 1, seed=1), "w1"]
    bank = bank_of(tmp_path / "run", model, texts, pooling=pooling)
    assert bank.manifest["corpus"]["n_truncated"] == 1
    for text in texts:
        ids = ids_of(text)[:room] + [0] * (pooling == "pad")
        for layer in range(model.n_layers):
            context = read_of(hf, f"transformer.h.{layer}.attn.c_proj", input_ids=ids)
            check(bank, ("head", layer), text, context[-1])


def test_beyond_gpt_neos_window(tmp_path: Path) -> None:
    more: dict[str, Any] = {"attention_types": [[["global", "local"], 2]], "window_size": 4}
    hf: Any = tiny_model("gpt_neo", **more)
    model = load((hf, word_tokenizer()))
    text, far = words(20), f"w3 w5 {words(20).split(' ', 2)[2]}"
    bank = bank_of(tmp_path / "run", model, [text, far, words(9, 1)], locations=("head",))
    for layer in range(model.n_layers):
        path = f"transformer.h.{layer}.attn.attention.out_proj"
        for each in (text, far):
            check(bank, ("head", layer), each, read_of(hf, path, input_ids=ids_of(each))[-1])
    at = bank.texts().index
    local = bank.vectors("head", 1)
    assert np.abs(local[at(text)] - local[at(far)]).max() > CLOSE  # through the global layer


@pytest.mark.parametrize("family", ["t5", "t5_gated"])
def test_t5_reads_the_text_twice(tmp_path: Path, family: str) -> None:
    hf: Any = tiny_model(family)
    tokenizer = with_specials("$A </s>")
    model = load((hf, tokenizer))
    end, start = tokenizer.convert_tokens_to_ids("</s>"), hf.config.decoder_start_token_id
    texts, n = [words(7), words(3, 1)], len(hf.encoder.block)
    bank = bank_of(tmp_path / "run", model, texts, locations=("head", "cross", "block"))
    for text in texts:
        ids = ids_of(text)
        both = {"input_ids": [*ids, end], "decoder_input_ids": [start, *ids]}
        encoder = read_of(hf, "encoder.block.1.layer.0.SelfAttention.o", **both)
        check(bank, ("head", 1), text, encoder.mean(0))
        for layer, part, name in ((0, "SelfAttention", "head"), (1, "EncDecAttention", "cross")):
            path = f"decoder.block.1.layer.{layer}.{part}.o"
            check(bank, (name, n + 1), text, read_of(hf, path, **both)[-1])
        check(bank, ("block", n), text, read_of(hf, "decoder.block.1", **both)[-1])


def test_bert_without_special_tokens_is_averaged(tmp_path: Path) -> None:
    hf: Any = tiny_model("bert")
    texts, path = [words(6), words(2, 1)], "bert.encoder.layer.1.attention.output.dense"
    bank = bank_of(tmp_path / "bare", load((hf, word_tokenizer())), texts)
    assert {place.pooling for place in bank.places} == {"mean"}
    for text in texts:
        check(bank, ("head", 1), text, read_of(hf, path, input_ids=ids_of(text)).mean(0))

    tokenizer = with_specials("[CLS] $A [SEP]")
    first, last = (tokenizer.convert_tokens_to_ids(name) for name in ("[CLS]", "[SEP]"))
    bank = bank_of(tmp_path / "surrounded", load((hf, tokenizer)), texts)
    assert {place.pooling for place in bank.places} == {"first"}
    for text in texts:
        ids = [first, *ids_of(text), last]
        check(bank, ("head", 1), text, read_of(hf, path, input_ids=ids)[0])


def test_a_bos_that_the_tokenizer_adds_is_not_read(tmp_path: Path) -> None:
    hf: Any = tiny_model("gpt2")
    model = load((hf, with_specials("<s> $A")))
    text = words(5)
    assert len(model.tokenizer(text)["input_ids"]) == 6  # type: ignore[misc]
    bank = bank_of(tmp_path / "run", model, [text])
    context = read_of(hf, "transformer.h.2.attn.c_proj", input_ids=ids_of(text))
    check(bank, ("head", 2), text, context[-1])


def test_sentences_of_another_pooling_or_model_are_refused(tmp_path: Path) -> None:
    model = tiny()
    longest = Sentences.of(model, [task("A", [words(40)])])
    with pytest.raises(PyengineError, match=r"up to 33 tokens, and .* reads 32: were they made"):
        extract_heads(model, longest, out=tmp_path / "run", pooling="pad")
    narrow = tiny(vocab_size=8)
    with pytest.raises(PyengineError, match=r"holds token id \d+, but .* has only 8"):
        extract_heads(narrow, longest, out=tmp_path / "run")
    with pytest.raises(PyengineError, match=r"holds token id \d+, but .* has only 8"):
        Sentences.of(narrow, [task("A", [words(40)])])
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_without_a_token_for_a_text_is_refused(tmp_path: Path) -> None:
    letters = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    model = load((tiny_model("gpt2"), PreTrainedTokenizerFast(tokenizer_object=letters)))
    with pytest.raises(PyengineError, match="has no tokens for 'xyz'"):
        extracted(tmp_path / "run", model=model, tasks=[task("A", ["ab", "xyz"])])


def test_the_order_of_tasks_is_that_of_the_sentences(tmp_path: Path) -> None:
    tasks = [task("A", ["w1 w2", "w3"]), task("B", ["w4", "w3", "w5 w6"])]
    one = extracted(tmp_path / "one", tasks=tasks)
    other = extracted(tmp_path / "other", tasks=tasks[::-1])
    assert one.texts() == ["w3", "w1 w2", "w4", "w5 w6"]
    assert other.texts() == ["w4", "w3", "w5 w6", "w1 w2"]
    assert one.fingerprint != other.fingerprint
    rows = [other.texts().index(text) for text in one.texts()]
    for place in one.places:
        mine, theirs = (bank.vectors(place.location, place.layer) for bank in (one, other))
        np.testing.assert_allclose(mine, theirs[rows], atol=CLOSE, rtol=CLOSE)
    with pytest.raises(PyengineError, match=r"corpus\.sha256"):
        extracted(tmp_path / "one", tasks=tasks[::-1])
