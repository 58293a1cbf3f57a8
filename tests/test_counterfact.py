"""CounterFact: prompts that end in the true object."""

import json
from pathlib import Path
from typing import Any

import pytest

from pyengine import Fact, PyengineError, read_counterfact
from pyengine.cloze import ends_in_mask
from pyengine.facts import check_facts

# Made up, in the layout of the data set.
RECORD: dict[str, Any] = {
    "case_id": 12,
    "pararel_idx": 2796,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Vobirk {Drovind}",
    },
    "paraphrase_prompts": ["It rained. Vobirk {Drovind}, a native ", "He spoke"],
    "neighborhood_prompts": ["not read"],
    "generation_prompts": ["not read"],
}
WANTED = Fact(
    uid="counterfact-12",
    relation="P103",
    subject="Vobirk {Drovind}",
    object="French",
    prompts=(
        "The mother tongue of Vobirk {Drovind} is [MASK]",
        "It rained. Vobirk {Drovind}, a native [MASK]",
        "He spoke [MASK]",
    ),
)


def test_reads_the_true_object(tmp_path: Path) -> None:
    path = tmp_path / "counterfact.json"
    path.write_text(json.dumps([RECORD]))
    (fact,) = read_counterfact(path)
    assert fact == WANTED
    assert all(map(ends_in_mask, fact.prompts))
    check_facts([fact])


def test_json_lines_and_no_paraphrases(tmp_path: Path) -> None:
    path = tmp_path / "counterfact.jsonl"
    path.write_text(f"{json.dumps(RECORD)}\n\n{json.dumps(RECORD | {'case_id': 13})}\n")
    first, second = read_counterfact(path, paraphrases=False)
    assert first.prompts == second.prompts == WANTED.prompts[:1]
    assert second.uid == "counterfact-13"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[", "not JSON"),
        ("{}", "expected a list of records"),
        ("[[]]", "record 0 is not of CounterFact"),
        (json.dumps([RECORD, {"case_id": 1}]), "record 1 is not of CounterFact: KeyError"),
        (json.dumps([RECORD | {"paraphrase_prompts": [3]}]), "record 0 is int, not text"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "counterfact.json"
    path.write_text(text)
    with pytest.raises(PyengineError, match=named) as caught:
        read_counterfact(path)
    assert "\n" not in str(caught.value)
