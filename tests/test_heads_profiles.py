"""What heads' scores say together: groups of tasks, depth, focus, similarity."""

import numpy as np
import pytest

from pyengine.heads.profiles import (
    GROUPS,
    by_group,
    depth_profiles,
    focus,
    group_of,
    share_within,
    similarity,
)
from pyengine.plots.heads_curves import looks


def test_groups_go_by_any_name() -> None:
    assert [group_of(task) for task in ("Length", "sentence_length", "TREC", "past_present")] == [
        *("surface", "surface", "TREC", "semantic")
    ]
    found = by_group(["TREC", "ObjNumber", "tree_depth", "Tense", "AAA", "Length"])
    assert list(found) == ["surface", "syntactic", "semantic", "TREC", "AAA"]
    assert found["semantic"] == ["Tense", "ObjNumber"]
    every = [task for of in GROUPS.values() for task in of]
    styles = looks([*every, *(f"task-{i}" for i in range(14))])
    assert len({(look.color, str(look.linestyle)) for look in styles.values()}) == 24


def test_depth_profiles_weigh_tasks_alike() -> None:
    nan = np.nan
    scores = {
        "Length": np.array([[50.0, 40], [90, 10], [70, nan]]),
        "WordContent": np.array([[0.2, 0.1], [0.1, 0.1], [nan, nan]]),
        "Tense": np.full((3, 2), 50.0),
    }
    found = depth_profiles(scores)
    assert list(found) == ["surface"]  # Tense is the same everywhere
    np.testing.assert_allclose(found["surface"].best, [(0 + 1) / 2, (1 + 0) / 2, 0.5])
    # Means: 45, 50, 70, and .15, .1, none.
    np.testing.assert_allclose(found["surface"].mean, [(0 + 1) / 2, (5 / 25 + 0) / 2, 1])
    assert found["surface"].tasks == ("Length", "WordContent")


def test_focus_of_one_head_and_of_all() -> None:
    alike = focus(np.full((2, 5), 70.0), 50)
    assert alike.gini == pytest.approx(0)
    np.testing.assert_allclose(alike.gain, alike.heads)
    one = focus(np.array([[90.0, 50, 40, np.nan, 50]]), 50)
    assert one.gain.tolist() == [0, 1, 1, 1, 1] and one.gini == pytest.approx(0.75)
    assert np.isnan(focus(np.full(4, 50.0), 50).gini)
    scores = np.array([90.0, 88, 80, np.nan, 60])
    assert share_within(scores, np.array([0, 2, 9.9, 10, 30])).tolist() == [0.25, 0.5, 0.5, 0.75, 1]


def test_similarity_is_of_ranks_with_ties() -> None:
    first = np.array([[1.0, 2, 2], [3, np.nan, 10]])
    second = np.array([[10.0, 20, 30], [40, 7, np.nan]])
    found = similarity({"a": first, "b": second, "c": -second, "d": np.ones((2, 3))})
    # Of the four heads in both: ranks 0, 1.5, 1.5, 3 and 0, 1, 2, 3.
    assert found[0, 1] == pytest.approx(np.corrcoef([0, 1.5, 1.5, 3], [0, 1, 2, 3])[0, 1])
    assert found[1, 2] == pytest.approx(-1) and found[0, 0] == pytest.approx(1)
    assert np.isnan(found[3]).all() and np.isnan(found[:, 3]).all()
