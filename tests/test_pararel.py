"""ParaRel in every layout that it is published in."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pyengine import PyengineError, read_pararel
from pyengine.cloze import ends_in_mask
from pyengine.facts import check_facts

EXCERPT = Path(__file__).parent / "data" / "pararel"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_fact_stands_in_every_pattern() -> None:
    found = read_pararel(EXCERPT)
    check_facts(found)
    assert [fact.relation for fact in found] == ["P36"] * 8 + ["P103"] * 8 + ["P1001"] * 8
    for relation in ("P36", "P103", "P1001"):
        patterns = [row["pattern"] for row in lines(EXCERPT / "patterns" / f"{relation}.jsonl")]
        records = lines(EXCERPT / "facts" / f"{relation}.jsonl")
        mine = [fact for fact in found if fact.relation == relation]
        for fact, record in zip(mine, records, strict=True):
            assert (fact.uid, fact.object) == (record["uuid"], record["obj_label"])
            assert len(fact.prompts) == len(patterns)
            for prompt, pattern in zip(fact.prompts, patterns, strict=True):
                whole = pattern.replace("[Y]", record["obj_label"])
                assert prompt.replace("[MASK]", fact.object) == whole.replace("[X]", fact.subject)
                assert ends_in_mask(prompt) == pattern.rstrip(" .").endswith("[Y]")


def test_relations_may_be_chosen() -> None:
    found = read_pararel(EXCERPT, ["P1001", "P36"])
    assert {fact.relation for fact in found} == {"P36", "P1001"}
    with pytest.raises(PyengineError, match="unknown relation 'P527'; known are: P36, P103, P1001"):
        read_pararel(EXCERPT, ["P527"])


@pytest.mark.parametrize("base", ["", "data"])
def test_the_original_repository(tmp_path: Path, base: str) -> None:
    folder = tmp_path / "data"
    shutil.copytree(EXCERPT / "patterns", folder / "pattern_data" / "graphs_json")
    shutil.copytree(EXCERPT / "facts", folder / "trex_lms_vocab")
    assert read_pararel(tmp_path / base) == read_pararel(EXCERPT)


def test_the_files_of_the_knowledge_neurons_package(tmp_path: Path) -> None:
    wanted = read_pararel(EXCERPT)
    relations = dict.fromkeys(fact.relation for fact in wanted)
    plain = {
        name: {
            "graphs": lines(EXCERPT / "patterns" / f"{name}.jsonl"),
            "vocab": lines(EXCERPT / "facts" / f"{name}.jsonl"),
        }
        for name in relations
    }
    (tmp_path / "pararel.json").write_text(json.dumps(plain))
    assert read_pararel(tmp_path / "pararel.json") == wanted
    expanded = {
        fact.uid: {
            "sentences": list(fact.prompts),
            "relation_name": fact.relation,
            "obj_label": fact.object,
        }
        for fact in wanted
    }
    (tmp_path / "pararel_expanded.json").write_text(json.dumps(expanded))
    for fact, read in zip(wanted, read_pararel(tmp_path / "pararel_expanded.json"), strict=True):
        assert (read.uid, read.relation, read.object) == (fact.uid, fact.relation, fact.object)
        assert (read.prompts, read.subject) == (fact.prompts, "")


def test_bags_of_prompts(tmp_path: Path) -> None:
    bags = [
        [["Edmonton is the capital of [MASK].", "Alberta", "P1376(capital of)"]],
        [[f"{text} [MASK].", "French", "P103(native language)"] for text in ("a", "b")],
    ]
    (tmp_path / "bags.json").write_text(json.dumps(bags))
    first, second = read_pararel(tmp_path / "bags.json")
    assert (first.uid, first.relation, first.object) == ("P1376-00000", "P1376", "Alberta")
    assert second.prompts == ("a [MASK].", "b [MASK].")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not JSON"),
        ("7", "is not ParaRel: it holds int"),
        ("[[1]]", "bag 0 is not a list of"),
        ('{"u": 1}', "u: expected sentences"),
        ('{"u": {"sentences": ["a"], "relation_name": "P1"}}', "'obj_label' is missing"),
        ('{"P1": {"graphs": [{}], "vocab": []}}', "P1: the field 'pattern' is missing"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(PyengineError, match=named) as caught:
        read_pararel(tmp_path / "data.json")
    assert "\n" not in str(caught.value)


def test_a_folder_without_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PyengineError, match="is not ParaRel: it needs patterns/ and facts/ or"):
        read_pararel(tmp_path)
    with pytest.raises(PyengineError, match="is not ParaRel"):
        read_pararel(tmp_path / "nowhere")


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    shutil.copytree(EXCERPT, tmp_path / "copy")
    file = tmp_path / "copy" / "facts" / "P36.jsonl"
    file.write_text(file.read_text() + "{\n")
    with pytest.raises(PyengineError, match=r"P36\.jsonl:9: not JSON"):
        read_pararel(tmp_path / "copy")
