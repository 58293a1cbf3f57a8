"""Early exit: the closed-form cases, and every λ from one ledger against one sample at a time."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pyengine.shortcuts.early_exit import IDENTITY_LAMBDAS, LAMBDAS, ExitRule, Ledger
from pyengine.shortcuts.frontier import ADAPTIVE, FIXED, Frontier
from pyengine.vocab_project import vocab_project

N_LAYERS, VOCAB, N = 5, 30, 200


def ledger_of(distributions: torch.Tensor, units: torch.Tensor, positions: torch.Tensor) -> Ledger:
    """Make a ledger of probabilities [n, L + 1, V]; those of the last layer are the model's own."""
    ordered = distributions.sort(dim=-1, descending=True, stable=True)
    gap = ordered.values[..., 0] - ordered.values[..., 1]
    top = ordered.indices[..., :10]
    final = distributions[:, -1].log()
    return Ledger(gap, top, -final.gather(1, top[..., 0]), units, positions)


def random_ledger(seed: int = 0) -> tuple[Ledger, torch.Tensor]:
    """Logits that come closer to the last layer's with every layer, and grow surer."""
    generator = torch.Generator().manual_seed(seed)
    final = 3 * torch.randn(N, 1, VOCAB, generator=generator)
    noise = torch.randn(N, N_LAYERS + 1, VOCAB, generator=generator)
    shares = torch.linspace(0, 1, N_LAYERS + 1)[:, None]
    distributions = (shares * final + 3 * (1 - shares) * noise).softmax(-1)
    positions = torch.randint(0, 40, (N,), generator=generator)
    units = torch.arange(N) // 2
    return ledger_of(distributions, units, positions), distributions


def exit_of(distributions: torch.Tensor, lam: float, t: int, mean_length: float) -> int:
    """Do what the spec says, for one sample [L + 1, V]."""
    for layer in range(N_LAYERS):
        first, second = sorted(distributions[layer].tolist(), reverse=True)[:2]
        bar = 2.0 if layer < 1 else 0.9 * lam + 0.1 * math.exp(-4 * t / mean_length)
        if first - second > bar:
            return layer
    return N_LAYERS


def test_thresholds_of_the_rule():
    half = ExitRule(lam=0.5, mean_length=20)
    assert float(half.threshold(1, 0)) == pytest.approx(0.55, abs=1e-12)
    assert float(half.threshold(1, 20)) == pytest.approx(0.451832, abs=1e-6)
    assert float(ExitRule(-1.112, 20).threshold(1, 20)) == pytest.approx(-0.998968, abs=1e-6)
    never = ExitRule(1.112, 20).threshold(torch.arange(1, 9), torch.arange(50)[:, None])
    assert never.shape == (50, 8)
    assert float(never.min()) >= 1.0008
    assert torch.equal(half.threshold(0, torch.arange(9)), torch.full((9,), 2.0).double())


def test_gap_and_surprisal_of_four_logits():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    read = vocab_project(logits, torch.eye(4), m=4)
    assert float(read.top_probs[0, 0] - read.top_probs[0, 1]) == pytest.approx(0.407031, abs=1e-6)
    runner_up = torch.tensor([[[0.1, 0.9, 0, 0], logits.softmax(-1)[0].tolist()]])
    ledger = ledger_of(runner_up, torch.zeros(1).long(), torch.zeros(1).long())
    assert float(ledger.fixed(0).surprisal) == pytest.approx(1.440190, abs=1e-6)
    assert float(ledger.gap[0, 1]) == pytest.approx(0.407031, abs=1e-6)


def test_thresholds_of_the_original():
    assert len(LAMBDAS) == 13
    assert len(IDENTITY_LAMBDAS) == 22
    assert list(IDENTITY_LAMBDAS) == sorted(IDENTITY_LAMBDAS)
    inside = [lam for lam in IDENTITY_LAMBDAS if 1 < lam < 1.112]
    assert np.allclose(np.diff([1, *inside, 1.112]), 0.0112)


@pytest.mark.parametrize("lam", IDENTITY_LAMBDAS)
def test_exits_match_one_sample_at_a_time(lam):
    ledger, distributions = random_ledger()
    mean_length = sum(t + 1 for t in ledger.positions.tolist()) / N
    expected = [
        exit_of(sample, lam, t, mean_length)
        for sample, t in zip(distributions, ledger.positions.tolist(), strict=True)
    ]
    outcome = ledger.adaptive(lam)
    assert outcome.layers.tolist() == expected
    at = distributions[torch.arange(N), outcome.layers]
    assert torch.equal(outcome.top[:, 0], at.argmax(-1))
    final = distributions[:, -1]
    surprisal = -final[torch.arange(N), at.argmax(-1)].log()
    torch.testing.assert_close(outcome.surprisal, surprisal)
    for k in (1, 5, 10):
        best = final.topk(k).indices
        hits = [bool(token in row) for token, row in zip(at.argmax(-1), best, strict=True)]
        assert outcome.hits(k).tolist() == hits


def test_the_ends_of_the_grid():
    ledger, _ = random_ledger()
    assert ledger.exits(LAMBDAS[0]).eq(1).all()
    assert ledger.exits(LAMBDAS[-1]).eq(N_LAYERS).all()
    assert ledger.adaptive(LAMBDAS[-1]).hits().all()
    spread = ledger.exits(0.3).bincount(minlength=N_LAYERS + 1)
    assert spread[0] == 0
    assert (spread[1:] > 0).sum() >= 3


def test_a_sample_without_numbers_never_stops_and_never_agrees():
    ledger, _ = random_ledger()
    ledger.gap[3], ledger.top[3] = float("nan"), -1
    outcome = ledger.adaptive(-1.112)
    assert outcome.layers[3] == N_LAYERS
    assert not outcome.hits(10)[3]
    assert outcome.layers.eq(1).sum() == N - 1
    row = Frontier(ledger, [0.5]).samples().to_pylist()[3]
    assert row["top_tokens"] == [None] * 10


def test_tokens_before_the_content_count():
    ledger, _ = random_ledger()
    later = replace(ledger, first=2)
    moved = replace(ledger, positions=ledger.positions + 2)
    assert later.mean_length == ledger.mean_length + 2
    for lam in (0.1, 0.35, 0.7):
        assert torch.equal(later.exits(lam), moved.exits(lam))
    assert later.rule(0.5).threshold(1, 2) > ledger.rule(0.5).threshold(1, 2)


def test_scores_of_layers_become_a_ledger_of_samples():
    ledger, _ = random_ledger()
    names = {"gap": ledger.gap, "top_tokens": ledger.top, "surprisal": ledger.surprisal}
    scores = {name: tensor.transpose(0, 1).numpy() for name, tensor in names.items()}
    again = Ledger.of_scores(scores, ledger.units, ledger.positions, 0)
    assert torch.equal(again.exits(0.4), ledger.exits(0.4))
    assert torch.equal(again.adaptive(0.4).top, ledger.adaptive(0.4).top)


def test_frontier_is_the_means_of_its_outcomes():
    ledger, _ = random_ledger()
    frontier = Frontier(ledger, [0.2, 0.6], bootstrap=50, seed=1)
    table = frontier.table().to_pylist()
    assert [row["rule"] for row in table] == [ADAPTIVE] * 2 + [FIXED] * (N_LAYERS + 1)
    assert [row["lambda"] for row in table] == [0.2, 0.6, *[None] * (N_LAYERS + 1)]
    assert [row["layer"] for row in table] == [None, None, *range(N_LAYERS + 1)]
    for row in table:
        outcome = (
            ledger.fixed(row["layer"]) if row["rule"] == FIXED else ledger.adaptive(row["lambda"])
        )
        assert row["mean_layer"] == pytest.approx(float(outcome.layers.double().mean()))
        assert row["layers_saved"] == pytest.approx(1 - row["mean_layer"] / N_LAYERS)
        assert row["precision@5"] == pytest.approx(float(outcome.hits(5).double().mean()))
        assert row["surprisal"] == pytest.approx(float(outcome.surprisal.double().mean()))
        assert row["precision@1_low"] <= row["precision@1"] <= row["precision@1_high"]
    assert table[-1]["precision@1_low"] == 1


def test_saving_is_the_cheapest_exit_that_agrees():
    ledger, _ = random_ledger()
    lambdas = np.linspace(-0.1, 1.112, 100)
    frontier = Frontier(ledger, lambdas, bootstrap=100)
    candidates = [ledger.adaptive(lam) for lam in lambdas]
    agreeing = [o.layers.double().mean() for o in candidates if o.hits().double().mean() >= 0.95]
    saving = frontier.saving()
    assert saving.mean_layer == pytest.approx(float(min(agreeing)))
    assert saving.saved == pytest.approx(1 - saving.mean_layer / N_LAYERS)
    assert saving.low <= saving.saved <= saving.high
    assert 0 < saving.saved < 1
    assert frontier.saving(FIXED).mean_layer in range(N_LAYERS + 1)
    assert saving.saved >= frontier.saving(ADAPTIVE, agreement=0.99).saved


def test_nothing_agrees_and_nothing_is_resampled():
    ledger, _ = random_ledger()
    frontier = Frontier(ledger, [-1.112])
    saving = frontier.saving()
    assert math.isnan(saving.mean_layer)
    assert math.isnan(saving.low)
    assert frontier.table()["mean_layer_low"].null_count == N_LAYERS + 2


def test_samples_say_what_each_saw():
    ledger, _ = random_ledger()
    rows = Frontier(ledger, [0.2, 1.112]).samples().to_pylist()
    assert len(rows) == 2 * N
    for number, row in enumerate(rows[:N]):
        layer = int(ledger.exits(0.2)[number])
        assert row["layers"] == layer
        assert row["unit"] == number // 2
        assert row["position"] == int(ledger.positions[number])
        assert row["top_tokens"] == ledger.top[number, layer].tolist()
        assert row["surprisal"] == pytest.approx(float(ledger.surprisal[number, layer]))
    assert {row["layers"] for row in rows[N:]} == {N_LAYERS}
