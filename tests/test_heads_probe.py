"""All probes at once come to what SentEval's procedure comes to one after the other."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from heads_probe_cases import drawn, of_head
from senteval_procedure import inner_k_fold, k_fold
from waiting import Waits

from benchmarks._heads_procedure import Fit, fit, predictions, split
from pyengine.heads.probe import training
from pyengine.heads.probe.chunks import Progress, heads_together, slices
from pyengine.heads.probe.goals import Classes
from pyengine.heads.probe.protocols import n_fits, probe_classes
from pyengine.heads.probe.training import Probes, Trained, _Training
from pyengine.heads.probe_settings import SENTEVAL, ProbeSettings
from pyengine.heads.task import INNER_K_FOLD, K_FOLD, SPLIT

MARGIN = 1e-4  # below it, how sums are rounded may decide the class of a sample
ODD = ProbeSettings(batch_size=32)
# Train and dev examples, heads, width, classes, settings.
CASES = [
    (203, 57, 4, 16, 2, ODD),
    (331, 91, 3, 7, 7, replace(ODD, batch_size=64)),
    (257, 64, 3, 33, 3, replace(ODD, batch_size=256)),
    (300, 101, 3, 5, 5, replace(ODD, batch_size=17, seed=7)),
    (120, 40, 3, 9, 4, replace(SENTEVAL, regularisers=ODD.regularisers)),
]


def trained_at_once(
    x: np.ndarray, y: np.ndarray, n: int, n_classes: int, settings: ProbeSettings
) -> Trained:
    goal = Classes(y, n_classes, torch.device("cpu"))
    probes = Probes(torch.from_numpy(x), goal, settings)
    decay = np.tile(settings.regularisers, (x.shape[1], 1))
    return probes.train(np.arange(n), np.arange(n, len(x)), decay)


def one_by_one(
    x: np.ndarray, y: np.ndarray, n: int, n_classes: int, settings: ProbeSettings
) -> list[tuple[int, int, Fit, float]]:
    """Return head, regulariser, fit, and the least margin of a dev sample at any look."""
    found = []
    for head in range(x.shape[1]):
        own = np.ascontiguousarray(x[:, head])
        for column, decay in enumerate(settings.regularisers):
            margins: list[float] = []

            def looked(model: torch.nn.Sequential, dev: np.ndarray, to: list[float] = margins):
                with torch.no_grad():
                    best = model(torch.from_numpy(dev)).topk(2, dim=1).values
                to.append(float((best[:, 0] - best[:, 1]).min()))

            data = (own[:n], y[:n]), (own[n:], y[n:])
            plain = fit(*data, n_classes, decay, settings, looked)
            found.append((head, column, plain, min(margins)))
    return found


@pytest.mark.slow
def test_every_fit_is_that_of_sentevals_procedure() -> None:
    """64 fits: dev accuracies, looks and weights, unless a sample's margin is tiny."""
    compared = worst = 0.0
    for case, (n_train, n_dev, n_heads, width, n_classes, settings) in enumerate(CASES):
        sizes = {"train": n_train, "dev": n_dev}
        x, parts = drawn(sizes, n_heads, width, n_classes, seed=case)
        order = np.concatenate([rows[:, 0] for rows, _ in parts.values()])
        x, y = x[order], np.concatenate([targets for _, targets in parts.values()])
        ours = trained_at_once(x, y, n_train, n_classes, settings)
        for head, column, found, margin in one_by_one(x, y, n_train, n_classes, settings):
            if margin < MARGIN:
                continue
            compared += 1
            assert ours.scores[head, column] == found.accuracy == max(found.trace)
            assert ours.looks[head, column] == len(found.trace)
            weights, bias = (one.detach() for one in found.model.parameters())
            expected = torch.cat([weights, bias[:, None]], dim=1)
            worst = max(worst, float((ours.layers[0][head, column] - expected).abs().max()))
    assert compared >= 48
    assert worst < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [2, 5])
def test_split_protocol(n_classes: int) -> None:
    x, parts = drawn({"train": 211, "dev": 67, "test": 73}, 4, 12, n_classes, seed=n_classes)
    found = probe_classes(x, parts, n_classes, SPLIT, ODD)
    for head in range(4):
        own = [of_head(x, parts[name], head) for name in ("train", "dev", "test")]
        expected = split(own[0], own[1], own[2], n_classes, ODD)
        assert (found.regulariser[head], found.dev[head], found.test[head]) == expected
        right = (found.predictions[:, head] == parts["test"][1]).mean()
        assert found.test[head] == round(100 * float(right), 2)
        assert found.weights is not None and found.bias is not None
        logits = own[2][0] @ found.weights[head].numpy().T + found.bias[head].numpy()
        assert (logits.argmax(1) == found.predictions[:, head]).all()


@pytest.mark.slow
def test_k_fold_protocol() -> None:
    x, parts = drawn({"train": 160, "test": 61}, 3, 10, 3, seed=1)
    settings = replace(ODD, folds=3, regularisers=(1e-4, 1e-2))
    found = probe_classes(x, parts, 3, K_FOLD, settings)
    for head in range(3):
        own = [of_head(x, parts[name], head) for name in ("train", "test")]
        expected = k_fold(own[0], own[1], 3, settings)
        assert (found.regulariser[head], found.dev[head], found.test[head]) == expected


@pytest.mark.slow
def test_inner_k_fold_protocol() -> None:
    x, parts = drawn({"all": 130}, 3, 8, 2, seed=2)
    settings = replace(ODD, folds=3, regularisers=(1e-5, 1e-2))
    found = probe_classes(x, parts, 2, INNER_K_FOLD, settings)
    for head in range(3):
        expected, decays = inner_k_fold(of_head(x, parts["all"], head), 2, settings)
        assert (found.dev[head], found.test[head]) == expected[1:]
        chosen = decays[0] if len({*decays}) == 1 else np.nan
        np.testing.assert_equal(found.regulariser[head], chosen)
    assert found.predictions.shape == (130, 3)
    right = (found.predictions == parts["all"][1][:, None]).mean(0)
    np.testing.assert_allclose(100 * right, found.test, atol=1)  # a mean over uneven folds


def test_a_fit_of_one_head_and_one_regulariser() -> None:
    """The whole chain in a second: dev and test, classes, weights."""
    x, parts = drawn({"train": 90, "dev": 31, "test": 33}, 1, 6, 3, seed=3)
    settings = replace(ODD, regularisers=(1e-3,), max_epochs=8)
    found = probe_classes(x, parts, 3, SPLIT, settings)
    own = [of_head(x, parts[name], 0) for name in ("train", "dev", "test")]
    plain = fit(own[0], own[1], 3, 1e-3, settings)
    assert found.epochs[0] == 2 * len(plain.trace)
    assert found.dev[0] == round(100 * plain.accuracy, 2)
    assert (found.predictions[:, 0] == predictions(plain.model, own[2][0])).all()
    assert found.weights is not None
    torch.testing.assert_close(
        found.weights[0], next(plain.model.parameters()).detach(), atol=1e-5, rtol=0
    )


def test_chunks_and_company_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x, parts = drawn({"train": 150, "dev": 40, "test": 40}, 5, 9, 3, seed=4)
    together = probe_classes(x, parts, 3, SPLIT, ODD)
    monkeypatch.setitem(training.STEP_BYTES, "cpu", 1)
    assert heads_together(torch.device("cpu"), 230, 9, 3, ODD) == 1
    done: list[tuple[int, int]] = []
    alone = probe_classes(
        x, parts, 3, SPLIT, ODD, on_progress=lambda *at: done.append(at), names=[*"abcde"]
    )
    for name in ("regulariser", "dev", "test", "epochs", "predictions"):
        np.testing.assert_array_equal(getattr(together, name), getattr(alone, name))
    torch.testing.assert_close(together.weights, alone.weights, atol=1e-5, rtol=0)
    assert done[-1] == (20, 20) and [at for at, _ in done] == sorted({at for at, _ in done})


def test_the_same_bits_again_and_global_generators_are_left_alone() -> None:
    x, parts = drawn({"train": 80, "dev": 30, "test": 30}, 3, 5, 2, seed=5)
    settings = replace(ODD, hidden=4, dropout=0.2, max_epochs=6)
    before: Any = torch.get_rng_state(), np.random.get_state()
    first, second = (probe_classes(x, parts, 2, SPLIT, settings) for _ in range(2))
    assert (first.predictions == second.predictions).all() and (first.dev == second.dev).all()
    assert torch.equal(torch.get_rng_state(), before[0])
    after: Any = np.random.get_state()
    assert (after[1] == before[1][1]).all() and after[2:] == before[1][2:]
    linear: Any = [probe_classes(x, parts, 2, SPLIT, ODD).weights for _ in range(2)]
    assert torch.equal(linear[0], linear[1])


@pytest.mark.parametrize("hidden", [0, 4])
def test_the_host_does_not_wait_between_two_looks(
    hidden: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs, found = 0, []
    epoch = _Training._epoch

    def watched(self: _Training, heads: torch.Tensor) -> None:
        nonlocal epochs
        with Waits() as seen:
            epoch(self, heads)
        epochs += 1
        found.extend(seen.found)

    monkeypatch.setattr(_Training, "_epoch", watched)
    x, parts = drawn({"train": 80, "dev": 30, "test": 30}, 3, 5, 2, seed=5)
    settings = replace(ODD, hidden=hidden, dropout=0.1)
    probe_classes(x, parts, 2, SPLIT, settings)
    assert epochs >= 10 and not found


def test_fits_are_counted() -> None:
    settings = replace(ODD, folds=3)
    assert n_fits(SPLIT, settings) == 4
    assert n_fits(K_FOLD, settings) == 4 * 3 + 1
    assert n_fits(INNER_K_FOLD, settings) == 3 * (4 * 3 + 1)
    x, parts = drawn({"all": 90}, 2, 4, 2, seed=6)
    done: list[tuple[int, int]] = []
    settings = replace(settings, regularisers=(1e-3,), max_epochs=2)
    probe_classes(x, parts, 2, INNER_K_FOLD, settings, on_progress=lambda *at: done.append(at))
    assert done[-1] == (2 * 3 * 4, 2 * 3 * 4)
    Progress(3, None).advance(2)
    assert slices(5, 2) == [slice(0, 2), slice(2, 4), slice(4, 5)]
