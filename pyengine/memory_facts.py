"""What `fact_neurons` will hold: the scores of a block, and the more of its two phases.

First the paths of a batch of prompts are integrated, then the block's prompts are answered with
neurons changed. Both are bounds: prompts are not tokenised for them, so that one is taken to be as
long as its bytes, nor is it known which of them the model can be asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, NamedTuple, Self

import numpy as np

from pyengine.analyses.adaptive import CLENSHAW_CURTIS_LEVELS
from pyengine.analyses.attribution import CLEAN_TOKENS
from pyengine.analyses.fact_prompts import FactPrompts
from pyengine.analyses.fact_settings import FactSettings
from pyengine.answer_tokens import target_ids
from pyengine.batch_bound import ACTIVATIONS, PROJECTIONS, RESIDUALS, SCORES
from pyengine.errors import PyengineError
from pyengine.facts import Fact, by_relation
from pyengine.floors import BodyShape
from pyengine.gradients.answer_head import BLOCK_LOGITS
from pyengine.gradients.integration import BUDGETS
from pyengine.memory_parts import Holding, Plan
from pyengine.models import Model
from pyengine.torch_vocab import LOGIT_BYTES

# A tokenizer adds so many to a prompt at most; T5's decoder reads so many beside the answer.
SPECIAL = 4
# Gradients of a path: as they come, beside those of the level before, and put together.
GRADIENTS = 3
# Of a path, numbers as wide as the FFN: where it ends and begins, the difference, and scores of
# three rules on their way to the sum.
ENDS = 12
# An activation's input and output, its slope and theirs: `pre` needs them at every node.
SLOPES = 8
# Forward, and on the way back its gradient.
BOTH_WAYS = 2


class _Block(NamedTuple):
    """The most that a block has.

    Attributes:
        prompts: of its facts.
        clozes: one per token of each prompt's answer.
        longest: tokens of a cloze.
    """

    prompts: int
    clozes: int
    longest: int


def facts_plan(model: Model, asked: Mapping[str, Any]) -> Plan:
    """Plan `fact_neurons` for its arguments.

    Raises:
        PyengineError: for settings that it refuses.
    """
    own = {each.name: asked[each.name] for each in fields(FactSettings) if each.name in asked}
    settings = FactSettings(**own).resolved(model)
    most = _largest(model, asked["facts"], settings)
    itemsize = 8 if model.dtype == "float64" else 4
    scores = 2 * most.prompts * model.n_layers * model.d_ff * itemsize  # sums, and means
    computed = itemsize * max(_paths(model, settings, most), _answers(model, settings, most))
    return {
        "device": [Holding("a batch", computed, bound=True)],
        "host": [Holding("scores of a block", scores, bound=True)],
        "disk": [],
    }


def _largest(model: Model, facts: Sequence[Fact] | FactPrompts, settings: FactSettings) -> _Block:
    given = facts.facts if isinstance(facts, FactPrompts) else tuple(by_relation(facts))
    prompts = tuple(fact.prompts for fact in given)
    ordered = FactPrompts(given, prompts, (None,) * len(given))

    @cache
    def pieces(answer: str) -> int:
        try:  # the space before it may belong to it
            return max(len(target_ids(model, text)) for text in (answer, f" {answer}"))
        except PyengineError:  # the fact is skipped
            return 1

    n_prompts = np.array([len(fact.prompts) for fact in given])
    n_pieces = np.array([pieces(fact.object) for fact in given])
    n_bytes = np.array([max(len(text.encode()) for text in fact.prompts) for fact in given])
    starts = ordered.blocks(settings.block_facts)[:-1]
    longest = int((n_bytes + n_pieces).max()) + SPECIAL
    return _Block(
        int(np.add.reduceat(n_prompts, starts).max()),
        int(np.add.reduceat(n_prompts * n_pieces, starts).max()),
        min(longest, model.max_positions),
    )


def _paths(model: Model, settings: FactSettings, most: _Block) -> int:
    """Return the numbers that are held while a batch of prompts is integrated."""
    family, device = model.family, model.device.type
    n_tokens = max(CLEAN_TOKENS[device], most.longest) * len(family.stacks)
    clozes = min(most.clozes, n_tokens)
    n_kept, n_new = _nodes(settings)
    n_paths = clozes * model.n_layers
    row = model.n_layers * (1 if family.causal else 2 * most.longest)  # the costliest
    positions = min(BUDGETS[device] + row, (n_paths * n_new + clozes) * row)
    layer = _Layer.of(model, most.longest)
    running = positions * layer.all
    if family.causal or family.encoder_decoder:  # attention pads the rows of all clozes alike
        slots = clozes * min(positions, model.n_layers * n_new + 1) * model.n_layers
        running += slots * layer.attention
    width = model.values(0).shape[1]
    slopes = SLOPES * clozes * n_kept * model.d_ff * (settings.value == "pre")
    ends = n_paths * (ENDS * model.d_ff + GRADIENTS * n_kept * width)
    return (
        n_tokens * (model.n_layers * layer.clean + layer.all)
        + BOTH_WAYS * running
        + ends
        + slopes
        + _logits(model, n_paths * n_new + clozes)
    )


def _answers(model: Model, settings: FactSettings, most: _Block) -> int:
    """Return the numbers that are held while clozes are answered."""
    assert settings.batch_clozes
    n_tokens = settings.batch_clozes * most.longest * len(model.family.stacks)
    return n_tokens * _Layer.of(model, most.longest).all + _logits(model, settings.batch_clozes)


def _nodes(settings: FactSettings) -> tuple[int, int]:
    """Return how many gradients a path has at most, and how many are evaluated at once."""
    if settings.method == "adaptive":
        return CLENSHAW_CURTIS_LEVELS[-1], CLENSHAW_CURTIS_LEVELS[-1] // 2
    return settings.steps + 2, settings.steps + 2


class _Layer(NamedTuple):
    """The numbers that one position has in one layer, at most.

    Attributes:
        clean: those kept of the clean pass: the stream, and queries, keys and values.
        attention: projections and scores, in a forward pass.
        all: these and the rest, in a forward pass.
    """

    clean: int
    attention: int
    all: int

    @classmethod
    def of(cls, model: Model, longest: int) -> Self:
        heads, sizes = int(model.config.num_attention_heads), []
        for layer in BodyShape.of(model.hf).layers:
            width = sum(attention.width for attention in layer.attentions)
            scores = SCORES * heads * longest * len(layer.attentions)
            attention = PROJECTIONS * width + scores
            rest = RESIDUALS * layer.d_model + ACTIVATIONS * layer.ffn[-1].n_in
            sizes.append((layer.d_model + 3 * width, attention, attention + rest))
        return cls(*map(max, zip(*sizes, strict=True)))


def _logits(model: Model, n_rows: int) -> int:
    """Return what is made of rows of logits, a block at a time; and a wider copy of the weights."""
    device = model.device.type
    at_once = max(BLOCK_LOGITS[device], LOGIT_BYTES[device] // 4, model.vocab_size)
    width = model.values(0).shape[1]
    return 4 * min(at_once, n_rows * model.vocab_size) + (model.vocab_size + model.d_ff) * width
