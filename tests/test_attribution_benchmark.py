"""The attribution benchmark at toy size, so that it cannot rot, and that it measures what it says.

No figure is judged here.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_gpu_benchmark import TOY as GPU_TOY

from benchmarks import _machine, attribution, gpu
from benchmarks._attribution_accuracy import reference
from benchmarks._attribution_common import (
    ADAPTIVE,
    FAMILIES,
    OWN_NEURONS,
    PACKAGE,
    SAME_RULE,
    SMALL,
    base,
    difference,
    known,
    prompt_lengths,
    question,
    small,
)
from benchmarks._attribution_memory import peak_memory
from benchmarks._attribution_speed import flop
from benchmarks.attribution import TOY

pytest.importorskip("knowledge_neurons")


@pytest.mark.slow
def test_from_the_command_line_to_the_results_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(_machine, "RESULTS", tmp_path)
    monkeypatch.setattr(attribution, "QUICK", TOY)
    threads = str(torch.get_num_threads())
    arguments = ["--quick", "--only", "speed,accuracy,batches", "--threads", threads]
    arguments += ["--save", "toy"]
    attribution.main(arguments)
    assert "x the floor" in capsys.readouterr().out
    record = json.loads((tmp_path / "toy.json").read_text())
    assert record["command"] == f"python -m benchmarks attribution {' '.join(arguments)}"
    figures = record["figures"]
    assert len(figures["speed"]) == 2 * 3 and len(figures["batches"]) == 5
    for name in ("BERT-base, 12 tokens", "GPT-2 small, 14 tokens"):
        found = figures["speed"][name]
        assert found.keys() - {OWN_NEURONS} == {PACKAGE, SAME_RULE, ADAPTIVE}
        assert (OWN_NEURONS in found) == name.startswith("GPT")
        assert found[SAME_RULE]["difference"] < 1e-4 < 1 < found[SAME_RULE]["nodes"]
        assert all(way["cpu_s"] > 0 and way["rounds"] == 1 for way in found.values())
    for family in SMALL:
        found = figures["accuracy"][f"trained {family}"]
        assert found[ADAPTIVE]["median_error"] < found[PACKAGE]["median_error"]
        assert found[SAME_RULE]["cpu_ratio"] > 0
    assert all(found["difference"] < 1e-3 for found in figures["batches"].values())


@pytest.mark.parametrize("family", FAMILIES)
def test_questions_have_the_tokens_they_say(family: str) -> None:
    case = base(family, tiny=True)
    for n_tokens in (12, 13, 40):
        prompt, target = question(case, n_tokens)
        assert len(case.tokenizer(prompt)["input_ids"]) == n_tokens
        (answer,) = case.tokenizer(target, add_special_tokens=False)["input_ids"]
        assert case.tokenizer.decode([answer]) == target
    with pytest.raises(RuntimeError, match="a prompt of 5 tokens has 12"):
        question(case, 5)


@pytest.mark.parametrize("family", SMALL)
def test_facts_are_spread_and_have_answers_of_one_token(family: str) -> None:
    case, asked = small(family), known(family, 6)
    assert len({prompt for prompt, _ in asked}) == len({target for _, target in asked}) == 6
    for _, target in asked:
        tokens = case.tokenizer(target, add_special_tokens=False)["input_ids"]
        assert len(tokens) == 1 and tokens != [case.tokenizer.unk_token_id]


def test_lengths_are_those_of_pararel() -> None:
    lengths = prompt_lengths(1000)
    assert lengths.min() == 8 and lengths.max() == 20
    assert 11.5 < lengths.mean() < 12.5


def test_the_same_rule_says_the_same_however_the_package_is_batched() -> None:
    case = base("gpt2", tiny=True)
    asked = question(case, 12)
    together, apart = case.ways(4), case.ways(4, batch_size=2)
    expected = together[PACKAGE](asked)
    assert not expected.scores.requires_grad and expected.nodes == 4
    assert difference(apart[PACKAGE](asked).scores, expected.scores) < 1e-5
    assert difference(together[SAME_RULE](asked).scores, expected.scores) < 1e-5


def test_the_reference_is_closer_than_what_it_judges() -> None:
    case, asked = small("bert", double=True), known("bert", 1)
    coarse, fine, finer = (reference(case, asked, nodes).scores[0] for nodes in (4, 16, 32))
    assert difference(fine, finer) < 1e-2 * difference(coarse, finer)
    assert difference(2 * fine, fine) == pytest.approx(1)


def test_flop_are_those_of_the_products() -> None:
    """The package runs the whole model for every layer, with every node."""
    case = base("gpt2", tiny=True)
    asked, ways = question(case, 12), case.ways(4)
    forward = 12 * 2 * case.hf.lm_head.weight.numel()  # the head alone
    counted = flop(ways[PACKAGE], asked)
    # 3 layers: a clean pass, 4 nodes forward and 4 backward each; all else is small
    assert counted == pytest.approx(3 * 9 * forward, rel=0.2)
    assert flop(ways[PACKAGE], asked) == counted
    assert flop(ways[SAME_RULE], asked) < counted / 5


@pytest.mark.slow
def test_memory_is_that_of_the_call() -> None:
    """The package holds logits of all positions of its nodes several times over."""
    scale = replace(TOY, steps=8)
    logits = 8 * 40 * 50_257 * 4
    assert 1.5 * logits < peak_memory("gpt2", PACKAGE, 40, scale) < 12 * logits
    assert peak_memory("gpt2", SAME_RULE, 40, scale) < logits


def test_unknown_parts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        attribution.main(["--only", "speed,taste"])
    assert "unknown parts: taste; known: speed, accuracy" in capsys.readouterr().err


def test_gpu_attribution() -> None:
    lines, figures = gpu.run_part("attribution", replace(GPU_TOY, families=("gpt2", "bert", "t5")))
    assert not gpu.failed({"attribution": (lines, figures)})
    assert len(figures) == 2 * 2 * 2  # families, precisions, methods
    exact, adaptive = (figures[f"bert float32, {method}"] for method in ("package", "adaptive"))
    assert exact["nodes"] == 20 > adaptive["nodes"] >= 5
    assert exact["pararel_s"] == pytest.approx(224_674 * exact["s_per_prompt"])
    assert exact["floor_s"] == pytest.approx(401e9 * 224_674 / exact["matmul_flop_per_s"])
    assert 8 <= exact["tokens_per_prompt"] <= 20 and exact["exact"]
