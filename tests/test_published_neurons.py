"""Neurons and results as others publish them, and how sets agree."""

import json
from pathlib import Path
from typing import Any

import pytest
from fact_helpers import cheap as cheap
from fact_helpers import find

from pyengine import PyengineError
from pyengine.analyses.fact_relations import RELATIONS
from pyengine.neurons import Neuron
from pyengine.published_neurons import (
    compare_neurons,
    read_published_neurons,
    read_published_results,
)


def write(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data))
    return path


def test_shards_of_published_neurons_are_put_together(tmp_path: Path) -> None:
    first = write(tmp_path / "0.json", {"a": [[1, 2]], "b": []})
    second = write(tmp_path / "1.json", {"c": [[0, 3], [0, 1]], "b": []})
    found = read_published_neurons([first, second])
    assert found == {"a": [Neuron(1, 2)], "b": [], "c": [Neuron(0, 3), Neuron(0, 1)]}
    clash = write(tmp_path / "2.json", {"a": [[1, 3]]})
    with pytest.raises(PyengineError, match="fact a has other neurons in a file before"):
        read_published_neurons([first, clash])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object by fact, got list"),
        ("{}", "the files hold no fact"),
        ('{"a": [[1]]}', r"a is not a list of \[layer, dim\]"),
        ('{"a": 3}', r"a is not a list of \[layer, dim\]"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "neurons.json").write_text(text)
    with pytest.raises(PyengineError, match=named) as caught:
        read_published_neurons(tmp_path / "neurons.json")
    assert "\n" not in str(caught.value)


def sets(**neurons: list[tuple[int, int]]) -> dict[str, list[Neuron]]:
    return {uid: [Neuron(*pair) for pair in pairs] for uid, pairs in neurons.items()}


def test_agreement_by_relation_and_layer() -> None:
    a = sets(x=[(0, 1), (1, 1), (1, 2)], y=[(1, 5)], z=[], only_a=[(0, 0)])
    b = sets(z=[], y=[(1, 5), (1, 6)], x=[(1, 2), (2, 9)], only_b=[(0, 0)])
    rows = compare_neurons(a, b, {"x": "r", "y": "r", "z": "s"}).to_pylist()
    found = {(row["relation"], row["layer"]): row for row in rows}
    assert [*found] == [
        *[("r", layer) for layer in (None, 0, 1, 2)],
        ("s", None),
        *[("all", layer) for layer in (None, 0, 1, 2)],
    ]
    counts = ("n_facts", "n_a", "n_b", "n_shared")
    assert [found["r", None][name] for name in counts] == [2, 4, 4, 2]
    assert found["r", None]["jaccard"] == pytest.approx(2 / 6)
    assert found["r", None]["mean_jaccard"] == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert [found["r", 1][name] for name in counts] == [2, 3, 3, 2]
    assert found["r", 1]["mean_jaccard"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert found["r", 2]["jaccard"] == 0
    assert (found["s", None]["jaccard"], found["s", None]["mean_jaccard"]) == (None, None)
    assert found["all", None]["n_facts"] == 3
    assert found["all", None]["jaccard"] == found["r", None]["jaccard"]


def test_without_relations_there_is_one_group() -> None:
    a = sets(x=[(0, 1)])
    assert compare_neurons(a, a).to_pydict()["relation"] == ["all", "all"]
    with pytest.raises(PyengineError, match="the two share no fact"):
        compare_neurons(a, sets(y=[]))


def test_runs_know_their_relations(cheap: None) -> None:
    found, other = find(), find(share=0.0)
    table = compare_neurons(found.by_uid(), other)
    rows = {row["relation"]: row for row in table.to_pylist() if row["layer"] is None}
    assert [*rows] == ["r0", "r1", "r2", "all"]
    assert rows["all"]["n_shared"] == rows["all"]["n_a"] == found.neurons.num_rows
    assert rows["all"]["n_b"] == other.neurons.num_rows > found.neurons.num_rows
    per_layer = [
        row for row in table.to_pylist() if row["relation"] == "r1" and row["layer"] is not None
    ]
    assert sum(row["n_a"] for row in per_layer) == rows["r1"]["n_a"]


def result(relation: str, own: list[float], other: list[float], **more: Any) -> dict[str, Any]:
    """Make a fact's result as pararel_evaluate.py writes it, its bug included."""

    def answers(changes: list[float], n_right: int) -> dict[str, Any]:
        right = [i < n_right for i in range(len(changes))]
        before = [True] * len(changes)
        return {
            "pct_change": changes,
            "correct_before": before,
            "correct_after": right,
            "n_prompts": len(changes),
        }

    enhanced = [-3 * change for change in own]
    return {
        "suppression": {"related": answers(own, 1), "unrelated": answers(other, 2)},
        "enhancement": {"related": answers(enhanced, 2), "unrelated": answers(other, 2)},
        "n_refined_neurons": 4,
        "n_unrelated_neurons": 2,
        "relation_name": relation,
    } | more


def test_published_results_become_the_same_table(tmp_path: Path) -> None:
    files = [
        write(
            tmp_path / "0.json",
            {
                "a": result("P1", [-0.5, -0.7], [0.0, -0.1, -0.2]),
                "b": result("P1", [-0.9], [0.1], n_refined_neurons=0),
            },
        ),
        write(tmp_path / "1.json", {"c": result("P2", [-0.2], [0.3])}),
    ]
    table = read_published_results(files)
    assert table.schema.equals(RELATIONS)
    first, second, whole = table.to_pylist()
    assert (first["relation"], first["n_facts"], first["n_prompts"]) == ("P1", 2, 3)
    assert (first["n_neurons"], second["n_neurons"]) == (2.0, 4.0)
    # As the package's plot: facts without neurons are left out.
    assert first["own_suppress_mean_of_ratios"] == pytest.approx(-0.6)
    assert first["own_enhance_mean_of_ratios"] == pytest.approx(1.8)
    assert first["unrelated_suppress_mean_of_ratios"] == pytest.approx(-0.1)
    assert whole["own_suppress_mean_of_ratios"] == pytest.approx((-0.6 - 0.2) / 2)
    assert first["own_suppress_ratio_of_means"] is None
    assert first["own_correct_before"] == 1
    assert first["own_correct_suppressed"] == pytest.approx(2 / 3)
    assert whole["relation"] == "all"


def test_the_published_enhancement_that_was_a_suppression_is_left_out(tmp_path: Path) -> None:
    broken = result("P1", [-0.5], [-0.1])
    right = result("P1", [-0.5], [-0.1])
    right["enhancement"]["unrelated"] = right["suppression"]["unrelated"] | {"pct_change": [0.4]}
    path = write(tmp_path / "results.json", {"a": broken})
    assert read_published_results(path)["unrelated_enhance_mean_of_ratios"].null_count == 2
    assert read_published_results(path)["unrelated_correct_enhanced"].null_count == 2
    path = write(tmp_path / "results.json", {"a": broken, "b": right})
    first, _ = read_published_results(path).to_pylist()
    assert first["unrelated_enhance_mean_of_ratios"] == pytest.approx((-0.1 + 0.4) / 2)


def test_another_kind_of_result_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "results.json", {"a": {"suppression": {}}})
    with pytest.raises(PyengineError, match=r"a is not a result of pararel_evaluate\.py"):
        read_published_results(path)
