"""Facts: files in several layouts, and what makes a set of facts fit for a run."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fact_helpers import load

import pyengine
from pyengine import Fact, PyengineError, read_facts
from pyengine.cloze import clozes, ends_in_mask
from pyengine.embedded import FACTS
from pyengine.facts import by_relation, check_facts, describe_facts

LINE: dict[str, Any] = {"relation": "capital", "target": "Paris", "prompts": ["a [MASK]."]}


def write(path: Path, *records: Any) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + "\n")
    return path


def test_reads_json_lines(tmp_path: Path) -> None:
    named = LINE | {"uid": "x", "subject": "France", "prompts": ["It is", "[MASK] it is"]}
    found = read_facts(write(tmp_path / "facts.jsonl", LINE, "", named))
    assert found == [
        Fact("capital-00001", "capital", "", "Paris", ("a [MASK].",)),
        Fact("x", "capital", "France", "Paris", ("It is [MASK]", "[MASK] it is")),
    ]


def test_other_spellings_mean_the_same(tmp_path: Path) -> None:
    line = {"relation": "r", "object": "Paris", "id": 7, "prompts": {"a": "In ", "b": "At"}}
    (found,) = read_facts(write(tmp_path / "facts.jsonl", line))
    assert found == Fact("7", "r", "", "Paris", ("In [MASK]", "At [MASK]"))


def test_templates_count_before_prompts_and_lose_the_last_naming_of_the_object(
    tmp_path: Path,
) -> None:
    line = LINE | {"templates": ["Paris Hilton lives in Paris, too."], "prompts": ["wrong"]}
    (found,) = read_facts(write(tmp_path / "facts.jsonl", line))
    assert found.prompts == ("Paris Hilton lives in [MASK], too.",)


def test_several_files_and_compressed_ones(tmp_path: Path) -> None:
    packed = tmp_path / "more.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(LINE | {"uid": "b"}).encode()))
    found = read_facts([write(tmp_path / "facts.jsonl", LINE | {"uid": "a"}), packed])
    assert [fact.uid for fact in found] == ["a", "b"]


def test_the_demo_models_facts_end_in_their_objects() -> None:
    found = read_facts(FACTS)
    check_facts(found)
    assert len(found) == 150
    assert len({fact.relation for fact in found}) == 3
    assert all(ends_in_mask(prompt) for fact in found for prompt in fact.prompts)
    lines = [json.loads(line) for line in FACTS.read_text().splitlines()]
    for fact, line in zip(found, lines, strict=True):
        sentences = [prompt.replace("[MASK]", fact.object) for prompt in fact.prompts]
        assert sentences == [*line["templates"].values()]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "facts.jsonl:2: not JSON"),
        ("[]", "facts.jsonl:2: expected a JSON object, got list"),
        ({"target": "a", "prompts": ["b"]}, ":2: the field 'relation' is missing"),
        ({"relation": "r", "prompts": ["b"]}, ":2: the field 'target' is missing"),
        ({"relation": "r", "target": " ", "prompts": ["b"]}, ":2: target is empty"),
        ({"relation": "r", "target": 7, "prompts": ["b"]}, ":2: target is int, not text"),
        ({"relation": "r", "target": "a"}, ":2: the field 'prompts' is missing"),
        ({"relation": "r", "target": "a", "prompts": "b"}, "must be a list of texts, not str"),
        ({"relation": "r", "target": "a", "templates": ["b"]}, "'b' does not name 'a'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: Any, named: str) -> None:
    with pytest.raises(PyengineError, match=named) as caught:
        read_facts(write(tmp_path / "facts.jsonl", LINE, line))
    assert "\n" not in str(caught.value)


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PyengineError, match="no such file"):
        read_facts(tmp_path / "none.jsonl")
    with pytest.raises(PyengineError, match="holds no fact"):
        read_facts(write(tmp_path / "facts.jsonl", ""))


FACT = Fact("a", "r", "s", "o", ("x [MASK]",))


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ([], "no facts"),
        ([FACT, FACT], "two facts are called 'a'"),
        ([replace(FACT, prompts=())], "'a' has no prompts"),
        ([replace(FACT, prompts=("x",))], r"the prompt 'x' has no \[MASK\]"),
    ],
)
def test_unfit_facts_are_refused(facts: list[Fact], named: str) -> None:
    with pytest.raises(PyengineError, match=named):
        check_facts(facts)


def test_facts_are_put_side_by_side_by_relation() -> None:
    facts = [replace(FACT, uid=str(i), relation=r) for i, r in enumerate("abcabca")]
    assert [(f.relation, f.uid) for f in by_relation(facts)] == [
        *[("a", "0"), ("a", "3"), ("a", "6")],
        *[("b", "1"), ("b", "4"), ("c", "2"), ("c", "5")],
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"uid": "b"},
        {"relation": "q"},
        {"subject": "t"},
        {"object": "p"},
        {"prompts": ("x [MASK]", "y [MASK]")},
        {"prompts": ("x[MASK]",)},
    ],
)
def test_the_description_tells_any_change_but_the_source(change: dict[str, Any]) -> None:
    known = describe_facts([FACT], "here")
    assert known == describe_facts([FACT], "there") | {"source": "here"}
    assert known["n_facts"] == known["n_prompts"] == known["n_relations"] == 1
    assert describe_facts([replace(FACT, **change)], "here")["sha256"] != known["sha256"]


@pytest.mark.parametrize(
    "prompt",
    [
        "w1 [MASK]",
        "w1 [MASK].",
        "w1 [MASK] .",
        "w1 [MASK] ?!",
        "w1 [MASK] w2",
        "w1 [MASK], w2",
        "w1 [MASK],",
        "[MASK] w1",
        "w1 [MASK] [MASK]",
    ],
)
def test_ends_in_mask_says_what_a_causal_model_accepts(prompt: str) -> None:
    model = load("gpt2")
    try:
        accepted = bool(clozes(model, prompt, "w5"))
    except PyengineError:
        accepted = False
    assert ends_in_mask(prompt) == accepted


def test_public_names() -> None:
    assert pyengine.Fact is Fact
    assert pyengine.read_facts is read_facts
