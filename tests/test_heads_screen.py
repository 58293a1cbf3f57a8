"""Closed-form probes: against least squares done plainly, fold by fold."""

import numpy as np
import pytest
import torch

from pyengine.errors import PyengineError
from pyengine.heads import moments as moments_module
from pyengine.heads import screen as screen_module
from pyengine.heads.correlations import pearson, ranks, spearman
from pyengine.heads.moments import moments_of
from pyengine.heads.probe.folds import stratified_folds
from pyengine.heads.probe.protocols import Parts
from pyengine.heads.screen import LDA, RIDGE, STRENGTHS, ridge_weights, screen
from pyengine.heads.screen_rounds import rounds_of
from pyengine.heads.task import INNER_K_FOLD, K_FOLD, SPLIT

CPU = torch.device("cpu")
H, D, C = 3, 5, 4


def singles(begin: int, end: int) -> np.ndarray:
    return np.arange(begin, end)[:, None]


def data(n: int = 90, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors [n, H, D] that know more the higher the head, and classes."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, C, n)
    centres = rng.normal(size=(C, H, D)) * np.arange(H)[:, None]
    return (centres[classes] + rng.normal(size=(n, H, D))).astype(np.float32), classes


def parts_of(classes: np.ndarray, **ends: tuple[int, int]) -> Parts:
    return {name: (singles(*at), classes[slice(*at)]) for name, at in ends.items()}


def plain_ridge(x: np.ndarray, y: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights and intercept of a ridge regression as a stacked least squares."""
    mean, means_y = x.mean(0), y.mean(0)
    penalty = strength * ((x - mean) ** 2).sum(0).mean()
    tall = np.vstack([x - mean, np.sqrt(penalty) * np.eye(x.shape[1])])
    right = np.vstack([y - means_y, np.zeros((x.shape[1], y.shape[1]))])
    weights = np.linalg.lstsq(tall, right, rcond=None)[0]
    return weights, means_y - mean @ weights


def plain_lda(x: np.ndarray, y: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and intercepts of a linear discriminant from the residuals of each class."""
    counts = y.sum(0)
    means = (y.T @ x) / counts[:, None]
    left = x - y @ means
    cov = left.T @ left / len(x)
    cov = (1 - strength) * cov + strength * np.trace(cov) / len(cov) * np.eye(len(cov))
    weights = np.linalg.inv(cov) @ means.T
    return weights, np.log(counts / len(x)) - 0.5 * np.einsum("cd,dc->c", means, weights)


PLAIN = {RIDGE: plain_ridge, LDA: plain_lda}


def plain(
    x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, strength: float, method: str
) -> np.ndarray:
    """Return the predicted classes of one head."""
    weights, bias = PLAIN[method](x[train].astype(np.float64), np.eye(C)[y[train]], strength)
    return np.asarray((x[test] @ weights + bias).argmax(1))


def share(predicted: np.ndarray, targets: np.ndarray) -> float:
    return round(100 * float((predicted == targets).mean()), 2)


def test_ridge_of_one_hot_vectors_is_known_in_closed_form() -> None:
    counts, strength = [3, 5, 2], 0.7
    classes = np.repeat(np.arange(3), counts)
    x = np.eye(3, dtype=np.float32)[classes][:, None]
    sums = moments_of(x, singles(0, len(x)), classes, 3, CPU)
    found = ridge_weights(sums.gram, sums.cross, torch.tensor([strength], dtype=torch.float64))
    wanted = np.diag([n / (n + strength) for n in counts])
    np.testing.assert_allclose(found[0].numpy(), wanted, rtol=1e-14)
    parts = {name: (singles(0, len(x)), classes) for name in ("train", "dev", "test")}
    assert screen(x, parts, 3, SPLIT, RIDGE).test.tolist() == [100.0]


@pytest.mark.parametrize("n_classes", [C, None])
def test_moments_in_chunks_are_plain_sums(
    n_classes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments_module, "ROWS", 7)
    x, classes = data(25)
    targets = classes if n_classes else classes + 0.5
    found = moments_of(x, singles(0, 25), targets, n_classes, CPU)
    wide, y = x.astype(np.float64), np.eye(C)[classes] if n_classes else targets[:, None]
    np.testing.assert_allclose(found.targets, y.sum(0))
    np.testing.assert_allclose(found.sums, wide.sum(0), rtol=1e-12)
    np.testing.assert_allclose(found.gram, np.einsum("nhd,nhe->hde", wide, wide), rtol=1e-12)
    np.testing.assert_allclose(found.cross, np.einsum("nhd,nc->hdc", wide, y), rtol=1e-12)


@pytest.mark.parametrize("method", [RIDGE, LDA])
def test_given_splits_choose_on_dev_and_fit_train_alone(method: str) -> None:
    x, y = data()
    parts = parts_of(y, train=(0, 50), dev=(50, 70), test=(70, 90))
    found = screen(x, parts, C, SPLIT, method)
    train, dev, test = np.arange(50), np.arange(50, 70), np.arange(70, 90)
    for head in range(H):
        scores = [
            share(plain(x[:, head], y, train, dev, strength, method), y[dev])
            for strength in STRENGTHS[method]
        ]
        best = int(np.argmax(scores))
        assert found.regulariser[head] == STRENGTHS[method][best]
        assert found.dev[head] == scores[best]
        predicted = plain(x[:, head], y, train, test, STRENGTHS[method][best], method)
        assert (found.predictions[:, head] == predicted).all()
        assert found.test[head] == share(predicted, y[test])
    assert found.test[0] < found.test[-1]


@pytest.mark.parametrize("method", [RIDGE, LDA])
def test_folds_are_those_of_refitting_every_time(method: str) -> None:
    x, y = data()
    parts = parts_of(y, train=(0, 70), test=(70, 90))
    found = screen(x, parts, C, K_FOLD, method, folds=4, seed=5)
    folds = [*stratified_folds(y[:70], 4, 5)]
    for head in range(H):
        scores = [
            round(np.mean([share(plain(x[:, head], y, *f, s, method), y[f[1]]) for f in folds]), 2)
            for s in STRENGTHS[method]
        ]
        best = int(np.argmax(scores))
        assert (found.dev[head], found.regulariser[head]) == (scores[best], STRENGTHS[method][best])
        predicted = plain(
            x[:, head], y, np.arange(70), np.arange(70, 90), STRENGTHS[method][best], method
        )
        assert (found.predictions[:, head] == predicted).all()


def test_of_nested_folds_each_is_tested_once_and_chosen_on_the_next() -> None:
    x, y = data(60)
    found = screen(x, parts_of(y, all=(0, 60)), C, INNER_K_FOLD, RIDGE, folds=3, seed=1)
    folds = [test for _, test in stratified_folds(y, 3, 1)]
    wanted = np.empty((60, H), np.int64)
    scores = np.empty((3, H))
    for head in range(H):
        for k, test in enumerate(folds):
            dev, train = folds[(k + 1) % 3], folds[(k + 2) % 3]
            of = [
                share(plain(x[:, head], y, train, dev, s, RIDGE), y[dev]) for s in STRENGTHS[RIDGE]
            ]
            best = STRENGTHS[RIDGE][int(np.argmax(of))]
            both = np.sort(np.concatenate([dev, train]))
            wanted[test, head] = plain(x[:, head], y, both, test, best, RIDGE)
            scores[k, head] = share(wanted[test, head], y[test])
    assert (found.predictions == wanted).all()
    np.testing.assert_array_equal(found.test, np.round(scores.mean(0), 2))


def test_blocks_hold_every_example_once() -> None:
    _, y = data(40)
    blocks, rounds = rounds_of(parts_of(y, all=(0, 40)), INNER_K_FOLD, 5, 0)
    rows = np.concatenate([rows[:, 0] for rows, _ in blocks.values()])
    assert sorted(rows) == [*range(40)]
    for one in rounds:
        assert not {one.final.test, *one.fits[0].train} & {one.fits[0].test}
        assert one.final.test not in {*one.fits[0].train, one.fits[0].test, *one.final.train}


def test_scores_are_regressed_and_chosen_by_correlation() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2, D)).astype(np.float32)
    scores = 2 + x[:, 1] @ np.arange(D) + 0.1 * rng.normal(size=60)
    parts = parts_of(scores, train=(0, 40), dev=(40, 50), test=(50, 60))
    found = screen(x, parts, None, SPLIT, RIDGE)
    weights, bias = plain_ridge(
        x[:40, 1].astype(np.float64), scores[:40, None], found.regulariser[1]
    )
    np.testing.assert_allclose(
        found.predictions[:, 1], x[50:, 1] @ weights[:, 0] + bias, rtol=1e-10
    )
    wanted = np.corrcoef(found.predictions[:, 1], scores[50:])[0, 1]
    assert found.test[1] == pytest.approx(wanted, abs=1e-12) and found.test[1] > 0.98


@pytest.mark.parametrize("method", [RIDGE, LDA])
def test_a_head_that_says_nothing_answers_the_majority(method: str) -> None:
    x = np.full((30, 1, D), 0.3, np.float32)
    y = np.arange(30) % 3 % 2  # twice as many zeros as ones
    found = screen(x, parts_of(y, train=(0, 15), dev=(15, 21), test=(21, 30)), 2, SPLIT, method)
    assert (found.predictions == 0).all() and found.test.tolist() == [66.67]


def test_a_class_that_train_lacks_is_never_answered() -> None:
    x, y = data(40)
    y[:20] = y[:20] % 2
    found = screen(x, parts_of(y, train=(0, 20), dev=(20, 30), test=(30, 40)), C, SPLIT, LDA)
    assert found.predictions.max() == 1


def test_the_order_of_examples_moves_last_bits_alone() -> None:
    x, y = data(50)
    order = np.random.default_rng(3).permutation(50)
    one = moments_of(x, singles(0, 50), y, C, CPU)
    other = moments_of(x, order[:, None], y[order], C, CPU)
    torch.testing.assert_close(one.gram, other.gram, rtol=1e-13, atol=1e-13)


def test_nested_folds_need_three() -> None:
    x, y = data(20)
    with pytest.raises(PyengineError, match="need folds >= 3"):
        screen(x, parts_of(y, all=(0, 20)), C, INNER_K_FOLD, RIDGE, folds=2)


def test_correlations_are_numpys_and_zero_for_constants() -> None:
    rng = np.random.default_rng(0)
    predicted = np.stack([rng.normal(size=20), np.full(20, 0.1), rng.integers(0, 3, 20)], axis=1)
    targets = rng.integers(0, 5, 20).astype(float)
    found = pearson(predicted, targets)
    for column in (0, 2):
        assert found[column] == pytest.approx(np.corrcoef(predicted[:, column], targets)[0, 1])
    assert found[1] == 0 == spearman(predicted, targets)[1]
    assert (pearson(predicted, np.ones(20)) == 0).all()
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]
    cubed = spearman(predicted[:, :1] ** 3, predicted[:, 0])
    assert cubed[0] == pytest.approx(1.0)


def test_heads_are_solved_in_chunks_of_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data()
    given: tuple = (parts_of(y, train=(0, 70), test=(70, 90)), C, K_FOLD, RIDGE)
    whole = screen(x, *given)
    monkeypatch.setattr(screen_module, "SUMS_BYTES", 1)
    for one, other in zip(screen(x, *given), whole, strict=True):
        np.testing.assert_array_equal(one, other)
