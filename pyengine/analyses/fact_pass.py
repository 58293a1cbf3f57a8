"""The pass behind `fact_neurons`: block by block, from facts to the rows of the tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyengine.analyses.attribution import attribute
from pyengine.analyses.fact_answers import Replies, replies
from pyengine.analyses.fact_prompts import FactPrompts
from pyengine.analyses.fact_settings import AUTO, FactSettings
from pyengine.analyses.fact_tables import KINDS, SCHEMAS, Tables, to_table
from pyengine.answers import Answers, answers
from pyengine.cloze import Cloze, clozes
from pyengine.forward import Forward
from pyengine.interventions import scaled_answers
from pyengine.models import Model
from pyengine.neurons import Neuron, coarse_neurons, shared_neurons, tuned_share
from pyengine.precision import precision
from pyengine.token_text import TokenText

Sets = list[list[Neuron]]
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Block:
    """The rows of a block, in order of fact.

    Attributes:
        tables: `facts`, `neurons`, `effects`, `skipped`.
        record: counters: n_facts and n_prompts (asked), n_skipped; exact, False if memory was short
            and the shape of a batch was changed.
    """

    tables: Tables
    record: dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A prompt to be answered while a fact's neurons are changed.

    Attributes:
        fact: whose neurons.
        kind: whether the prompt is its `own`, or of the `unrelated` fact.
        asked: the fact that the prompt is of.
        prompt: the prompt's number in that fact.
    """

    fact: int
    kind: str
    asked: int
    prompt: int


class FactPass:
    """Computes blocks of facts; a block's bits depend on nothing outside of it."""

    def __init__(self, model: Model, settings: FactSettings, asked: FactPrompts) -> None:
        assert settings.batch_clozes
        self.model, self.settings, self.asked = model, settings, asked
        self.boundaries = asked.blocks(settings.block_facts)
        self._unrelated = asked.unrelated(settings.seed)
        self._batch_clozes = settings.batch_clozes
        self._forward = Forward(model)
        self._text = TokenText.of(model.tokenizer)

    def units(self, block: int) -> tuple[int, int]:
        """Return a block's first fact, and the one after its last."""
        return int(self.boundaries[block]), int(self.boundaries[block + 1])

    def n_prompts(self, block: int) -> int:
        """Return the prompts that the model is asked in a block."""
        return sum(len(prompts) for prompts in self.asked.prompts[slice(*self.units(block))])

    def run(self, block: int, on_clozes: Callable[[int, int], None] | None = None) -> Block:
        """Compute a block; `on_clozes` is called with (clozes attributed, in all) on the way."""
        numbers = range(*self.units(block))
        chosen = [i for i in numbers if self.asked.prompts[i]]
        with precision(self.model.dtype):
            sets, rows, exact = self._attribute(chosen, on_clozes)
            share, found = self._refine(sets)
            effects = self._effects(dict(zip(chosen, found, strict=True)))
        for row, neurons in zip(rows, found, strict=True):
            row |= {"n_neurons": len(neurons), "share": share}
        counted = [
            {"fact": i, "layer": neuron.layer, "dim": neuron.dim, "n_prompts": n}
            for i, coarse, neurons in zip(chosen, sets, found, strict=True)
            for neuron, n in _counts(coarse, neurons)
        ]
        skipped = [self._skipped(i) for i in numbers if not self.asked.prompts[i]]
        tables = {"facts": rows, "neurons": counted, "effects": effects, "skipped": skipped}
        record = {"n_facts": len(chosen), "n_prompts": self.n_prompts(block), "exact": exact}
        return Block(
            {name: to_table(tables[name], schema) for name, schema in SCHEMAS.items()},
            record | {"n_skipped": len(skipped)},
        )

    def _attribute(
        self, chosen: Sequence[int], on_clozes: Callable[[int, int], None] | None
    ) -> tuple[list[Sets], list[Row], bool]:
        """Return the coarse neurons of every prompt of every fact, and the facts' rows so far.

        And whether the batches had the shapes that they should have.
        """
        if not chosen:
            return [], [], True
        prompts = [
            self._clozes(i, prompt) for i in chosen for prompt in range(len(self.asked.prompts[i]))
        ]
        found = attribute(self.model, prompts, self.settings.attribution, on_clozes)
        coarse = [coarse_neurons(scores, **self.settings.selector) for scores in found.scores]
        ends = np.cumsum([len(self.asked.prompts[i]) for i in chosen]).tolist()
        ranges = [slice(*ends) for ends in zip([0, *ends], ends, strict=False)]
        rows = [
            self._fact(i, coarse[at])
            | {
                "converged": bool(found.converged[at].all()),
                "completeness": _completeness(found.completeness[at], found.change[at]),
            }
            for i, at in zip(chosen, ranges, strict=True)
        ]
        return [coarse[at] for at in ranges], rows, found.exact

    def _fact(self, number: int, coarse: Sets) -> Row:
        fact, other = self.asked.facts[number], int(self._unrelated[number])
        return {
            "fact": number,
            "uid": fact.uid,
            "relation": fact.relation,
            "subject": fact.subject,
            "object": fact.object,
            "n_prompts": len(coarse),
            "n_coarse": sum(map(len, coarse)) / len(coarse),
            "unrelated": None if other < 0 else other,
        }

    def _skipped(self, number: int) -> Row:
        fact, reason = self.asked.facts[number], self.asked.reasons[number]
        names = {"uid": fact.uid, "relation": fact.relation, "object": fact.object}
        return {"fact": number, **names, "reason": reason}

    def _refine(self, sets: list[Sets]) -> tuple[float, Sets]:
        """Return the share of a fact's prompts that must agree, and the neurons of each fact."""
        share = self.settings.share
        if share == AUTO:
            return tuned_share(sets)
        return float(share), [shared_neurons(coarse, float(share)) for coarse in sets]

    def _effects(self, neurons: dict[int, list[Neuron]]) -> list[Row]:
        """Answer each fact's prompts and those of its unrelated one, as it is and changed."""
        questions = [question for fact in neurons for question in self._questions(fact)]
        before = self._before(questions)
        states = {"before": before}
        for state, factor in (("suppressed", 0.0), ("enhanced", self.settings.factor)):
            states[state] = self._changed(questions, neurons, factor, before)
        rows: list[Row] = []
        for question in questions:
            text = self.asked.prompts[question.asked][question.prompt]
            target = self.asked.facts[question.asked].object
            row = {"fact": question.fact, "kind": question.kind, "prompt": question.prompt}
            rows.append(row | {"text": text, "target": target})
        for state, found in states.items():
            completions = self._text.decode_many(found.completion)
            for row, p, rank, text in zip(
                rows, found.probability.tolist(), found.rank.tolist(), completions, strict=True
            ):
                row |= {f"probability_{state}": p, f"rank_{state}": rank}
                row |= {f"correct_{state}": rank == 0, f"completion_{state}": text}
        return rows

    def _questions(self, fact: int) -> list[Question]:
        facts = zip(KINDS, (fact, int(self._unrelated[fact])), strict=True)
        return [
            Question(fact, kind, asked, prompt)
            for kind, asked in facts
            if asked >= 0
            for prompt in range(len(self.asked.prompts[asked]))
        ]

    def _before(self, questions: Sequence[Question]) -> Replies:
        """Answer every prompt once, however many facts it is asked for."""
        places: dict[tuple[int, int], int] = {}
        rows = [places.setdefault((q.asked, q.prompt), len(places)) for q in questions]
        prompts = [self._clozes(*place) for place in places]
        return replies(prompts, self._ask, self._batch_clozes).rows(rows)

    def _changed(
        self,
        questions: Sequence[Question],
        neurons: dict[int, list[Neuron]],
        factor: float,
        before: Replies,
    ) -> Replies:
        """Answer with the neurons scaled; where a fact has none, nothing changes."""
        rows = [row for row, question in enumerate(questions) if neurons[question.fact]]
        scaled = [neurons[questions[row].fact] for row in rows]

        def ask(items: list[Cloze], owners: list[int]) -> Answers:
            own = [scaled[owner] for owner in owners]
            value = self.settings.value
            return scaled_answers(
                self.model, items, own, factor, value=value, forward=self._forward
            )

        prompts = [self._clozes(questions[row].asked, questions[row].prompt) for row in rows]
        return before.replaced(rows, replies(prompts, ask, self._batch_clozes))

    def _ask(self, items: list[Cloze], _owners: list[int]) -> Answers:
        return answers(self.model, items, self._forward)

    def _clozes(self, fact: int, prompt: int) -> list[Cloze]:
        return clozes(self.model, self.asked.prompts[fact][prompt], self.asked.facts[fact].object)


def _counts(coarse: Sets, neurons: Sequence[Neuron]) -> list[tuple[Neuron, int]]:
    """Say in how many prompts each neuron is coarse."""
    sets = [set(found) for found in coarse]
    return [(neuron, sum(neuron in found for found in sets)) for neuron in neurons]


def _completeness(residual: Any, change: Any) -> float | None:
    """Return the largest residual relative to the largest change, over prompts and layers."""
    largest = float(change.abs().max())
    relative = float(residual.abs().max()) / largest if largest > 0 else float("nan")
    return relative if np.isfinite(relative) else None
