"""Found neurons matter to the trained models, more than others of the same layers.

Neurons are found in the five paraphrases of a fact, and tried in wordings that are in no text the
models have seen. There they are often unsure. Where a model is sure, an answer has no room to rise,
and twice the activation overshoots: for `enhance` only prompts with p < 0.9 count.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyengine
from pyengine.embedded import FACTS
from pyengine.interventions import enhance, suppress
from pyengine.neurons import Neuron

MODELS = Path(__file__).parent / "models"
NAMES = {"gpt2": "demo"} | {name: str(MODELS / name) for name in ("bert", "gpt_neo", "t5")}
SURE = 0.9

# These people are in no text but the facts, and these are no wordings of the facts.
WORDINGS = {
    "birthplace": ("{} grew up in", "{} was from", "{} came from the town of"),
    "language": ("{} writes in", "the language of {} was", "{} was a speaker of"),
    "instrument": ("{} was known for the", "{} learned the", "the music of {} was for the"),
}


def facts() -> list[dict[str, Any]]:
    """Read every other fact: half of them are enough to tell, in half the time."""
    return [json.loads(line) for line in FACTS.read_text(encoding="utf-8").splitlines()[::2]]


def others(found: list[Neuron], d_ff: int, generator: random.Random) -> list[Neuron]:
    """Draw as many other neurons from each layer."""
    drawn = []
    for layer in sorted({neuron.layer for neuron in found}):
        own = {neuron.dim for neuron in found if neuron.layer == layer}
        free = [dim for dim in range(d_ff) if dim not in own]
        drawn += [Neuron(layer, dim) for dim in generator.sample(free, len(own))]
    return drawn


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Return the 99 % bootstrap interval of the mean over facts."""
    generator = np.random.default_rng(0)
    n = len(differences)
    means = differences[generator.integers(0, n, (4000, n))].mean(1)
    low, high = np.percentile(means, [0.5, 99.5])
    return float(low), float(high)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_suppressing_lowers_and_enhancing_raises(name: str) -> None:
    model = pyengine.load(NAMES[name], device="cpu")
    kn = pyengine.KnowledgeNeurons(model)
    generator = random.Random(0)
    lowered, raised = [], []
    for fact in facts():
        known = [text.replace(fact["object"], "[MASK]") for text in fact["templates"].values()]
        found = kn.refine(known, fact["object"], adaptive=0.3, share=0.5)
        if not found:
            continue
        random_ones = others(found, model.d_ff, generator)
        wordings = WORDINGS[fact["relation"]]
        prompts = [f"{wording.format(fact['subject'])} [MASK]." for wording in wordings]
        changes: dict[Any, np.ndarray] = {}
        for change in (suppress, enhance):
            for neurons in (found, random_ones):
                effects = change(model, neurons).effect(prompts, fact["object"])
                before = np.array([effect.before.probability for effect in effects])
                after = np.array([effect.after.probability for effect in effects])
                changes[change, neurons is found] = after - before
        unsure = before < SURE
        lowered.append((changes[suppress, True] - changes[suppress, False]).mean())
        if unsure.any():
            raised.append((changes[enhance, True] - changes[enhance, False])[unsure].mean())
    assert len(lowered) >= 0.9 * len(facts())
    assert len(raised) >= 20
    low, high = interval(np.array(lowered))
    assert high < 0, f"suppressing changes p by {low:.4f} to {high:.4f} more than at random"
    low, high = interval(np.array(raised))
    assert low > 0, f"enhancing changes p by {low:.4f} to {high:.4f} more than at random"
