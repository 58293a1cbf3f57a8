"""The hard cases measured on mega002/ff-layers' own code, and what is right instead.

Constructed networks: an FFN whose keys read one token each, so that every activation is known.
"""

import math
from typing import Any

import pytest
import torch
from tiny_models import tiny_model, word_tokenizer

import pyengine
from pyengine import Corpus
from pyengine.reducers.topk import StreamingTopK


def fold(
    values: list[float], k: int, positions: list[int] | None = None
) -> list[tuple[int, float]]:
    """Search one key over sentences with one activation each; return (sentence, score)."""
    topk = StreamingTopK(k, 1, max_positions=64)
    for sentence, value in enumerate(values):
        acts = torch.full((1, 1, 1), float(value))
        at = 0 if positions is None else positions[sentence]
        topk.update(acts, torch.tensor([sentence]), first_position=at)
    best = topk.compute()
    found = zip(best.units[0].tolist(), best.scores[0].tolist(), strict=True)
    return [(unit, score) for unit, score in found if unit >= 0]


def test_case_1_ties_keep_the_earliest_sentences_in_order() -> None:
    assert fold([1.0] * 4, k=2, positions=[0, 1, 2, 3]) == [(0, 1.0), (1, 1.0)]
    assert fold([1.0] * 4, k=4) == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0)]
    assert fold([5, 1, 3, 2, 1, 4], k=3) == [(0, 5.0), (5, 4.0), (2, 3.0)]
    assert fold([7.0] * 60, k=50) == [(i, 7.0) for i in range(50)]


def test_case_2_fewer_candidates_than_k_leave_no_placeholders() -> None:
    assert fold([1, 3], k=4) == [(1, 3.0), (0, 1.0)]
    assert fold([-1, -3], k=2) == [(0, -1.0), (1, -3.0)]


def test_case_3_nan_is_no_candidate_and_inf_is_one() -> None:
    assert fold([math.nan, 2, math.inf], k=3) == [(2, math.inf), (1, 2.0)]


def test_case_3_nan_at_one_position_does_not_hide_its_sentence() -> None:
    topk = StreamingTopK(2, 1, max_positions=8)
    topk.update(torch.tensor([[[1.0], [math.nan], [3.0]]]), torch.tensor([0]))
    assert topk.compute().scores[0, 0] == 3.0
    assert topk.compute().positions[0, 0] == 2


def one_key_per_word(**overrides: Any) -> Any:
    """A GPT-2 whose layer-0 key d fires on word d alone: no attention, no positions, orthogonal."""
    size = 97
    hf = tiny_model("gpt2", n_embd=size, n_head=1, n_layer=1, n_inner=size, **overrides)
    body = hf.transformer
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.zero_()
        body.wte.weight.copy_(torch.eye(size))
        for norm in (body.h[0].ln_1, body.h[0].ln_2, body.ln_f):
            norm.weight.fill_(1)
        body.h[0].mlp.c_fc.weight.copy_(torch.eye(size))
    return hf


def search(texts: list[str], **settings: Any) -> pyengine.TriggerExamples:
    model = pyengine.load((one_key_per_word(), word_tokenizer()))
    return pyengine.trigger_examples(model, Corpus.from_texts(texts), **settings)


def key_of(word: str) -> int:
    return word_tokenizer().get_vocab()[word]


def test_case_4_one_token_sentence() -> None:
    example = search(["w7"], k=1).examples(0, key_of("w7"))[0]
    assert (example.position, example.text, example.next_token) == (0, "w7", -1)


def test_case_4_blank_lines_are_skipped() -> None:
    found = search(["w7", "", "   ", "w8"], k=4)
    assert found.manifest["corpus"]["n_units"] == 2


def test_case_5_the_last_position_competes() -> None:
    example = search(["w1 w2 w3 w4 w5 w6"], k=1).examples(0, key_of("w6"))[0]
    assert (example.position, example.next_token) == (5, -1)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "bert", "t5"])
def test_case_6_padding_never_wins_and_moves_scores_by_float_noise_only(family: str) -> None:
    model = pyengine.load((tiny_model(family), None))
    short, long = [5, 6, 7], list(range(10, 30))
    alone = pyengine.trigger_examples(model, Corpus.from_token_ids([short]), k=3, per="token")
    beside = pyengine.trigger_examples(
        model, Corpus.from_token_ids([short, long]), k=23, per="token", batch_tokens=64
    )
    for layer in range(model.n_layers):
        for dim in range(model.d_ff):
            mine = {e.position: e.score for e in alone.examples(layer, dim)}
            entries = beside.examples(layer, dim)
            assert len(entries) == 23
            padded = {e.position: e.score for e in entries if e.unit == 0}
            assert padded.keys() == mine.keys() == {0, 1, 2}
            assert all(abs(mine[p] - padded[p]) < 2e-4 for p in mine)


def test_case_7_unk_is_the_tokenizers_and_nothing_is_escaped(tmp_path: Any) -> None:
    path = tmp_path / "wiki.tokens"
    path.write_text(" the <unk> w1 @-@ w2 w3 zzz & ' \n")
    model = pyengine.load((one_key_per_word(), word_tokenizer()))
    raw = Corpus.from_wikitext(path, unit="line", detokenize=False)
    found = pyengine.trigger_examples(model, raw, k=1)
    tokens = found.unit_tokens(0)
    assert len(tokens) == 9  # one a word: no Moses, no HTML entities
    unk = key_of("<unk>")
    words = [False] * 9
    words[2] = words[4] = words[5] = True
    assert [token != unk for token in tokens] == words


def test_case_8_the_firing_token_and_the_next_one_are_told_apart() -> None:
    example = search(["w1 w2 w3 w4 w5"], k=1).examples(0, key_of("w3"))[0]
    assert example.position == 2
    assert example.token == key_of("w3")
    assert example.next_token == key_of("w4")
    assert example.text == "w1 w2 w3"


@pytest.mark.parametrize(("n_words", "units"), [(32, 1), (33, 2), (70, 3)])
def test_case_11_over_long_sentence_is_split_and_counted(n_words: int, units: int) -> None:
    text = " ".join(f"w{i % 90}" for i in range(n_words))
    found = search([text], k=1)
    assert found.manifest["corpus"]["n_units"] == units
    assert found.manifest["corpus"]["n_tokens"] == n_words


def test_case_11_over_long_sentence_is_dropped_if_told() -> None:
    texts = [" ".join(["w1"] * 33), "w2 w3"]
    model = pyengine.load((one_key_per_word(), word_tokenizer()))
    found = pyengine.trigger_examples(model, Corpus.from_texts(texts, long="drop"), k=1)
    assert found.manifest["corpus"]["n_units"] == 1
    assert found.manifest["corpus"]["dropped_units"] == 1


def test_case_12_duplicates_take_a_slot_each_unless_prefixes_compete_once() -> None:
    texts = ["w1 w2", "w1 w2", "w1 w3"]
    twice = search(texts, k=5).examples(0, key_of("w1"))
    assert [e.unit for e in twice] == [0, 1, 2]
    once = search(texts, k=5, per="prefix")
    assert [(e.unit, e.position) for e in once.examples(0, key_of("w1"))][:1] == [(0, 0)]
    fired = [e for e in once.examples(0, key_of("w1")) if e.score > 1]
    assert len(fired) == 1


def test_case_13_merging_shards_equals_one_pass() -> None:
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(40, 3, 5, generator=generator) * 2).round() / 2  # many ties
    whole = StreamingTopK(7, 5, max_positions=3)
    whole.update(values, torch.arange(40))
    for cut in (1, 13, 39):
        parts = [StreamingTopK(7, 5, max_positions=3) for _ in range(2)]
        parts[0].update(values[:cut], torch.arange(cut))
        parts[1].update(values[cut:], torch.arange(cut, 40))
        for a, b in (parts, parts[::-1]):
            merged = StreamingTopK(7, 5, max_positions=3)
            merged.merge(a)
            merged.merge(b)
            for mine, theirs in zip(merged.compute(), whole.compute(), strict=True):
                assert torch.equal(mine, theirs)


def predict_with_a_dead_layer(mode: str, **settings: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Predict with a ReLU model whose layer 1 has all keys at -1; return it and its layer 1."""
    hf = tiny_model("gpt2", activation_function="relu")
    with torch.no_grad():
        hf.transformer.h[1].mlp.c_fc.weight.zero_()
        hf.transformer.h[1].mlp.c_fc.bias.fill_(-1)
    corpus = Corpus.from_token_ids([[3, 1, 4], [1, 5, 9, 2], [6]])
    model = pyengine.load((hf, None))
    found = pyengine.ffn_predictions(model, corpus, mode, position="all", **settings)
    return hf, [row for row in found.table.to_pylist() if row["layer"] == 1]


def test_case_10_zero_memories_are_not_active_and_match_nothing() -> None:
    hf, rows = predict_with_a_dead_layer("layer", final_norm="off", head="embedding")
    bias = int((hf.lm_head.weight @ hf.transformer.h[1].mlp.c_proj.bias).argmax())
    assert len(rows) == 8
    for row in rows:
        assert (row["n_active"], row["n_negative"]) == (0, 0)
        assert (row["n_matching_layer"], row["n_matching_ffn"]) == (0, 0)
        assert row["residual_norm_rank"] == 0
        assert row["ffn_token"] == bias


def test_case_10_zero_memories_predict_token_0_with_probability_1_of_v() -> None:
    hf, rows = predict_with_a_dead_layer("value", n=5, all_values=True)
    for row in rows:
        assert row["top_dims"] == [0, 1, 2, 3, 4]
        assert row["top_tokens"] + row["all_tokens"] == [0] * 42
        assert row["top_coefficients"] + row["all_contributions"] == [0] * 42
        assert row["top_final_ranks"] + row["all_final_ranks"] == [row["final_token"]] * 42
        probs = row["top_probs"] + row["top_ffn_probs"] + row["all_final_probs"]
        assert probs == pytest.approx([1 / hf.config.vocab_size] * 47)
        assert row["n_distinct"] == row["n_matching_final"] == row["n_matching_ffn"] == 0


def test_case_12_duplicates_are_predicted_once_each() -> None:
    model = pyengine.load((tiny_model("gpt2"), word_tokenizer()))
    corpus = Corpus.from_texts(["w1 w2 w3", "w4 w5", "w1 w2 w3"])
    found = pyengine.ffn_predictions(model, corpus, position="last")
    rows = found.table.to_pylist()
    assert [row["unit"] for row in rows] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [row | {"unit": 0} for row in rows[6:]] == rows[:3]
    assert found.examples["prefix"].to_pylist() == ["w1 w2 w3", "w4 w5", "w1 w2 w3"]
