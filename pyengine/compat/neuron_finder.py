"""Finding neurons with the arguments of the package `knowledge-neurons`."""

from typing import Any

import torch
from torch import Tensor

from pyengine.analyses.knowledge_neurons import KnowledgeNeurons
from pyengine.checks import check_choice
from pyengine.cloze import Prompt
from pyengine.errors import PyengineError
from pyengine.neurons import ADAPTIVE, check_selector, coarse_neurons, shared_neurons

METHODS = {"integrated_grads": "package", "max_activations": "max_activation"}

Neurons = list[list[int]]


class NeuronFinder:
    """The half of the package's class that looks.

    Args:
        model: a Hugging Face BERT, GPT-2 or GPT-Neo with its output head.
        tokenizer: its tokenizer, a fast one.
        model_type: `bert`, or a name with `gpt` in it.
        device: where the model is moved to; None: CUDA where there is one.

    Raises:
        PyengineError: for any other model or type.
    """

    def __init__(
        self, model: Any, tokenizer: Any, model_type: str = "bert", device: Any = None
    ) -> None:
        self.model_type = model_type
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device)
        self.tokenizer = tokenizer
        self._engine = KnowledgeNeurons((self.model, tokenizer))
        self._model = self._engine.model
        self._masked = model_type == "bert"
        family = self._model.family
        if (
            family.encoder_decoder
            or self._masked == family.causal
            or not (self._masked or "gpt" in model_type)
        ):
            raise PyengineError(f"model_type {model_type!r} does not fit a {family.model_type}")
        self._value = "post" if self._masked else "pre"

    def n_layers(self) -> int:
        """Return the number of layers."""
        return self._model.n_layers

    def intermediate_size(self) -> int:
        """Return the number of neurons of a layer."""
        return self._model.d_ff

    def get_scores(
        self,
        prompt: str,
        ground_truth: str,
        batch_size: int = 10,
        steps: int = 20,
        attribution_method: str = "integrated_grads",
        pbar: bool = True,
    ) -> Tensor:
        """Return the attribution scores of a prompt, [n_layers, intermediate_size].

        Args:
            prompt: with `[MASK]` for BERT; for GPT what is before the answer.
            ground_truth: the answer.
            batch_size, pbar: without effect.
            steps: nodes of the integral.
            attribution_method: `integrated_grads`, or `max_activations`: the activation itself.
        """
        return self._scores([prompt], ground_truth, steps, attribution_method)[0]

    def get_scores_for_layer(
        self,
        prompt: str,
        ground_truth: str,
        layer_idx: int,
        batch_size: int = 10,
        steps: int = 20,
        encoded_input: Any = None,
        attribution_method: str = "integrated_grads",
    ) -> Tensor:
        """Return the scores of one layer, [intermediate_size].

        Costs as much as `get_scores`. Arguments as there; `encoded_input`, what the tokenizer made
        of a prompt, takes the place of `prompt`.
        """
        text: Prompt = prompt
        if encoded_input is not None:
            ids = encoded_input["input_ids"][0].tolist()
            text = ids if self._masked else self.tokenizer.decode(ids)
        return self._scores([text], ground_truth, steps, attribution_method)[0, layer_idx]

    def get_coarse_neurons(
        self,
        prompt: str,
        ground_truth: str,
        batch_size: int = 10,
        steps: int = 20,
        threshold: float | None = None,
        adaptive_threshold: float | None = None,
        percentile: float | None = None,
        attribution_method: str = "integrated_grads",
        pbar: bool = True,
    ) -> Neurons:
        """Return the [layer, neuron] of a prompt above one of the three limits.

        Args:
            threshold: of the score.
            adaptive_threshold: share of the largest score.
            percentile: of all scores.
            prompt, ground_truth, batch_size, steps, attribution_method, pbar: as in `get_scores`.
        """
        cut = {"threshold": threshold, "adaptive": adaptive_threshold, "percentile": percentile}
        check_selector(**cut)
        scores = self._scores([prompt], ground_truth, steps, attribution_method)[0]
        return [list(neuron) for neuron in coarse_neurons(scores, **cut)]

    def get_refined_neurons(
        self,
        prompts: list[str],
        ground_truth: str,
        negative_examples: list[str] | None = None,
        p: float = 0.5,
        batch_size: int = 10,
        steps: int = 20,
        coarse_adaptive_threshold: float | None = ADAPTIVE,
        coarse_threshold: float | None = None,
        coarse_percentile: float | None = None,
        quiet: bool = False,
    ) -> Neurons:
        """Return the [layer, neuron] that are coarse in more than a share `p` of the prompts.

        Args:
            prompts: the fact, said in different ways.
            ground_truth: their answer.
            negative_examples: prompts whose coarse neurons for that answer are left out.
            p: the share.
            coarse_adaptive_threshold, coarse_threshold, coarse_percentile: as in
                `get_coarse_neurons`; either of the last two replaces the default of the first.
            quiet: print nothing.
            batch_size, steps: as in `get_scores`.
        """
        if isinstance(prompts, str):
            raise PyengineError("prompts must be a list of texts, got a single text")
        others = (coarse_threshold, coarse_percentile)
        if coarse_adaptive_threshold == ADAPTIVE and any(limit is not None for limit in others):
            coarse_adaptive_threshold = None
        cut = {
            "threshold": coarse_threshold,
            "adaptive": coarse_adaptive_threshold,
            "percentile": coarse_percentile,
        }
        check_selector(**cut)
        shared_neurons([], p)  # refuses a share out of range before any work
        texts = [*prompts, *(negative_examples or ())]
        scores = self._scores(texts, ground_truth, steps, "integrated_grads")
        sets = [coarse_neurons(each, **cut) for each in scores]
        own, negative = sets[: len(prompts)], sets[len(prompts) :]
        excluded = {neuron for found in negative for neuron in found}
        refined = [neuron for neuron in shared_neurons(own, p) if neuron not in excluded]
        if not quiet:
            print(f"\n{sum(map(len, own))} coarse neurons found - refining")
            print(f"{len(refined)} neurons remaining after refining")
        return [list(neuron) for neuron in refined]

    def _scores(self, prompts: list[Prompt], answer: str, steps: int, method: str) -> Tensor:
        """Return the scores of prompts for one answer, [n, n_layers, intermediate_size]."""
        check_choice("attribution_method", method, tuple(METHODS))
        found = self._engine.attribute(
            prompts,
            [answer] * len(prompts),
            METHODS[method],
            steps,
            value=self._value,
            conditioning="teacher" if self._masked else "greedy",
        )
        return found.scores.to(self.device)
