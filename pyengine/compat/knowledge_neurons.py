"""The package `knowledge-neurons` (EleutherAI): its names and arguments on this engine.

::

    from pyengine.compat.knowledge_neurons import KnowledgeNeurons, initialize_model_and_tokenizer

A script for the package runs with that import changed and gets the package's numbers: its rule of
integration, neurons after the non-linearity in BERT and before it in GPT, GPT's targets of several
tokens read after the model's own earlier answers. What is different was a bug there:

- targets of several tokens work for every type; BERT's one [MASK] is multiplied;
- a target that is not in the vocabulary is refused and does not stand for [UNK], and BERT's is
  lower-cased where its tokenizer does that;
- `negative_examples` take effect; another selector may be given beside the default of
  `coarse_adaptive_threshold`; `steps` need not be a multiple of `batch_size`;
- settings are checked before any work, and refused in one line;
- a model in training mode is read as in eval mode; scores keep no graph;
- undoing restores every bit: after an error, with a neuron named twice, in any order, inside and
  outside `torch.no_grad()`; a second time it does nothing;
- a neuron that is named twice is enhanced once;
- a modification that stays acts where the next prompt's mask is, not where the first one's was;
- `erase_knowledge` works without a target (it then measures what the model answered before), and
  `edit_knowledge` for GPT;
- `erase_value="unk"` uses the unknown token of any model that has one of its own;
- `intermediate_size` is right where a GPT-2 sets `n_inner`;
- `model_type` and `initialize_model_and_tokenizer` take folders and other hub names, too.

`batch_size` and `pbar` are accepted and without effect: prompts, layers and nodes are batched as
memory allows, all layers in one pass.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from pyengine.analyses.greedy_clozes import greedy_clozes
from pyengine.answer_tokens import Target
from pyengine.answers import answers
from pyengine.checks import check_choice
from pyengine.cloze import clozes
from pyengine.compat.neuron_finder import NeuronFinder, Neurons
from pyengine.compat.package_models import (
    ALL_MODELS,
    BERT_MODELS,
    GPT2_MODELS,
    GPT_NEO_MODELS,
    initialize_model_and_tokenizer,
    model_type,
)
from pyengine.compat.pararel_files import PARAREL_RELATION_NAMES, pararel, pararel_expanded
from pyengine.effects import Answer
from pyengine.errors import PyengineError
from pyengine.intervention_base import Intervention
from pyengine.interventions import enhance, suppress
from pyengine.weight_edits import edit, erase

__all__ = [
    "ALL_MODELS",
    "BERT_MODELS",
    "GPT2_MODELS",
    "GPT_NEO_MODELS",
    "PARAREL_RELATION_NAMES",
    "KnowledgeNeurons",
    "initialize_model_and_tokenizer",
    "model_type",
    "pararel",
    "pararel_expanded",
]

ACTIVATION_MODES = {"suppress": suppress, "enhance": enhance}
WEIGHT_MODES = ("edit", "erase")

_REPORT = """
{moment} modification - groundtruth probability: {gt_prob}
Argmax completion: `{argmax_completion}`
Argmax prob: {argmax_prob}
"""

Results = dict[str, dict[str, Any]]
Undo = Callable[..., Any]


class KnowledgeNeurons(NeuronFinder):
    """The package's class; see the module for what is different.

    Args:
        model: a Hugging Face BERT, GPT-2 or GPT-Neo with its output head.
        tokenizer: its tokenizer, a fast one.
        model_type: `bert`, or a name with `gpt` in it.
        device: where the model is moved to; None: CUDA where there is one.
    """

    def suppress_knowledge(
        self,
        prompt: str,
        ground_truth: str,
        neurons: Neurons,
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[Results, Undo]:
        """Set neurons to 0 where the answer is read; see `modify_activations`."""
        return self.modify_activations(
            prompt, ground_truth, neurons, "suppress", undo_modification, quiet
        )

    def enhance_knowledge(
        self,
        prompt: str,
        ground_truth: str,
        neurons: Neurons,
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[Results, Undo]:
        """Double neurons where the answer is read; see `modify_activations`."""
        return self.modify_activations(
            prompt, ground_truth, neurons, "enhance", undo_modification, quiet
        )

    def modify_activations(
        self,
        prompt: str,
        ground_truth: str,
        neurons: Neurons,
        mode: str = "suppress",
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[Results, Undo]:
        """Measure an answer before and after neurons are changed.

        Args:
            prompt, ground_truth: as in `get_scores`.
            neurons: [layer, neuron] pairs.
            mode: `suppress` or `enhance`.
            undo_modification: False: the model stays modified until what undoes it is called.
            quiet: print nothing.

        Returns:
            {"before", "after"}: {"gt_prob", "argmax_completion", "argmax_prob"} each; and what
            undoes the modification, if it is not undone already.
        """
        check_choice("mode", mode, tuple(ACTIVATION_MODES))
        change = ACTIVATION_MODES[mode](self._model, neurons, value=self._value)
        return self._measured(change, prompt, ground_truth, undo_modification, quiet)

    def erase_knowledge(
        self,
        prompt: str,
        neurons: Neurons,
        erase_value: str = "zero",
        target: str | None = None,
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[Results, Undo]:
        """Replace the value vectors of neurons; see `modify_weights`."""
        return self.modify_weights(
            prompt, neurons, target, "erase", erase_value, undo_modification, quiet
        )

    def edit_knowledge(
        self,
        prompt: str,
        target: str,
        neurons: Neurons,
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[Results, Undo]:
        """Write another answer into the value vectors of neurons; see `modify_weights`."""
        return self.modify_weights(
            prompt, neurons, target, "edit", "zero", undo_modification, quiet
        )

    def modify_weights(
        self,
        prompt: str,
        neurons: Neurons,
        target: str | None,
        mode: str = "edit",
        erase_value: str = "zero",
        undo_modification: bool = True,
        quiet: bool = False,
    ) -> tuple[Results, Undo]:
        """Measure an answer before and after value vectors of the second linear layer are changed.

        Args:
            prompt: as in `get_scores`.
            neurons: [layer, neuron] pairs.
            target: the answer to measure, and to write in; None (`erase` only): what the model
                answers before.
            mode: `edit`: take twice the embedding of what the model answers away, and add twice the
                target's; `erase`: replace the vector.
            erase_value: with `zero`, or the embedding of the unknown token, `unk`.
            undo_modification, quiet, returns: as in `modify_activations`.
        """
        check_choice("mode", mode, WEIGHT_MODES)
        if mode == "erase":
            change = erase(self._model, neurons, erase_value)
        elif target is None:
            raise PyengineError("mode='edit' needs a target to write in")
        else:
            change = edit(self._model, neurons, new=target, prompt=prompt)
        answer: Target = self._said(prompt) if target is None else target
        return self._measured(change, prompt, answer, undo_modification, quiet)

    def _measured(
        self, change: Intervention, prompt: str, answer: Target, undo: bool, quiet: bool
    ) -> tuple[Results, Undo]:
        """Measure a change; leave the model changed unless `undo`."""
        if self._masked:
            effect = change.effect(prompt, answer)
            results = {"before": _entries(effect.before), "after": _entries(effect.after)}
        else:
            results = {"before": self._continued(prompt, answer)}
            with change:
                results["after"] = self._continued(prompt, answer)
        if not quiet:
            for moment, entries in results.items():
                print(_REPORT.format(moment=moment.capitalize(), **entries))
        if undo:
            return results, lambda *arguments: None
        stack = ExitStack()
        stack.enter_context(change)
        return results, stack.close

    def _continued(self, prompt: str, answer: Target) -> dict[str, Any]:
        """Measure a causal model's answer, each token after the model's own before it."""
        items = greedy_clozes(self._model, prompt, answer)
        found = [answers(self._model, [cloze]) for cloze in items]
        texts = [self.tokenizer.decode(each.top_token.tolist()) for each in found]
        return {
            "gt_prob": math.prod(float(each.probability) for each in found),
            "argmax_completion": "".join(texts),
            "argmax_prob": math.prod(float(each.top_probability) for each in found),
        }

    def _said(self, prompt: str) -> list[int]:
        """Return the token that the model answers with."""
        anything = clozes(self._model, prompt, 0)
        return answers(self._model, anything).top_token.tolist()


def _entries(answer: Answer) -> dict[str, Any]:
    return {
        "gt_prob": answer.probability,
        "argmax_completion": answer.completion,
        "argmax_prob": answer.completion_probability,
    }
