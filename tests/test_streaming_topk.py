"""StreamingTopK in somebody else's loop: a plain forward hook, masks, exclusions, state."""

from typing import Any

import pytest
import torch
from torch import nn

from pyengine import PyengineError, StreamingTopK

Entry = tuple[float, int, int]  # score, unit, position


def acts(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def entries(topk: StreamingTopK, key: int) -> list[Entry]:
    """Return what is kept of a key, best first."""
    scores, units, positions = (column[key].tolist() for column in topk.compute())
    rows = zip(scores, units, positions, strict=True)
    return [row for row in rows if row[1] >= 0]


def places(topk: StreamingTopK) -> list[tuple[int, int]]:
    """Return the (unit, position) that are kept of every key, which must be the same."""
    found = [sorted(entry[1:] for entry in entries(topk, key)) for key in range(topk.n_keys)]
    assert all(key == found[0] for key in found)
    return found[0]


def same_state(left: StreamingTopK, right: StreamingTopK) -> bool:
    mine, theirs = left.state_dict(), right.state_dict()
    assert mine.keys() == theirs.keys()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_in_a_plain_forward_hook() -> None:
    layer, topk, seen = nn.Linear(6, 4), StreamingTopK(3, 4, max_positions=5), []
    units = iter(torch.arange(20).split(4))

    def hook(_module: nn.Module, _inputs: tuple, out: torch.Tensor) -> None:
        seen.append(out.detach())
        topk.update(out.detach(), next(units))

    layer.register_forward_hook(hook)
    with torch.no_grad():
        for number in range(5):
            layer(acts(number, 4, 5, 6))
    best = topk.compute()
    everything = torch.cat(seen)  # [20, 5, 4]
    per_unit = everything.amax(dim=1)
    assert torch.equal(best.scores, per_unit.topk(3, dim=0).values.T)
    for key in range(4):
        for score, unit, position in entries(topk, key):
            assert everything[unit, position, key] == score


@pytest.mark.parametrize("per", ["unit", "token", "prefix"])
def test_gradients_and_inference_mode_do_not_matter(per: str) -> None:
    values, tokens = acts(0, 2, 4, 3), torch.arange(8).view(2, 4)
    plain, other = (StreamingTopK(3, 3, 4, per=per) for _ in range(2))
    for units in torch.tensor([[0, 1], [2, 3]]):
        plain.update(values, units, token_ids=tokens)
    other.update(values.clone().requires_grad_(), torch.tensor([0, 1]), token_ids=tokens)
    with torch.inference_mode():
        other.update(values * 1, torch.tensor([2, 3]), token_ids=tokens)
    other.merge(plain)
    assert torch.equal(other.state_dict()["max"], plain.state_dict()["max"])
    assert not other.compute().scores.requires_grad


def test_masked_and_excluded_positions_never_compete() -> None:
    values, tokens = acts(0, 2, 4, 3), torch.tensor([[7, 1, 2, 0], [7, 3, 7, 4]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    topk = StreamingTopK(8, 3, max_positions=4, per="token", exclude=[7])
    topk.update(values, torch.tensor([0, 1]), mask, tokens)
    assert places(topk) == [(0, 1), (0, 2), (1, 1), (1, 3)]
    with pytest.raises(PyengineError, match="exclude needs token_ids"):
        topk.update(values, torch.tensor([2, 3]), mask)


LEFT = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
RIGHT = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])


@pytest.mark.parametrize(
    ("mask", "how", "expected"),
    [
        (None, {}, [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]),
        (RIGHT, {}, [(0, 1), (1, 1), (1, 2), (1, 3)]),
        # A column of a left-padded batch is no position among the real tokens, unless told so.
        (LEFT, {}, [(0, 3), (1, 1), (1, 2), (1, 3)]),
        (LEFT, {"positions": LEFT.cumsum(1) - 1}, [(0, 1), (1, 1), (1, 2), (1, 3)]),
        # The columns continue a unit whose first tokens were in an earlier call.
        (RIGHT, {"first_position": 1}, [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (1, 4)]),
        (None, {"positions": torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]])}, None),
    ],
)
def test_the_first_tokens_are_skipped(
    mask: torch.Tensor | None, how: dict[str, Any], expected: list[tuple[int, int]] | None
) -> None:
    topk = StreamingTopK(8, 3, max_positions=8, per="token", skip_first=1)
    topk.update(acts(0, 2, 4, 3), torch.tensor([0, 1]), mask, **how)
    assert places(topk) == (expected or [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5), (1, 6), (1, 7)])


def test_a_sink_is_what_skip_first_leaves_out() -> None:
    values = acts(0, 6, 5, 3)
    sink = values.clone()
    sink[:, 0] = 1000.0
    found = StreamingTopK(4, 3, max_positions=5, skip_first=1)
    found.update(sink, torch.arange(6))
    expected = StreamingTopK(4, 3, max_positions=5)
    expected.update(values[:, 1:], torch.arange(6), first_position=1)
    assert torch.equal(found.state_dict()["max"], expected.state_dict()["max"])


@pytest.mark.parametrize("per", ["unit", "token", "prefix"])
@pytest.mark.parametrize("sign", ["max", "min", "both"])
def test_state_dict_round_trip_continues_the_stream(per: str, sign: str) -> None:
    how: dict[str, Any] = {"sign": sign, "floor": 0.1, "per": per, "exclude": [3], "skip_first": 1}

    def feed(topk: StreamingTopK, numbers: range) -> None:
        for number in numbers:
            tokens = torch.randint(0, 4, (5, 6), generator=torch.Generator().manual_seed(number))
            topk.update(acts(number, 5, 6, 3), torch.arange(5) + 5 * number, token_ids=tokens)

    whole, first, second = (StreamingTopK(4, 3, 6, **how) for _ in range(3))
    feed(whole, range(4))
    feed(first, range(2))
    state = first.state_dict()
    second.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    feed(first, range(3, 4))  # the saved state is a copy
    feed(second, range(2, 4))
    assert same_state(second, whole)
    assert second.state_dict()["seen"] == {"unit": 20}.get(per, 120)


def test_a_state_that_does_not_fit_is_refused() -> None:
    topk = StreamingTopK(4, 3, per="prefix")
    state = topk.state_dict()
    for name, tensor in (
        ("max", torch.zeros(1, dtype=torch.int64)),
        ("max_prefixes", torch.zeros(3, 4)),
    ):
        with pytest.raises(PyengineError, match=rf"state '{name}' must be int64 \[3, 4\]"):
            topk.load_state_dict(state | {name: tensor})
    with pytest.raises(PyengineError, match="state 'max_prefixes' must be"):
        topk.load_state_dict({"max": state["max"]})
    with pytest.raises(PyengineError, match=r"different settings: skip_first=1 and skip_first=0"):
        StreamingTopK(4, 3, per="prefix", skip_first=1).load_state_dict(state)
    for damaged in (torch.zeros(3, dtype=torch.uint8), torch.tensor([300])):
        with pytest.raises(PyengineError, match="settings are damaged"):
            topk.load_state_dict(state | {"settings": damaged})


@pytest.mark.parametrize(
    "other",
    [
        {"per": "token"},
        {"sign": "both"},
        {"floor": 0.0},
        {"exclude": [1]},
        {"skip_first": 2},
        {"max_positions": 7},
        {"k": 3},
        {"n_keys": 4},
    ],
)
def test_merge_refuses_other_settings(other: dict[str, Any]) -> None:
    how: dict[str, Any] = {"k": 2, "n_keys": 3}
    (name,) = other
    with pytest.raises(PyengineError, match=f"different settings: {name}="):
        StreamingTopK(**how).merge(StreamingTopK(**how | other))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0, "n_keys": 1}, "k must be from 1 to 1024, got 0"),
        ({"k": 1, "n_keys": 1, "per": "word"}, "unknown per 'word'; known are: unit, token, pre"),
        ({"k": 1, "n_keys": 1, "sign": "up"}, "unknown sign 'up'; known are: max, min, both"),
        ({"k": 1, "n_keys": -1}, "n_keys must be"),
        ({"k": 1, "n_keys": 1, "max_positions": 0}, "max_positions must be"),
        ({"k": 1, "n_keys": 1, "exclude": [None]}, "exclude must hold token ids, got None"),
        ({"k": 1, "n_keys": 1, "skip_first": -1}, "skip_first must be a whole number from 0 on"),
        ({"k": 1, "n_keys": 1, "floor": float("nan")}, "floor must be a number, got nan"),
    ],
)
def test_bad_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PyengineError, match=message):
        StreamingTopK(**arguments)


def test_bad_batches() -> None:
    topk = StreamingTopK(2, 3, max_positions=4)
    values, units = acts(0, 2, 4, 3), torch.tensor([0, 1])
    for shape, n_units, message in (
        ((2, 4, 2), 2, r"acts must be \[B, T, 3\]"),
        ((2, 4, 3), 1, r"unit_ids must be \[2\]"),
        ((2, 5, 3), 2, "position 4 is beyond max_positions=4"),
    ):
        with pytest.raises(PyengineError, match=message):
            topk.update(acts(0, *shape), torch.arange(n_units))
    refused: list[tuple[dict[str, Any], str]] = [
        ({"mask": torch.ones(2, 3)}, r"mask must be \(2, 4\), got \(2, 3\)"),
        ({"token_ids": torch.ones(2, 4)}, "token_ids must be integers, got torch.float32"),
        ({"positions": torch.zeros(2, 4)}, "positions must be integers"),
        ({"positions": torch.zeros(2, 4).long()}, "positions must ascend along each row"),
        ({"positions": torch.arange(4).expand(2, 4) - 1}, "a position is negative"),
        ({"positions": torch.arange(4).expand(2, 4), "first_position": 1}, "give only one"),
    ]
    for how, message in refused:
        with pytest.raises(PyengineError, match=message):
            topk.update(values, units, **how)
    with pytest.raises(PyengineError, match="acts must be float32, float16 or bfloat16"):
        topk.update(values.double(), units)
    with pytest.raises(PyengineError, match="a unit is one row of one call"):
        topk.update(values, torch.tensor([5, 5]))
    with pytest.raises(PyengineError, match="unit_ids must be integers"):
        topk.update(values, torch.tensor([0.0, 1.0]))
    for unit in (2**30, 2**62, -1):
        with pytest.raises(PyengineError, match=r"from 0 to 2\*\*32 - 2"):
            topk.update(acts(0, 1, 4, 3), torch.tensor([unit]))
    with pytest.raises(PyengineError, match="keeps sign='max', not 'min'"):
        topk.compute("min")
    assert places(topk) == []


def test_the_last_id_and_an_empty_batch() -> None:
    topk = StreamingTopK(2, 1, max_positions=4)
    topk.update(torch.ones(1, 3, 1), torch.tensor([2**30 - 1]))
    assert entries(topk, 0) == [(1.0, 2**30 - 1, 0)]
    topk.update(torch.ones(0, 3, 1), torch.zeros(0, dtype=torch.int64))
    topk.update(torch.ones(1, 3, 1), torch.tensor([0]), torch.zeros(1, 3))
    assert entries(topk, 0) == [(1.0, 2**30 - 1, 0)]
