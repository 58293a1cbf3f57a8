"""What a probe over neurons reads: standardised FFN activations of a bank, layer beside layer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyengine.checks import check_count
from pyengine.errors import PyengineError
from pyengine.heads.bank import HeadBank
from pyengine.heads.bank_tasks import BankExamples, BankTask
from pyengine.heads.places import NEURONS
from pyengine.heads.task import CLASSES, INNER_K_FOLD, K_FOLD

PARTS = ("train", "dev", "test")
HELD_OUT = 10  # every tenth example, of tasks that come without a dev or test set


class Part(NamedTuple):
    """Examples of a task.

    Attributes:
        x: float32 [n, F + 1], standardised activations and a last column of ones.
        targets: int64 [n].
    """

    x: Tensor
    targets: Tensor


class Features(NamedTuple):
    """Neurons, and what they do on the examples of a task.

    Attributes:
        layers: int32 [F].
        neurons: int32 [F], numbers inside their layers.
        parts: `train`, `dev` and `test`.
    """

    layers: np.ndarray
    neurons: np.ndarray
    parts: dict[str, Part]


def parts_of(task: BankTask, max_examples: int | None = None) -> dict[str, BankExamples]:
    """Return train, dev and test of a task.

    A task of SentEval's that comes without dev gives every tenth example of train to dev; one that
    comes in one piece gives two of every ten, to dev and test. Examples are in SentEval's order, by
    length, so that all parts hold all lengths.

    Args:
        task: of one of several classes, of single sentences.
        max_examples: of each part, evenly spaced; None: all.

    Raises:
        PyengineError: for a task of scores or pairs, whose features are not single neurons.
    """
    check_count("max_examples", max_examples)
    if task.kind != CLASSES or task.paired:
        raise PyengineError(
            f"neurons are ranked for classes of single sentences; {task.name} is a task of "
            + ("pairs" if task.paired else task.kind)
        )
    found = dict(task.parts)
    if task.protocol == K_FOLD:
        found |= _split(found["train"], ("dev",), "train")
    elif task.protocol == INNER_K_FOLD:
        found = _split(found["all"], ("dev", "test"), "train")
    return {name: _thinned(found[name], max_examples) for name in PARTS}


def read_features(
    bank: HeadBank,
    task: str,
    layers: Sequence[int] | None = None,
    max_examples: int | None = None,
    device: torch.device | str = "cpu",
    on_layer: Callable[[int, int], None] | None = None,
) -> Features:
    """Read the activations of all neurons of some layers, each with mean 0 and variance 1 on train.

    A neuron that is constant on train is 0 everywhere. Memory: 4 bytes for each neuron and
    example, and one layer of the bank while it is read.

    Args:
        bank: with the location `neurons`.
        task: its name.
        layers: through all stacks; None: all that the bank has.
        max_examples: of each part, evenly spaced; None: all.
        device: where the features go.
        on_layer: called with (layers read, in all).

    Raises:
        PyengineError: if the bank has no such task or no neurons, or as `parts_of`.
    """
    known = {place.layer: place for place in bank.places if place.location == NEURONS}
    chosen = [*dict.fromkeys(known if layers is None else layers)]
    places = [bank.place(NEURONS, layer) for layer in chosen or [0]]
    widths = [place.width for place in places]
    examples = parts_of(bank.task(task), max_examples)
    parts = {
        name: Part(
            torch.ones(len(part), sum(widths) + 1, device=device),
            torch.tensor(part.targets, device=device),
        )
        for name, part in examples.items()
    }
    rows = {name: part.rows[:, 0] for name, part in examples.items()}
    start = 0
    for done, place in enumerate(places, 1):
        vectors = bank.vectors(NEURONS, place.layer)[:, 0]
        mean, scale = _moments(vectors[rows["train"]])
        for name, part in parts.items():
            block = (vectors[rows[name]] - mean) * scale
            part.x[:, start : start + place.width] = torch.from_numpy(block).to(device)
        start += place.width
        if on_layer is not None:
            on_layer(done, len(places))
    return Features(
        np.repeat(np.array([place.layer for place in places], np.int32), widths),
        np.concatenate([np.arange(width, dtype=np.int32) for width in widths]),
        parts,
    )


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and inverse standard deviations (0 of a constant), float32, from float64."""
    mean = values.mean(0, dtype=np.float64)
    deviation = values.std(0, dtype=np.float64)
    varies = values.min(0) < values.max(0)
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=varies)
    return mean.astype(np.float32), scale.astype(np.float32)


def _split(part: BankExamples, held_out: Sequence[str], rest: str) -> dict[str, BankExamples]:
    turn = np.arange(len(part)) % HELD_OUT
    found = {name: _taken(part, np.flatnonzero(turn == i)) for i, name in enumerate(held_out)}
    return found | {rest: _taken(part, np.flatnonzero(turn >= len(held_out)))}


def _thinned(part: BankExamples, most: int | None) -> BankExamples:
    if most is None or len(part) <= most:
        return part
    return _taken(part, np.arange(most) * len(part) // most)


def _taken(part: BankExamples, which: np.ndarray) -> BankExamples:
    return BankExamples(part.rows[which], part.targets[which])
