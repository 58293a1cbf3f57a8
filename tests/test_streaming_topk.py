"""StreamingTopK in somebody else's loop: a plain forward hook, masks, exclusions, state."""

import pytest
import torch
from torch import nn

from pyengine import StreamingTopK


def acts(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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
        for score, unit, position in zip(*(column[key] for column in best), strict=True):
            assert everything[unit, position, key] == score


def test_masked_and_excluded_positions_never_compete() -> None:
    values, tokens = acts(0, 2, 4, 3), torch.tensor([[7, 1, 2, 0], [7, 3, 7, 4]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    topk = StreamingTopK(8, 3, max_positions=4, per="token", exclude=[7])
    topk.update(values, torch.tensor([0, 1]), mask, tokens)
    best = topk.compute()
    for key in range(3):
        kept = sorted(zip(best.units[key].tolist(), best.positions[key].tolist(), strict=True))
        assert [entry for entry in kept if entry[0] >= 0] == [(0, 1), (0, 2), (1, 1), (1, 3)]
    with pytest.raises(ValueError, match="exclude needs token_ids"):
        topk.update(values, torch.tensor([2, 3]), mask)


def test_state_dict_round_trip_continues_the_stream() -> None:
    whole = StreamingTopK(4, 3, max_positions=6, sign="both", floor=0.1)
    first = StreamingTopK(4, 3, max_positions=6, sign="both", floor=0.1)
    for number in range(4):
        whole.update(acts(number, 5, 6, 3), torch.arange(5) + 5 * number)
    for number in range(2):
        first.update(acts(number, 5, 6, 3), torch.arange(5) + 5 * number)
    second = StreamingTopK(4, 3, max_positions=6, sign="both", floor=0.1)
    second.load_state_dict(first.state_dict())
    for number in range(2, 4):
        second.update(acts(number, 5, 6, 3), torch.arange(5) + 5 * number)
    for sign in ("max", "min"):
        for mine, theirs in zip(second.compute(sign), whole.compute(sign), strict=True):
            assert torch.equal(mine.nan_to_num(), theirs.nan_to_num())
    with pytest.raises(ValueError, match="state 'max' must be int64"):
        second.load_state_dict({"max": torch.zeros(1, dtype=torch.int64)})


def test_merge_refuses_other_settings() -> None:
    with pytest.raises(ValueError, match="different settings"):
        StreamingTopK(2, 3).merge(StreamingTopK(2, 3, per="token"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0, "n_keys": 1}, "k must be from 1 to 1024, got 0"),
        ({"k": 1, "n_keys": 1, "per": "word"}, "per must be"),
        ({"k": 1, "n_keys": 1, "sign": "up"}, "sign must be"),
        ({"k": 1, "n_keys": -1}, "bad sizes"),
    ],
)
def test_bad_settings(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamingTopK(**arguments)


def test_bad_batches() -> None:
    topk = StreamingTopK(2, 3, max_positions=4)
    for shape, units, message in (
        ((2, 4, 2), 2, r"acts must be \[B, T, 3\]"),
        ((2, 4, 3), 1, r"unit_ids must be \[2\]"),
        ((2, 5, 3), 2, "position 4 is beyond max_positions=4"),
    ):
        with pytest.raises(ValueError, match=message):
            topk.update(acts(0, *shape), torch.arange(units))
    with pytest.raises(ValueError, match=r"from 0 to 2\*\*32 - 2"):
        topk.update(acts(0, 1, 4, 3), torch.tensor([2**30]))
    with pytest.raises(ValueError, match="keeps sign='max', not 'min'"):
        topk.compute("min")
