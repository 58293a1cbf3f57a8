"""What all interventions have in common: entering, leaving, and measuring their effect."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Self, overload

from pyengine.answer_tokens import Target
from pyengine.answers import Answers, answers
from pyengine.cloze import Cloze, Prompt
from pyengine.effects import Ask, Effect, effects, paired_targets
from pyengine.errors import PyengineError
from pyengine.forward import Forward
from pyengine.models import Model
from pyengine.neurons import Neuron


class Intervention(ABC):
    """Something done to neurons of a model: a context manager, and a measurement.

    Inside `with` it is done to the caller's own Hugging Face model, whoever runs that; afterwards
    nothing is left of it, also where the block raises. It can be entered again later, and nested
    with others that are left in any order.

    Attributes:
        model: the model.
        neurons: each once, in order of first appearance.
    """

    def __init__(self, model: Model, neurons: Iterable[Sequence[int]]) -> None:
        self.model = model
        self.neurons = check_neurons(model, neurons)
        self._undo: ExitStack | None = None

    def __enter__(self) -> Self:
        self._check_left()
        with ExitStack() as undo:
            self._enter(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        undo, self._undo = self._undo, None
        if undo is None:
            raise PyengineError("this intervention is not active")
        undo.close()

    @overload
    def effect(self, prompts: str, targets: Target) -> Effect: ...  # type: ignore[overload-overlap]
    @overload
    def effect(
        self, prompts: Sequence[Prompt], targets: Target | Sequence[Target]
    ) -> list[Effect]: ...

    def effect(self, prompts: Any, targets: Any) -> Effect | list[Effect]:
        """Return what the model answers without and with the intervention.

        The model is not touched: copies in evaluation mode are asked, so that dropout is off. Other
        interventions that are active count in both answers.

        Args:
            prompts: a text, or a list of prompts (texts, or token ids), as in
                `pyengine.cloze.clozes`.
            targets: of a text its target; of a list one for each, or a text or token id for all.

        Raises:
            PyengineError: for a bad prompt or target, a model without tokenizer or output head, or
                while this very intervention is active.
        """
        self._check_left()
        if isinstance(prompts, str):
            return self._effects([prompts], [targets])[0]
        return self._effects(prompts, paired_targets(prompts, targets))

    def _effects(self, prompts: Sequence[Prompt], targets: Sequence[Target]) -> list[Effect]:
        plain = Forward(self.model)

        def before(items: Sequence[Cloze]) -> Answers:
            return answers(self.model, items, plain)

        return effects(self.model, prompts, targets, before, self._ask())

    def _check_left(self) -> None:
        if self._undo is not None:
            raise PyengineError("this intervention is active; leave it first, or make another one")

    @abstractmethod
    def _enter(self, undo: ExitStack) -> None:
        """Begin on the model itself, and say how each step is undone."""

    @abstractmethod
    def _ask(self) -> Ask:
        """Return how a copy of the model answers with the intervention."""


def check_neurons(model: Model, neurons: Iterable[Sequence[int]]) -> tuple[Neuron, ...]:
    """Return the neurons of a model, each once, in order of first appearance.

    Raises:
        PyengineError: for what is not a pair of whole numbers, or not in the model.
    """
    found: dict[Neuron, None] = {}
    for pair in neurons:
        try:
            layer, dim = map(operator.index, pair)
        except (TypeError, ValueError) as error:
            raise PyengineError(f"a neuron is a pair (layer, dim), not {pair!r}") from error
        if not (0 <= layer < model.n_layers and 0 <= dim < model.d_ff):
            raise PyengineError(
                f"neuron ({layer}, {dim}) is out of range: {model.name} has layers 0 to "
                f"{model.n_layers - 1} and dims 0 to {model.d_ff - 1}"
            )
        found[Neuron(layer, dim)] = None
    return tuple(found)
