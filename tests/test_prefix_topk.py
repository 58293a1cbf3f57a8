"""StreamingTopK with per="prefix" against brute force: any order, cut, padding, split and merge."""

import random
from collections.abc import Callable, Iterator

import pytest
import torch

from pyengine import PyengineError, StreamingTopK
from pyengine.reducers import heaps

Entry = tuple[float, int, int]  # score, unit, position
N_UNITS, LONGEST, KEYS, K = 60, 7, 3, 9
Score = Callable[[tuple[int, ...], int, int], float]  # prefix, unit, key


def entries(topk: StreamingTopK, key: int) -> list[Entry]:
    """Return what is kept of a key, best first."""
    scores, units, positions = (column[key].tolist() for column in topk.compute())
    rows = zip(scores, units, positions, strict=True)
    return [row for row in rows if row[1] >= 0]


def causal(prefix: tuple[int, ...], unit: int, key: int) -> float:
    """A score that a causal model could have; many ties."""
    return random.Random(str((prefix, key))).randrange(40) / 8 - 2


def rounded(prefix: tuple[int, ...], unit: int, key: int) -> float:
    """Equal prefixes differ a little, as in batches of different shape."""
    return causal(prefix, unit, key) + random.Random(str((prefix, unit, key))).randrange(3) / 1024


def corpus(seed: int) -> list[list[int]]:
    """Return units over two tokens, so that most prefixes occur often."""
    source = random.Random(seed)
    return [
        [source.randrange(2) for _ in range(source.randint(1, LONGEST))] for _ in range(N_UNITS)
    ]


def expected_prefixes(units: list[list[int]], score: Score, sign: int) -> list[list[Entry]]:
    """Each prefix with its best entry, ties: the first; then the best prefixes."""
    found = []
    for key in range(KEYS):
        best: dict[tuple[int, ...], tuple[float, int, int]] = {}
        for number, unit in enumerate(units):
            for position in range(len(unit)):
                prefix = tuple(unit[: position + 1])
                entry = (-sign * score(prefix, number, key), number, position)
                best[prefix] = min(best.get(prefix, entry), entry)
        found.append([(-sign * s, u, p) for s, u, p in sorted(best.values())[:K]])
    return found


def batches(
    units: list[list[int]], score: Score, source: random.Random
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield the units in any order, in batches of any size, padded on either side."""
    order = source.sample(range(len(units)), len(units))
    while order:
        rows, order = order[: (n := source.randint(1, 20))], order[n:]
        width = max(len(units[row]) for row in rows) + source.randrange(2)
        values = torch.full((len(rows), width, KEYS), 99.0)  # padding must not be seen
        tokens, mask = torch.zeros(2, len(rows), width, dtype=torch.int64)
        left = source.random() < 0.5
        for line, row in enumerate(rows):
            unit, start = units[row], (width - len(units[row])) * left
            for position, token in enumerate(unit):
                mask[line, start + position], tokens[line, start + position] = 1, token
                for key in range(KEYS):
                    prefix = tuple(unit[: position + 1])
                    values[line, start + position, key] = score(prefix, row, key)
        yield values, torch.tensor(rows), mask, tokens


@pytest.mark.parametrize("sign", ["max", "min"])
@pytest.mark.parametrize("score", [causal, rounded])
def test_prefixes_compete_once_in_any_order(
    score: Score, sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order, cut, padding, split over reducers and the order of merges: all the same answer."""
    for seed in range(12):
        units, source = corpus(seed % 2), random.Random(seed)
        monkeypatch.setattr(heaps, "SLICE", source.choice([1, 5, 256]))
        parts = [
            StreamingTopK(K, KEYS, LONGEST, per="prefix", sign=sign)
            for _ in range(source.randint(1, 4))
        ]
        for values, rows, mask, tokens in batches(units, score, source):
            positions = mask.cumsum(1) - 1
            source.choice(parts).update(values, rows, mask, tokens, positions=positions)
        while len(parts) > 1:
            source.shuffle(parts)
            parts[0].merge(parts.pop())
        expected = expected_prefixes(units, score, 1 if sign == "max" else -1)
        assert [entries(parts[0], key) for key in range(KEYS)] == expected


def test_prefixes_of_a_causal_model_are_reported_at_their_first_occurrence() -> None:
    units = corpus(0)
    for entries_of_key in expected_prefixes(units, causal, 1):
        for _, unit, position in entries_of_key:
            prefix = units[unit][: position + 1]
            assert all(other[: position + 1] != prefix for other in units[:unit])


def test_repeats_do_not_push_others_out() -> None:
    """Fifty occurrences of the best prefix take one of two places."""
    topk = StreamingTopK(2, 1, 2, per="prefix")
    tokens = torch.tensor([[5, 6]] * 50 + [[7, 8]])
    values = torch.tensor([[9.0, 1.0]] * 50 + [[3.0, 2.0]])[:, :, None]
    topk.update(values.flip(0), torch.arange(50, -1, -1), token_ids=tokens.flip(0))
    assert entries(topk, 0) == [(9.0, 0, 0), (3.0, 50, 0)]
    topk.update(values, torch.arange(51, 102), token_ids=tokens)
    assert entries(topk, 0) == [(9.0, 0, 0), (3.0, 50, 0)]


def test_prefix_settings_hold_as_ever() -> None:
    values = torch.tensor([[5.0, float("nan"), 4.0, -1.0], [5.0, 7.0, 0.0, float("inf")]])
    tokens = torch.tensor([[1, 2, 3, 4], [1, 9, 3, 4]])
    topk = StreamingTopK(8, 1, 4, per="prefix", floor=0.0, exclude=[9], skip_first=1)
    topk.update(values[:, :, None], torch.tensor([0, 1]), token_ids=tokens)
    assert entries(topk, 0) == [(float("inf"), 1, 3), (4.0, 0, 2)]


def test_bad_prefixes() -> None:
    topk, values = StreamingTopK(2, 3, 8, per="prefix"), torch.zeros(2, 4, 3)
    tokens, units = torch.zeros(2, 4, dtype=torch.int64), torch.tensor([0, 1])
    with pytest.raises(PyengineError, match="per='prefix' needs token_ids"):
        topk.update(values, units)
    with pytest.raises(PyengineError, match="whole units: a row starts at position 2, not 0"):
        topk.update(values, units, token_ids=tokens, first_position=2)
    with pytest.raises(PyengineError, match="floor must be a number, got nan"):
        StreamingTopK(2, 3, per="prefix", floor=float("nan"))
