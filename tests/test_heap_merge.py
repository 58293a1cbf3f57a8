"""merge_heaps against a plain Python oracle, its laws, and the input it refuses."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyengine.merge import merge_heaps

Entry = tuple[float, int]
Row = list[Entry]
INF = math.inf
NAN = math.nan
ID_LIMIT = 40


def oracle(rows: list[Row], k: int, starts: list[int] | None, largest: bool) -> Row:
    """Sort everything, then keep the first entry of each id or unit."""
    kept: dict[int, Entry] = {}
    for score, entry_id in sorted(
        (entry for row in rows for entry in row), key=lambda e: (-e[0] if largest else e[0], e[1])
    ):
        group = entry_id if starts is None else sum(start <= entry_id for start in starts)
        kept.setdefault(group, (score + 0.0, entry_id))
    return list(kept.values())[:k]


def to_arrays(rows: list[Row], width: int) -> tuple[np.ndarray, np.ndarray]:
    scores = np.full((len(rows), width), NAN, dtype=np.float32)
    ids = np.full((len(rows), width), -1, dtype=np.int64)
    for key, row in enumerate(rows):
        for slot, (score, entry_id) in enumerate(row):
            scores[key, slot], ids[key, slot] = score, entry_id
    return scores, ids


def merge(shards: list[tuple[np.ndarray, np.ndarray]], k: int, **settings):
    return merge_heaps([scores for scores, _ in shards], [ids for _, ids in shards], k, **settings)


def assert_same_bits(got, expected) -> None:
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()


# Few distinct values, so that ties, both zeros and infinities meet often.
SCORES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, INF, -INF]),
    st.floats(width=32, allow_nan=False),
)
ROW = st.lists(st.tuples(SCORES, st.integers(0, ID_LIMIT - 1)), max_size=6)


@st.composite
def problems(draw):
    """Shards as rows of entries, sorted best first, with room for unfilled slots."""
    largest = draw(st.booleans())
    n_keys = draw(st.integers(0, 4))
    shards = []
    for _ in range(draw(st.integers(1, 9))):
        rows = draw(st.lists(ROW, min_size=n_keys, max_size=n_keys))
        sign = -1 if largest else 1
        shards.append([sorted(row, key=lambda entry: (sign * entry[0], entry[1])) for row in rows])
    inner = st.lists(st.integers(0, ID_LIMIT), max_size=12).map(sorted)
    starts = draw(st.none() | inner.map(lambda cuts: [0, *cuts, ID_LIMIT]))
    return shards, draw(st.integers(1, 12)), starts, largest


def arrays_of(shards: list[list[Row]], spare: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    return [to_arrays(rows, max(map(len, rows), default=0) + spare) for rows in shards]


def settings_of(starts: list[int] | None, largest: bool) -> dict:
    unit_starts = None if starts is None else np.array(starts, dtype=np.int64)
    return {"unit_starts": unit_starts, "largest": largest, "n_threads": 1}


def test_oracle_on_values_worked_out_by_hand() -> None:
    rows = [[(2.0, 7), (1.0, 3)], [(2.0, 5), (2.0, 7), (-0.0, 1)], []]
    assert oracle(rows, 4, None, True) == [(2.0, 5), (2.0, 7), (1.0, 3), (0.0, 1)]
    assert oracle(rows, 4, [0, 4, 8], True) == [(2.0, 5), (1.0, 3)]
    assert oracle([[(-1.0, 9), (3.0, 2)], [(-1.0, 4)]], 2, None, False) == [(-1.0, 4), (-1.0, 9)]


@given(problems(), st.integers(0, 2))
def test_equals_oracle(problem, spare: int) -> None:
    shards, k, starts, largest = problem
    expected = [
        oracle([rows[key] for rows in shards], k, starts, largest) for key in range(len(shards[0]))
    ]
    got = merge(arrays_of(shards, spare), k, **settings_of(starts, largest))
    assert_same_bits(got, to_arrays(expected, k))


@given(problems(), st.randoms(use_true_random=False))
def test_order_of_shards_grouping_threads_and_repeats_change_nothing(problem, random) -> None:
    shards, k, starts, largest = problem
    settings = settings_of(starts, largest)
    arrays = arrays_of(shards)
    expected = merge(arrays, k, **settings)

    shuffled = random.sample(arrays, len(arrays))
    assert_same_bits(merge(shuffled, k, **settings), expected)
    assert_same_bits(merge([*arrays, *arrays], k, **settings), expected)
    assert_same_bits(merge([expected, expected], k, **settings), expected)

    folded = merge(arrays[:1], k, **settings)
    for shard in arrays[1:]:
        folded = merge([folded, shard], k, **settings)
    assert_same_bits(folded, expected)
    cut = random.randint(1, len(arrays))
    halves = [merge(half, k, **settings) for half in (arrays[:cut], arrays[cut:]) if half]
    assert_same_bits(merge(halves, k, **settings), expected)

    for n_threads in (0, 2, 3, 64):
        assert_same_bits(merge(arrays, k, **{**settings, "n_threads": n_threads}), expected)


def test_many_keys_shards_and_units_equal_a_stable_sort() -> None:
    rng = np.random.default_rng(0)
    n_keys, width, k = 257, 20, 20
    shards = []
    for shard in range(33):
        ids = np.sort(rng.integers(0, 10**12, (n_keys, width)), axis=1) * 33 + shard
        scores = np.round(rng.standard_normal((n_keys, width)), 1).astype(np.float32)
        order = np.argsort(-scores, axis=1, kind="stable")
        shards.append((np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)))
    scores, ids = (np.concatenate(parts, axis=1) for parts in zip(*shards, strict=True))
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    expected = np.take_along_axis(scores, order, 1) + 0, np.take_along_axis(ids, order, 1)
    assert_same_bits(merge(shards, k, n_threads=1), expected)
    assert_same_bits(merge(shards, k, n_threads=5), expected)


def test_best_of_a_repeated_id_and_ids_beyond_32_bits() -> None:
    top = 2**63 - 1
    shards = [to_arrays([[(3.0, 1), (-INF, top)]], 2), to_arrays([[(2.0, 1), (1.0, 2**40)]], 3)]
    assert_same_bits(merge(shards, 4), to_arrays([[(3.0, 1), (1.0, 2**40), (-INF, top)]], 4))


def test_no_keys_no_slots_and_short_shards() -> None:
    none = to_arrays([], 5)
    assert merge([none, to_arrays([], 0)], 3)[0].shape == (0, 3)
    empty, short = to_arrays([[], []], 0), to_arrays([[(1.0, 4)], []], 1)
    assert_same_bits(merge([empty, empty], 2), to_arrays([[], []], 2))
    assert_same_bits(merge([empty, short, empty], 2), to_arrays([[(1.0, 4)], []], 2))


def test_strided_misaligned_and_readonly_arrays_are_read_correctly() -> None:
    scores, ids = to_arrays([[(3.0, 1), (2.0, 2)], [(5.0, 9)]], 2)
    expected = merge([(scores, ids)], 2)
    wide = np.repeat(scores, 2, axis=1)[:, ::2]
    assert not wide.flags.c_contiguous
    packed = np.frombuffer(b"\0" + ids.tobytes(), dtype=np.uint8)[1:].view(np.int64).reshape(2, 2)
    assert not packed.flags.aligned
    assert not packed.flags.writeable
    assert_same_bits(merge([(wide, packed)], 2), expected)
    assert_same_bits(merge([(np.asfortranarray(scores), np.asfortranarray(ids))], 2), expected)


GOOD = to_arrays([[(2.0, 1), (1.0, 3)]], 3)


def changed(scores: list[float], ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([scores], dtype=np.float32), np.array([ids], dtype=np.int64)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (changed([1, 2], [1, 2]), r"shard 1, key 0, slot 1: not sorted by \(score descending"),
        (changed([2, 2], [3, 1]), r"shard 1, key 0, slot 1: not sorted"),
        (changed([0.0, -0.0], [3, 1]), r"shard 1, key 0, slot 1: not sorted"),
        (changed([NAN, 1], [2, 3]), r"shard 1, key 0, slot 0: score is NaN but id is 2"),
        (changed([NAN], [0]), r"shard 1, key 0, slot 0: score is NaN but id is 0"),
        (changed([2, NAN], [2, 3]), r"shard 1, key 0, slot 1: score is NaN but id is 3"),
        (changed([2, 1], [2, -1]), r"shard 1, key 0, slot 1: score 1\.0+ has id -1"),
        (changed([2, NAN], [2, -2]), r"shard 1, key 0, slot 1: id -2 is below -1"),
        (changed([2, 1], [2, -(2**63)]), r"shard 1, key 0, slot 1: id -9223372036854775808"),
        (changed([NAN, 1], [-1, 3]), r"shard 1, key 0, slot 1: filled after an unfilled slot"),
        (changed([2, 1], [1, 60]), r"shard 1, key 0, slot 1: id 60 is outside unit_starts"),
        (changed([2, 1], [1, 0]), r"shard 1, key 0, slot 1: id 0 is outside unit_starts"),
        ((GOOD[0].astype(np.float64), GOOD[1]), r"shard 1: scores must be .*float32.*not float64"),
        ((GOOD[0].astype(">f4"), GOOD[1]), r"shard 1: scores must be .*float32.*not >f4"),
        ((GOOD[0], GOOD[1].astype(np.int32)), r"shard 1: ids must be .*int64.*not int32"),
        ((GOOD[0].tolist(), GOOD[1]), r"shard 1: scores must be .*not <class 'list'>"),
        ((GOOD[0][0], GOOD[1]), r"shard 1: scores must be a 2-D float32 array, not 1-D"),
        ((GOOD[0], GOOD[1][:, :2]), r"shard 1: scores have shape \(1, 3\), ids \(1, 2\)"),
        (to_arrays([[], []], 3), r"shard 1: has 2 keys, shard 0 has 1"),
    ],
)
def test_malformed_shard_is_refused(bad, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge([GOOD, bad], 2, unit_starts=np.array([1, 20, 60], dtype=np.int64))


def test_minima_must_ascend() -> None:
    with pytest.raises(ValueError, match=r"shard 0, .*not sorted by \(score ascending"):
        merge([GOOD], 2, largest=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k is 0, must be at least 1"),
        ({"n_threads": -1}, "n_threads is -1"),
        ({"unit_starts": np.array([0, 9, 8])}, "unit_starts is not ascending at index 2"),
        ({"unit_starts": np.array([-1, 9])}, "unit_starts begins at -1"),
        ({"unit_starts": np.array([], dtype=np.int64)}, "unit_starts is empty"),
        ({"unit_starts": np.array([0.0, 9.0])}, "unit_starts must be a 1-D int64 array"),
        ({"unit_starts": np.array([[0, 9]])}, "unit_starts must be a 1-D int64 array, not 2-D"),
        ({"unit_starts": np.array([5])}, "id 1 is outside unit_starts"),
    ],
)
def test_malformed_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge([GOOD], **{"k": 2, **settings})


def test_no_shards_and_unequal_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="holds no shard"):
        merge_heaps([], [], 1)
    with pytest.raises(ValueError, match="scores holds 1 shards, ids holds 2"):
        merge_heaps([GOOD[0]], [GOOD[1]] * 2, 1)


@pytest.mark.parametrize("n_threads", [1, 2, 7])
def test_first_error_is_reported_for_any_number_of_threads(n_threads: int) -> None:
    scores, ids = to_arrays([[(2.0, 1), (1.0, 3)]] * 20, 2)
    ids[5, 1] = ids[18, 0] = -7
    with pytest.raises(ValueError, match="shard 0, key 5, slot 1"):
        merge([(scores, ids)], 2, n_threads=n_threads)


def test_merging_needs_no_torch() -> None:
    code = "import sys, pyengine.merge; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
