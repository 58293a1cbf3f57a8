"""Knowledge neurons: which feed-forward neurons hold a fact, and what happens without them.

Dai et al. 2022, "Knowledge Neurons in Pretrained Transformers"; for GPT-2, GPT-Neo, BERT and T5.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, overload

from torch import Tensor

from pyengine import interventions, weight_edits
from pyengine.analyses.attribution import Attribution, attribute
from pyengine.analyses.attribution_settings import AttributionSettings
from pyengine.analyses.mean_activations import mean_activations
from pyengine.answer_tokens import Target
from pyengine.cloze import Prompt
from pyengine.corpus import Corpus
from pyengine.effects import paired_targets
from pyengine.errors import PyengineError
from pyengine.intervention_base import Intervention
from pyengine.interventions import check_inactive
from pyengine.loading import load
from pyengine.models import Model
from pyengine.neurons import Neuron, coarse_neurons, selector, shared_neurons, tuned_share
from pyengine.saved_edits import save_edited
from pyengine.store import TokenStore


class KnowledgeNeurons:
    """Finds the neurons that an answer is attributed to, and edits them.

    Args:
        model: a `Model`, or anything that `pyengine.load` takes. Its modules are not touched by
            attribution, which runs on a structural copy in evaluation mode.

    Example::

        kn = pyengine.KnowledgeNeurons("bert-base-uncased")
        found = kn.attribute("The capital of France is [MASK].", "paris")
        neurons = kn.coarse("The capital of France is [MASK].", "paris", adaptive=0.3)
        with kn.suppress(neurons):
            ...  # kn.model.hf answers without them
    """

    def __init__(self, model: Any) -> None:
        self.model: Model = load(model)

    def attribute(
        self,
        prompts: str | Sequence[Prompt],
        targets: Target | Sequence[Target],
        method: str = "adaptive",
        steps: int = 20,
        *,
        objective: str = "probability",
        baseline: str | Tensor = "zero",
        value: str = "post",
        conditioning: str = "teacher",
        tolerance: float = 1e-3,
        budget: int | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Attribution:
        """Attribute answers to neurons by integrated gradients.

        Args:
            prompts: one text, or several; see `pyengine.cloze.clozes` for how they are written.
            targets: the answer of each; or one text, the answer of all.
            method: `adaptive` (default), as many nodes as each path needs; or a fixed rule of
                `steps` nodes: `package` (EleutherAI's: both ends, weights 1/m), `left` (Dai et
                al.'s code), `right` (their paper), `midpoint`, `trapezoid`, `gauss_legendre`. Or
                without an integral, cheap and no attribution in the sense of completeness:
                `max_activation` (the activation itself), `gradient_x_activation` (α = 1 only).
            steps: nodes of a fixed rule.
            objective: F: the target's `probability`, `log_probability` or `logit`.
            baseline: where the paths begin: `zero`; `mean`, over the content tokens of the prompt
                itself; or a tensor [n_layers, d_ff], as `mean_activations` gives it.
            value: `post`, the coefficients (input of the down-projection); `pre`, the inputs of
                the non-linearity, as the package does for GPT (a gated FFN's gate).
            conditioning: a target of several tokens is read with its own earlier tokens before each
                (`teacher`), or as the package does, after the model's own (`greedy`).
            tolerance: of `adaptive`, relative to the prompt's largest score and change.
            budget: positions × layers held for one backward pass; memory against speed. Moves only
                the last bits.
            on_progress: called with (target tokens done, in all).

        Raises:
            PyengineError: for settings, prompts or targets that cannot be.
        """
        settings = AttributionSettings(
            method=method,
            steps=steps,
            objective=objective,
            baseline=baseline,
            value=value,
            conditioning=conditioning,
            tolerance=tolerance,
            budget=budget,
        )
        settings.check(self.model)
        check_inactive(self.model, "before attributing: a path begins with the model as it is")
        if isinstance(prompts, str):
            pairs: list[Any] = [(prompts, targets)]
        else:
            pairs = list(zip(prompts, paired_targets(prompts, targets), strict=True))
        items = [settings.clozes(self.model, *pair) for pair in pairs]
        return attribute(self.model, items, settings, on_progress)

    @overload
    def coarse(self, prompts: str, targets: Target, **settings: Any) -> list[Neuron]: ...

    @overload
    def coarse(
        self, prompts: Sequence[Prompt], targets: Target | Sequence[Target], **settings: Any
    ) -> list[list[Neuron]]: ...

    def coarse(
        self,
        prompts: str | Sequence[Prompt],
        targets: Target | Sequence[Target],
        *,
        threshold: float | None = None,
        adaptive: float | None = None,
        percentile: float | None = None,
        **settings: Any,
    ) -> list[Neuron] | list[list[Neuron]]:
        """Return the neurons of each prompt whose score is above a threshold.

        Args:
            prompts, targets: as for `attribute`.
            threshold, adaptive, percentile: one of them; see `pyengine.neurons.coarse_neurons`.
                None: adaptive=0.3, as in the paper.
            settings: of `attribute`.

        Returns:
            In order of layer, then dim: one list for a single text, else one for each prompt.
        """
        cut = selector(threshold, adaptive, percentile)
        found = self.attribute(prompts, targets, **settings)
        sets = [coarse_neurons(scores, **cut) for scores in found.scores]
        return sets[0] if isinstance(prompts, str) else sets

    def refine(
        self,
        prompts: Sequence[Prompt],
        target: Target,
        *,
        share: float | str = 0.5,
        negatives: Sequence[Prompt | tuple[Prompt, Target]] = (),
        threshold: float | None = None,
        adaptive: float | None = None,
        percentile: float | None = None,
        **settings: Any,
    ) -> list[Neuron]:
        """Return the neurons that prompts for one fact share.

        Args:
            prompts: the fact, said in different ways.
            target: the answer of all of them.
            share: keep what is coarse in more than this share of the prompts; or `auto`, Dai et
                al.'s search for a share that leaves two to five (`pyengine.neurons.tuned_share`).
            negatives: prompts of other facts, said in the same way: what is coarse in any of them
                is dropped. Prompts for the same target, or pairs with their own.
            threshold, adaptive, percentile, settings: as for `coarse`.

        Returns:
            In order of first appearance.

        Raises:
            PyengineError: for prompts that are not a list, or a share out of range.
        """
        if isinstance(prompts, str):
            raise PyengineError("refine takes a list of prompts for one fact, got a single text")
        if isinstance(share, str) and share != "auto":
            raise PyengineError(f"share must be a number or 'auto', got {share!r}")
        if not isinstance(share, str):
            shared_neurons([], share)  # refuses a share out of range before any work
        cut = selector(threshold, adaptive, percentile)
        others = [pair if isinstance(pair, tuple) else (pair, target) for pair in negatives]
        texts = [*prompts, *(prompt for prompt, _ in others)]
        answers = [*(target for _ in prompts), *(answer for _, answer in others)]
        sets = self.coarse(texts, answers, **cut, **settings)
        own = sets[: len(prompts)]
        found = tuned_share([own])[1][0] if share == "auto" else shared_neurons(own, float(share))
        excluded = {neuron for neurons in sets[len(prompts) :] for neuron in neurons}
        return [neuron for neuron in found if neuron not in excluded]

    def mean_activations(
        self,
        corpus: Corpus | TokenStore,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Return a baseline for `attribute`: the mean coefficients over a corpus.

        See `pyengine.analyses.mean_activations`.
        """
        return mean_activations(self.model, corpus, on_progress=on_progress)

    def suppress(
        self, neurons: Iterable[Sequence[int]], *, value: str = "post", positions: str = "answer"
    ) -> Intervention:
        """Set coefficients to zero where the answer is read.

        Like the three methods below it returns an `Intervention`: `with kn.suppress(neurons):` does
        it to `kn.model.hf` for as long as the block runs; `.effect(prompts, targets)` measures the
        answers before and after. See `pyengine.interventions.enhance` for the settings.
        """
        return interventions.suppress(self.model, neurons, value=value, positions=positions)

    def enhance(
        self,
        neurons: Iterable[Sequence[int]],
        factor: float = 2.0,
        *,
        value: str = "post",
        positions: str = "answer",
    ) -> Intervention:
        """Multiply coefficients where the answer is read; see `pyengine.interventions.enhance`."""
        return interventions.enhance(self.model, neurons, factor, value=value, positions=positions)

    def erase(self, neurons: Iterable[Sequence[int]], erase_value: str = "zero") -> Intervention:
        """Replace value vectors by `zero` or `unk`; see `pyengine.weight_edits.erase`."""
        return weight_edits.erase(self.model, neurons, erase_value)

    def edit(
        self,
        neurons: Iterable[Sequence[int]],
        *,
        new: Target,
        old: Target | None = None,
        prompt: Prompt | None = None,
        rule: str = "package",
        strengths: tuple[float, float] | None = None,
    ) -> Intervention:
        """Write another answer into value vectors; see `pyengine.weight_edits.edit`."""
        return weight_edits.edit(
            self.model,
            neurons,
            new=new,
            old=old,
            prompt=prompt,
            rule=rule,
            strengths=strengths,
        )

    def save_edited(self, folder: str | Path) -> None:
        """Write the model as a Hugging Face folder, with the weight edits that are active.

        See `pyengine.saved_edits.save_edited`.
        """
        save_edited(self.model, folder)
