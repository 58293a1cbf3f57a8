"""Interventions that scale the coefficients of neurons while the model runs.

Dai et al. 2022, "Knowledge Neurons in Pretrained Transformers", §4.1: suppressing a neuron sets its
coefficient to zero, enhancing doubles it. For edits of the weights see `pyengine.weight_edits`.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pyengine.answer_places import Places, watch_answers
from pyengine.answers import Answers, answers
from pyengine.capture import VALUES
from pyengine.checks import check_choice
from pyengine.cloze import Cloze, batch_clozes
from pyengine.effects import Ask
from pyengine.errors import PyengineError
from pyengine.forward import Forward, to_device
from pyengine.intervention_base import Intervention, check_neurons
from pyengine.layers import Layer
from pyengine.models import Model
from pyengine.sites import coefficient_site
from pyengine.taps import Handle, attach

POSITIONS = ("answer", "all")

# Which coefficients [B, T, d_ff] to scale.
Index = tuple[Any, ...]

# How many scalings are active on a model's body; weakly: an abandoned one keeps no model alive.
_ACTIVE: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def suppress(
    model: Model,
    neurons: Iterable[Sequence[int]],
    *,
    value: str = "post",
    positions: str = "answer",
) -> Intervention:
    """Set the coefficients of some neurons to zero; see `enhance`, with a factor of 0."""
    return _Scaling(model, neurons, 0.0, value, positions)


def enhance(
    model: Model,
    neurons: Iterable[Sequence[int]],
    factor: float = 2.0,
    *,
    value: str = "post",
    positions: str = "answer",
) -> Intervention:
    """Multiply the coefficients of some neurons.

    Args:
        model: the model; while the intervention is entered, its own modules carry hooks.
        neurons: (layer, dim) pairs; one that is named twice counts once.
        factor: what to multiply with.
        value: `post`, the input of the down-projection, or `pre`, the input of the non-linearity
            (of a gated layer: the gate's).
        positions: `answer` or `all`. Where the answer is, is read from the input of every forward
            pass: BERT: every mask; GPT: each row's last token that is not padding, the newest one
            where there is a key-value cache; T5: the sentinel in the encoder's layers, the newest
            token in the decoder's. `effect` knows the place: of a BERT answer of several tokens
            only the mask that is being read.

    Raises:
        PyengineError: for a neuron that the model does not have, an unknown setting, a factor that
            is no number; on entering, where the tokenizer cannot tell the answer's place; inside
            the model, for an input without one.
    """
    return _Scaling(model, neurons, factor, value, positions)


def scaled_answers(
    model: Model,
    items: Sequence[Cloze],
    neurons: Sequence[Iterable[Sequence[int]]],
    factor: float,
    *,
    value: str = "post",
    forward: Forward | None = None,
) -> Answers:
    """Run the clozes as one batch, each with neurons of its own scaled where its answer is read.

    Args:
        model: the model; it is not touched.
        items: at least one.
        neurons: for each cloze, (layer, dim) pairs; duplicates count once.
        factor: 0 suppresses.
        value: as in `enhance`.
        forward: a copy of the model to run, left as it was; None makes one.

    Raises:
        PyengineError: for a neuron that the model does not have, an unknown value, or while an
            intervention on the model's activations is active.
    """
    check_choice("value", value, VALUES)
    check_inactive(model, "before measuring others")
    forward = forward or Forward(model)
    places = _known_places(model, items)
    chosen: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row, own in enumerate(neurons):
        for neuron in check_neurons(model, own):
            chosen[neuron.layer].append((row, neuron.dim))
    with ExitStack() as undo:
        for number, pairs in chosen.items():
            rows, dims = torch.tensor(pairs, device=model.device).t()
            at = (rows, places[model.layers[number].stack.name][1][rows], dims)
            hook = _scale(model, forward.body, number, value, factor, partial(tuple, at))
            undo.callback(hook.remove)
        return answers(model, items, forward)


def check_inactive(model: Model, when: str) -> None:
    """Refuse a model whose activations are being scaled.

    Args:
        model: the model.
        when: ends the sentence "leave them ...".

    Raises:
        PyengineError: if `suppress` or `enhance` is active on it.
    """
    if n_active := _ACTIVE.get(model.body, 0):
        raise PyengineError(
            f"{n_active} intervention(s) on the activations of {model.name} are active; leave "
            f"them {when}"
        )


class _Scaling(Intervention):
    """Multiplies coefficients through hooks."""

    def __init__(
        self,
        model: Model,
        neurons: Iterable[Sequence[int]],
        factor: float,
        value: str,
        positions: str,
    ) -> None:
        super().__init__(model, neurons)
        check_choice("value", value, VALUES)
        check_choice("positions", positions, POSITIONS)
        if not isinstance(factor, (int, float)) or not math.isfinite(factor):
            raise PyengineError(f"factor must be a finite number, not {factor!r}")
        self.factor = factor
        self.value = value
        self.positions = positions

    def _enter(self, undo: ExitStack) -> None:
        places: Places = {}
        if self.positions == "answer":
            for stack in {self.model.layers[layer].stack for layer in self._dims()}:
                undo.callback(watch_answers(self.model, stack, places).remove)
        for handle in self._hook(self.model.body, places):
            undo.callback(handle.remove)
        _count(self.model, 1)
        undo.callback(_count, self.model, -1)

    def _ask(self) -> Ask:
        forward = Forward(self.model)
        places: Places = {}
        for _ in self._hook(forward.body, places):
            pass

        def ask(items: Sequence[Cloze]) -> Answers:
            places.update(_known_places(self.model, items))
            return answers(self.model, items, forward)

        return ask

    def _hook(self, body: nn.Module, places: Places) -> Iterator[Handle]:
        """Scale the neurons of a body wherever `places` says at the time."""
        for number, chosen in self._dims().items():
            dims = torch.tensor(chosen, device=self.model.device)
            index = self._index(self.model.layers[number], dims, places)
            yield _scale(self.model, body, number, self.value, self.factor, index)

    def _index(self, layer: Layer, dims: Tensor, places: Places) -> Callable[[], Index]:
        if self.positions == "all":
            return lambda: (..., dims)

        def index() -> Index:
            rows, columns = places[layer.stack.name]
            return rows[:, None], columns[:, None], dims

        return index

    def _dims(self) -> dict[int, list[int]]:
        dims: dict[int, list[int]] = defaultdict(list)
        for neuron in self.neurons:
            dims[neuron.layer].append(neuron.dim)
        return dims


def _scale(
    model: Model, body: nn.Module, layer: int, value: str, factor: float, index: Callable[[], Index]
) -> Handle:
    """Multiply coefficients of a layer of a body; `index` is asked in every forward pass."""

    def scaled(coefficients: Tensor) -> Tensor:
        at = index()
        changed = coefficients.clone()
        changed[at] = coefficients[at] * factor
        return changed

    return attach(body, coefficient_site(model, layer, value), scaled)


def _known_places(model: Model, items: Sequence[Cloze]) -> Places:
    found = batch_clozes(model, items).positions
    rows = torch.arange(len(items), device=model.device)
    return {name: (rows, to_device(columns, model.device)) for name, columns in found.items()}


def _count(model: Model, more: int) -> None:
    _ACTIVE[model.body] = _ACTIVE.get(model.body, 0) + more
