"""Probes where the answer is known beforehand, and input that is hard or wrong."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from heads_probe_cases import drawn
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.heads.probe.features import cosine_scores, features
from pyengine.heads.probe.goals import Classes
from pyengine.heads.probe.initial_weights import initial_weights
from pyengine.heads.probe.layers import backward, forward
from pyengine.heads.probe.minibatches import Minibatches
from pyengine.heads.probe.optimizers import Adam, RMSprop
from pyengine.heads.probe.protocols import probe_classes
from pyengine.heads.probe.relatedness import probe_scores
from pyengine.heads.probe.training import Probes
from pyengine.heads.probe_settings import ProbeSettings
from pyengine.heads.task import INNER_K_FOLD, K_FOLD, SPLIT

CPU = torch.device("cpu")
SMALL = ProbeSettings(batch_size=16, max_epochs=10, folds=2)


@pytest.mark.parametrize(("decay", "a"), [(0.01, 1.956997), (0.1, 1.064017)])
def test_two_points_have_a_closed_form(decay: float, a: float) -> None:
    """Minimum at weights (a, -a), bias 0, where decay * a = 1 / (1 + exp(2a))."""
    assert decay * a == pytest.approx(1 / (1 + math.exp(2 * a)), rel=1e-5)
    x, goal = torch.tensor([[[1.0], [-1.0]]]), Classes(np.array([0, 1]), 2, CPU)
    start = initial_weights([1, 2], torch.Generator().manual_seed(0))[0]
    optimizer = Adam([start.repeat(1, 1, 1, 1)], torch.full((1, 1, 1, 1), decay), 0.05)
    index = torch.arange(2)
    for _ in range(1500):
        passed = forward(optimizer.layers, x)
        gradient = goal.gradient(passed.logits, index)
        optimizer.step(backward(optimizer.layers, x, passed, gradient), 1 / 2)
    found = optimizer.layers[0][0, 0]
    torch.testing.assert_close(found, torch.tensor([[a, 0.0], [-a, 0.0]]), atol=1e-4, rtol=0)
    p = torch.softmax(forward(optimizer.layers, x).logits[0, 0], 0)[0, 0]
    assert float(p) == pytest.approx(1 / (1 + math.exp(-2 * a)), abs=1e-5)
    if decay == 0.01:
        assert float(p) == pytest.approx(0.980430, abs=1e-5)


def test_the_first_step_of_rmsprop_is_a_tenth_each_way() -> None:
    """lr / sqrt(1 - alpha) = 0.1, whatever the gradient; decay counts as gradient."""
    generator = torch.Generator().manual_seed(0)
    start, gradient = torch.randn(2, 3, 2, 4, 5, generator=generator)
    decay = torch.full((3, 2, 1, 1), 0.5)
    optimizer = RMSprop([start.clone()], decay, ProbeSettings().learning_rate)
    optimizer.step([10 * gradient], 0.1)
    expected = start - 0.1 * torch.sign(gradient + 0.5 * start)
    torch.testing.assert_close(optimizer.layers[0], expected, atol=1e-5, rtol=0)


def test_without_gradient_or_decay_weights_stay_where_torch_puts_them() -> None:
    settings = ProbeSettings()
    probes = Probes(torch.zeros(40, 1, 3), Classes(np.arange(40) % 2, 2, CPU), settings)
    found = probes.train(np.arange(40), np.arange(40), np.zeros((1, 1))).layers[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        linear = torch.nn.Linear(3, 2)
    assert torch.equal(found[0, 0, :, :-1], linear.weight.detach())


class Scripted:
    """A goal whose dev scores are written down, one list for each head."""

    n_outputs = 1

    def __init__(self, script: list[list[float]]) -> None:
        self.script, self.looks = script, [0] * len(script)

    def gradient(self, logits: Tensor, index: Tensor) -> Tensor:
        return torch.zeros_like(logits)

    def predicted(self, logits: Tensor) -> Tensor:
        return logits[:, :, 0]

    def score(self, predictions: Tensor, index: Tensor) -> np.ndarray:
        """Tell heads by what is said of them, which their features make increase or fall."""
        said = predictions[:, 0, 0]
        heads = [int((self.all_said - one).abs().argmin()) for one in said]
        found = []
        for head in heads:
            found.append([self.script[head][self.looks[head]]])
            self.looks[head] += 1
        return np.array(found)

    all_said: Tensor


def run_script(script: list[list[float]], settings: ProbeSettings) -> Any:
    n_heads, goal = len(script), Scripted(script)
    x = torch.arange(n_heads, dtype=torch.float32)[None, :, None].repeat(8, 1, 1)
    start = initial_weights([1, 1], torch.Generator().manual_seed(settings.seed))[0]
    goal.all_said = start[0, 0] * torch.arange(n_heads) + start[0, 1]
    probes = Probes(x, goal, settings)
    return probes.train(np.arange(8), np.arange(8), np.zeros((n_heads, 1)))


def test_training_stops_at_the_fourth_miss_ever() -> None:
    """Misses are never forgotten; heads that go on are not disturbed by those that stop."""
    script = [
        [0.5, 0.6, 0.6, 0.7, 0.6, 0.65, 0.69],
        [0.5, 0.4, 0.4, 0.4, 0.4],
        [0.1 * look for look in range(1, 10)] + [0.9] * 4,
        [0.0] * 5,
    ]
    found = run_script(script, ProbeSettings())
    assert found.looks[:, 0].tolist() == [7, 5, 13, 5]
    np.testing.assert_allclose(found.scores[:, 0], [0.7, 0.5, 0.9, 0.0])


def test_training_stops_after_more_epochs_than_the_most() -> None:
    rising = [look / 1000 for look in range(1000)]
    for most, epoch_size, looks in [(200, 2, 101), (15, 1, 16), (5, 2, 3), (1, 4, 1)]:
        settings = ProbeSettings(max_epochs=most, epoch_size=epoch_size)
        assert run_script([rising, rising], settings).looks[:, 0].tolist() == [looks, looks]
    none = ProbeSettings(tenacity=0)
    assert run_script([[0.5, 0.6, 0.6], [0.3, 0.2]], none).looks[:, 0].tolist() == [3, 2]


def test_pair_features_and_cosines() -> None:
    x = np.array([[[1.0, 2.0]], [[3.0, -1.0]], [[0.0, 0.0]], [[2.0, 4.0]]], np.float32)
    rows = np.array([[0, 1], [0, 3], [2, 1]])
    assert features(x, rows)[0, 0].tolist() == [2, 3, 3, -2]
    assert features(torch.from_numpy(x), rows[:, :1]).flatten(1).tolist()[0] == [1, 2]
    found = cosine_scores(x, rows)
    assert found.dtype == np.float64 and found.shape == (3, 1)
    np.testing.assert_allclose(found[:, 0], [1 / math.sqrt(50), 1, 0], atol=1e-12)
    half = cosine_scores(x.astype(np.float16), np.tile(rows, (700, 1)))
    np.testing.assert_allclose(half[3 * 699 :, 0], found[:, 0], atol=1e-12)


@pytest.mark.parametrize("protocol", [SPLIT, K_FOLD, INNER_K_FOLD])
def test_a_constant_head_answers_the_majority(protocol: str) -> None:
    sizes = {
        SPLIT: {"train": 60, "dev": 20, "test": 20},
        K_FOLD: {"train": 60, "test": 20},
        INNER_K_FOLD: {"all": 100},
    }
    x, parts = drawn(sizes[protocol], 2, 3, 2)
    x[:, 0] = 0.5
    # Far more of class 1 in every part.
    parts = {name: (rows, (np.arange(len(rows)) % 5 > 0) + 0) for name, (rows, _) in parts.items()}
    found = probe_classes(x, parts, 2, protocol, SMALL)
    assert (found.predictions[:, 0] == 1).all()
    assert found.test[0] == 80.0 and found.dev[0] == 80.0
    # All regularisers do as well: the first one is taken.
    assert found.regulariser[0] == 1e-5


def test_vectors_of_any_size_train_and_huge_ones_collapse_or_not_but_stay_finite() -> None:
    x, parts = drawn({"train": 60, "dev": 20, "test": 20}, 2, 3, 2)
    x[:, 0] *= 1e6
    x[:, 1] *= 1e-6
    found = probe_classes(x, parts, 2, SPLIT, SMALL)
    assert np.isfinite(found.dev).all() and found.weights is not None
    assert torch.isfinite(found.weights).all()
    assert ((found.test >= 0) & (found.test <= 100)).all()


def test_a_single_class_and_a_class_that_train_lacks() -> None:
    x, parts = drawn({"train": 40, "dev": 20, "test": 20}, 2, 3, 2)
    x *= 0.1  # the bias decides
    one = {name: (rows, np.zeros(len(rows), np.int64)) for name, (rows, _) in parts.items()}
    for n_classes in (1, 3):
        found = probe_classes(x, one, n_classes, SPLIT, replace(SMALL, max_epochs=40))
        assert (found.dev == 100).all() and (found.test == 100).all()
        assert (found.predictions == 0).all()


def test_the_first_of_equal_logits_wins() -> None:
    goal = Classes(np.array([1, 2]), 3, CPU)
    logits = torch.tensor([[1.0, 2.0, 2.0], [3.0, 3.0, 3.0], [0.0, -1.0, 5.0]]).T[None, None]
    said = goal.predicted(logits)
    assert said.tolist() == [[[1, 0, 2]]]
    assert goal.score(said[..., [0, 2]], torch.arange(2)).tolist() == [[1.0]]
    unsure = torch.full((1, 1, 3, 2), float("nan"))
    assert goal.predicted(unsure).tolist() == [[[0, 0]]]  # NumPy's and torch's argmax as well


def test_held_out_examples_are_drawn_first() -> None:
    train = np.arange(100, 145)
    batches = Minibatches(train, None, 5)
    random = np.random.RandomState(5)
    order = random.permutation(45)
    assert (batches.dev == train[order[:2]]).all() and len(batches.train) == 43
    assert (batches.epoch() == train[order[2:]][random.permutation(43)]).all()
    with pytest.raises(PyengineError, match="19 are too few, 20 are needed"):
        Minibatches(train[:19], None, 5)


def test_wrong_input_is_told_in_one_line() -> None:
    x, parts = drawn({"train": 40, "dev": 20, "test": 20}, 3, 2, 2)

    def refused(match: str, x: np.ndarray = x, parts: Any = parts, **more: Any) -> None:
        wanted: Any = {"n_classes": 2, "protocol": SPLIT} | more
        with pytest.raises(PyengineError, match=match) as error:
            probe_classes(x, parts, **wanted)
        assert "\n" not in str(error.value)

    refused("unknown protocol 'loo'", protocol="loo")
    refused("there are no examples to all", protocol=INNER_K_FOLD)
    refused("there are no examples to dev", parts=parts | {"dev": (np.empty((0, 1), int), [])})
    refused("classes must be 0 to 0, found 1", n_classes=1)
    wrong = parts["dev"][0], parts["dev"][1] - 1
    refused("classes must be 0 to 1, found -1", parts=parts | {"dev": wrong})
    for bad in (np.nan, np.inf):
        broken = x.copy()
        broken[parts["test"][0][3, 0], 2, 1] = bad
        refused("the vectors of head 2 hold NaN or infinities", broken)
        refused("the vectors of L4H2 hold NaN", broken, names=["L4H0", "L4H1", "L4H2"])
        scores = {name: (rows.repeat(2, 1), of + 0.5) for name, (rows, of) in parts.items()}
        with pytest.raises(PyengineError, match="the vectors of head 2 hold"):
            probe_scores(broken, scores)
    # Sums that overflow are no reason.
    large = np.full_like(x, 3e38)
    probe_classes(large[:, :1] * np.float32(0.9), parts, 2, SPLIT, replace(SMALL, max_epochs=1))
