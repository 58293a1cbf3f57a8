"""`pyengine neurons find`, as the library finds neurons; and how runs of many facts are shown."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import synthetic_neurons
import torch
from command_line import Run, assert_one_line
from rich.console import Console

import pyengine
from pyengine.analyses.knowledge_neurons import KnowledgeNeurons
from pyengine.cli import neurons_find_view, neurons_show, neurons_view
from pyengine.interventions import suppress

BERT = Path(__file__).parent / "models" / "bert"
PROMPTS = ["Vobirk Drovind was born in [MASK].", "The birthplace of Vobirk Drovind is [MASK]."]
OTHER = "Tugur Revas was born in [MASK]."


@pytest.fixture(scope="module")
def kn() -> KnowledgeNeurons:
    return KnowledgeNeurons(pyengine.load(BERT, device="cpu"))


def find(run: Run, *more: object, prompts: list[str] = PROMPTS[:1], target: str = "rome") -> Any:
    asked = [part for prompt in prompts for part in ("--prompt", prompt)]
    return run("neurons", "find", BERT, *asked, "--target", target, "--device", "cpu", *more)


def pairs(report: dict[str, Any]) -> list[tuple[int, int]]:
    return [(row["layer"], row["dim"]) for row in report["neurons"]]


def test_json_is_what_the_library_finds(run: Run, kn: KnowledgeNeurons) -> None:
    done = find(run, "--json", "--adaptive", 0.4)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    found = kn.attribute(PROMPTS[0], "rome")
    scores = found.scores[0]
    chosen = kn.coarse(PROMPTS[0], "rome", adaptive=0.4)
    assert len(chosen) > 3
    assert pairs(report) == sorted(chosen, key=lambda neuron: -float(scores[neuron]))
    for row in report["neurons"]:
        score = float(scores[row["layer"], row["dim"]])
        assert row["score"] == pytest.approx(score, rel=1e-5)
        assert row["share"] == pytest.approx(score / float(scores.max()), rel=1e-5)
        assert row["n_prompts"] == 1
    (prompt,) = report["prompts"]
    effect = suppress(kn.model, chosen).effect(PROMPTS[0], "rome")
    assert prompt["before"]["probability"] == pytest.approx(effect.before.probability)
    assert prompt["suppressed"]["probability"] == pytest.approx(effect.after.probability)
    assert prompt["suppressed"]["probability"] < prompt["before"]["probability"]
    assert [row["layer"] for row in prompt["layers"]] == [0, 1, 2, 3]
    for row, change, error in zip(
        prompt["layers"], found.change[0], found.completeness[0], strict=True
    ):
        assert row["change"] == pytest.approx(float(change), abs=1e-6)
        assert row["completeness"] == pytest.approx(float(error), abs=1e-6)
        assert row["converged"] is True


def test_what_a_neuron_writes_is_softmax_of_its_value_and_the_embedding(
    run: Run, kn: KnowledgeNeurons
) -> None:
    report = json.loads(find(run, "--json").out)
    row = report["neurons"][0]
    hf: Any = kn.model.hf
    value = hf.bert.encoder.layer[row["layer"]].output.dense.weight[:, row["dim"]]
    probs = torch.softmax(hf.bert.embeddings.word_embeddings.weight @ value, 0).detach()
    best = probs.topk(5)
    assert [token["probability"] for token in row["writes"]] == pytest.approx(
        best.values.tolist(), rel=1e-4
    )
    tokens = kn.model.tokenizer.convert_ids_to_tokens(best.indices.tolist())  # type: ignore[union-attr]
    assert [token["token"].strip() for token in row["writes"]] == [
        token.removeprefix("##") for token in tokens
    ]


def test_several_prompts_are_refined(run: Run, kn: KnowledgeNeurons) -> None:
    report = json.loads(find(run, "--json", prompts=PROMPTS).out)
    refined = kn.refine(PROMPTS, "rome")
    assert refined and set(pairs(report)) == set(refined)
    assert all(row["n_prompts"] == 2 for row in report["neurons"])
    assert report["neurons"] == sorted(report["neurons"], key=lambda row: -row["score"])

    fewer = json.loads(find(run, "--json", "--negative", OTHER, prompts=PROMPTS).out)
    left = kn.refine(PROMPTS, "rome", negatives=[OTHER])
    assert set(pairs(fewer)) == set(left) < set(refined)
    assert fewer["n_excluded"] == len(refined) - len(left)
    shown = find(run, "--negative", OTHER, prompts=PROMPTS).out
    assert f"{fewer['n_excluded']} taken away by negatives" in " ".join(shown.split())


def test_the_table_says_what_there_is(run: Run) -> None:
    done = find(run, "--top", 3, "--by-layer", prompts=PROMPTS)
    assert done.code == 0 and not done.err, done.err
    text = " ".join(done.out.split())
    for words in (*PROMPTS, "'rome': the model's best answer", "error of the scores' sums"):
        assert words in text
    for words in ("neurons are shared (of", "2 of 2", "neurons suppressed", "neurons × 2"):
        assert words in text
    assert "more; --top shows more" in text and "change: of what is attributed" in text
    report = json.loads(find(run, "--json", prompts=PROMPTS).out)
    rows = [
        line.split()[:2]
        for line in done.out.splitlines()
        if line.endswith("2 of 2") or "2 of 2" in line
    ]
    assert rows == [[str(layer), str(dim)] for layer, dim in pairs(report)[:3]]


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_terminal(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    width: int,
) -> None:
    report = json.loads(find(run, "--json", prompts=PROMPTS).out)
    for row in report["neurons"]:
        row["writes"] = [{"token": " " + "x" * 40, "probability": 0.5}] * 5
    monkeypatch.setattr(neurons_find_view, "out", Console(width=width, highlight=False))
    neurons_find_view.print_report(report, 20, True)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    assert str(report["neurons"][0]["dim"]) in printed and "100%" in printed


def test_nothing_found_is_said(run: Run) -> None:
    done = find(run, "--threshold", 1e6)
    assert done.code == 0, done.err
    assert "0 neurons stand out: a lower" in done.out
    report = json.loads(find(run, "--threshold", 1e6, "--json").out)
    assert report["neurons"] == []
    before, after = (report["prompts"][0][name] for name in ("before", "suppressed"))
    assert before == after


def test_single_pass_methods_have_no_error_bar(run: Run) -> None:
    shown = find(run, "--method", "max_activation", "--top", 1)
    assert "a single pass" in shown.out
    report = json.loads(find(run, "--method", "max_activation", "--json").out)
    assert {row["completeness"] for row in report["prompts"][0]["layers"]} == {None}
    assert not any(math.isnan(row["score"]) for row in report["neurons"])


def test_a_missing_space_is_warned_of_in_one_line(run: Run) -> None:
    asked = ["--prompt", "Vobirk Drovind was born in", "--prompt", "Vobirk Drovind lived in"]
    done = run("neurons", "find", "demo", *asked, "--target", "Rome", "--device", "cpu", "--json")
    assert done.code == 0
    (line,) = done.err.splitlines()
    assert line.startswith("warning: the target 'Rome' has 2 tokens") and "' Rome'" in line
    assert json.loads(done.out)["tokens"] == ["R", "ome"]


@pytest.mark.parametrize(
    ("prompts", "target", "options", "words"),
    [
        (["Rome is in"], "rome", [], ["0 masks", "[MASK]"]),
        (["[MASK] of [MASK]"], "rome", [], ["2 masks"]),
        (PROMPTS[:1], "", [], ["no tokens"]),
        (PROMPTS[:1], "☃", [], ["not in the vocabulary"]),
        (PROMPTS[:1], "rome", ["--method", "simpson"], ["unknown method 'simpson'", "adaptive"]),
        (PROMPTS[:1], "rome", ["--objective", "p"], ["unknown objective 'p'"]),
        (PROMPTS[:1], "rome", ["--baseline", "one"], ["unknown baseline 'one'", "zero, mean"]),
        (PROMPTS[:1], "rome", ["--value", "mid"], ["unknown value 'mid'"]),
        (PROMPTS[:1], "rome", ["--steps", "0"], ["steps"]),
        (PROMPTS[:1], "rome", ["--adaptive", "0.3", "--threshold", "1"], ["exactly one of"]),
        (PROMPTS[:1], "rome", ["--percentile", "101"], ["percentile"]),
        (PROMPTS[:1], "rome", ["--share", "1"], ["share must be from 0 to below 1"]),
        (PROMPTS, "rome", ["--share", "auto"], ["at least 3 prompts", "got 2"]),
        (PROMPTS[:1], "rome", ["--factor", "inf"], ["factor"]),
        (PROMPTS[:1], "rome", ["--dtype", "int8"], ["unknown dtype 'int8'"]),
    ],
)
def test_bad_input_is_one_line(
    run: Run, prompts: list[str], target: str, options: list[str], words: list[str]
) -> None:
    outcome = find(run, *options, prompts=prompts, target=target)
    assert_one_line(outcome, 1, "error:", *words)
    assert outcome.out == ""


@pytest.mark.parametrize("options", [["--share", "half"], ["--top", "0"], ["--steps", "x"]])
def test_wrong_usage(run: Run, options: list[str]) -> None:
    assert find(run, *options).code == 2
    assert run("neurons", "find", BERT, "--target", "rome").code == 2


def test_help_shows_an_example_of_every_command(run: Run) -> None:
    for command in ("", "find", "pararel", "compare", "plot"):
        outcome = run("neurons", *command.split(), "--help")
        assert outcome.code == 0
        assert f"Example: pyengine neurons {command or 'find'}" in outcome.out


def test_the_stacks_of_t5_are_told_apart(run: Run) -> None:
    asked = ["--prompt", PROMPTS[0], "--target", "Rome", "--device", "cpu", "--percentile", 50]
    done = run("neurons", "find", BERT.parent / "t5", *asked, "--top", 4000)
    assert done.code == 0, done.err
    rows = {tuple(line.split()[:2]) for line in done.out.splitlines() if "coder " in line}
    assert rows == {("encoder", str(i)) for i in range(3)} | {
        ("decoder", str(i)) for i in (3, 4, 5)
    }


@pytest.mark.parametrize("n_relations", [1, 39])
def test_the_tables_fit_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], n_relations: int
) -> None:
    console = Console(width=80, highlight=False)
    monkeypatch.setattr(neurons_view, "out", console)
    monkeypatch.setattr(neurons_show, "out", console)
    found = synthetic_neurons.found(n_relations, n_layers=24)
    neurons_show.show_neurons(found, None, None, None, None, 10, False)
    neurons_show.show_neurons(found, "0", None, None, None, 10, False)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.count("P17 country") == 3 and "w0 [b] w0 [MASK] ." in printed
    assert "skipped 2 facts, as uid-x: the target 'x'" in printed
