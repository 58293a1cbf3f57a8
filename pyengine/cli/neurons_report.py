"""What `pyengine neurons find` knows about one fact, as plain data."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pyengine.errors import PyengineError

if TYPE_CHECKING:
    from torch import Tensor

    from pyengine.analyses.attribution import Attribution
    from pyengine.analyses.knowledge_neurons import KnowledgeNeurons
    from pyengine.models import Model
    from pyengine.neurons import Neuron

TOP_TOKENS = 5

Report = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How neurons are found.

    Attributes:
        attribution: arguments of `KnowledgeNeurons.attribute`.
        selector: `adaptive`, `threshold` and `percentile`, one of which is given.
        share: of the prompts that must agree, or `auto`.
        factor: of enhancing.
    """

    attribution: dict[str, Any]
    selector: dict[str, float | None]
    share: float | str
    factor: float


def make_report(
    kn: "KnowledgeNeurons",
    prompts: Sequence[str],
    target: str,
    negatives: Sequence[str],
    settings: Settings,
) -> Report:
    """Attribute, choose the neurons, and ask the model with them suppressed and enhanced.

    Returns:
        `model` and its layers' `stacks`, `target` and its `tokens`, `settings`; `neurons`, the
        largest mean score first; and per prompt its answers and, by layer, the attribution's
        errors.
    """
    from pyengine.token_text import TokenText

    n = len(prompts)
    asked = [*prompts, *negatives]
    found = kn.attribute(asked, [target] * len(asked), **settings.attribution)
    sets = _coarse(found.scores, settings)
    chosen = _refined(sets[:n], settings.share)
    excluded = {neuron for coarse in sets[n:] for neuron in coarse}
    neurons = [neuron for neuron in chosen if neuron not in excluded]
    text = TokenText.of(kn.model.tokenizer)
    return {
        "model": kn.model.name,
        "stacks": [layer.stack.name for layer in kn.model.layers],
        "target": target,
        "tokens": [text.token(token) for token in found.targets[0]],
        "settings": {**settings.attribution, **settings.selector, **_rest(settings)},
        "n_excluded": len(chosen) - len(neurons),
        "neurons": _described(kn.model, neurons, found.scores[:n].mean(0), sets[:n]),
        "prompts": _prompts(kn.model, prompts, target, neurons, found, sets, settings),
    }


def _rest(settings: Settings) -> dict[str, Any]:
    return {"share": settings.share, "factor": settings.factor}


def _coarse(scores: "Tensor", settings: Settings) -> list[list["Neuron"]]:
    from pyengine.neurons import coarse_neurons

    return [coarse_neurons(of_prompt, **settings.selector) for of_prompt in scores]


def _refined(sets: list[list["Neuron"]], share: float | str) -> list["Neuron"]:
    """Return the neurons that enough of the prompts share."""
    from pyengine.neurons import MIN_PROMPTS, shared_neurons, tuned_share

    if share != "auto":
        return shared_neurons(sets, float(share))
    if len(sets) < MIN_PROMPTS:
        raise PyengineError(
            f"share 'auto' needs at least {MIN_PROMPTS} prompts of the fact, got {len(sets)}"
        )
    return tuned_share([sets])[1][0]


def _described(
    model: "Model", neurons: list["Neuron"], scores: "Tensor", sets: list[list["Neuron"]]
) -> list[Report]:
    """Say how much each neuron counts and what its value writes, the largest score first."""
    largest = float(scores.max())
    writes = _writes(model, neurons)
    rows = []
    for neuron in sorted(neurons, key=lambda neuron: (-float(scores[neuron]), neuron)):
        score = float(scores[neuron])
        rows.append(
            {
                "layer": neuron.layer,
                "dim": neuron.dim,
                "score": score,
                "share": score / largest if largest > 0 else None,
                "n_prompts": sum(neuron in coarse for coarse in sets),
                "writes": writes[neuron],
            }
        )
    return rows


def _writes(model: "Model", neurons: list["Neuron"]) -> dict["Neuron", list[Report]]:
    """Read the neurons' values through the embedding, layer by layer: softmax(v · E)."""
    from pyengine.readout import readout
    from pyengine.token_text import TokenText

    text = TokenText.of(model.tokenizer)
    writes: dict[Neuron, list[Report]] = {}
    for layer in sorted({neuron.layer for neuron in neurons}):
        here = [neuron for neuron in neurons if neuron.layer == layer]
        values = model.values(layer)[[neuron.dim for neuron in here]]
        how = readout(model, model.layers[layer], final_norm=False, head="embedding")
        read = how.project(values, m=TOP_TOKENS)
        for neuron, ids, probs in zip(here, read.top_ids, read.top_probs, strict=True):
            pairs = zip(ids.tolist(), probs.tolist(), strict=True)
            writes[neuron] = [{"token": text.token(i), "probability": p} for i, p in pairs]
    return writes


def _prompts(
    model: "Model",
    prompts: Sequence[str],
    target: str,
    neurons: list["Neuron"],
    found: "Attribution",
    sets: list[list["Neuron"]],
    settings: Settings,
) -> list[Report]:
    from pyengine.interventions import enhance, suppress

    value = settings.attribution["value"]
    suppressed = suppress(model, neurons, value=value).effect([*prompts], target)
    enhanced = enhance(model, neurons, settings.factor, value=value).effect([*prompts], target)
    rows = []
    for i, (prompt, off, up) in enumerate(zip(prompts, suppressed, enhanced, strict=True)):
        row = {"prompt": prompt, "n_coarse": len(sets[i]), "before": asdict(off.before)}
        row |= {"suppressed": asdict(off.after), "enhanced": asdict(up.after)}
        rows.append(row | {"layers": _layers(found, i)})
    return rows


def _layers(found: "Attribution", prompt: int) -> list[Report]:
    """Return the error of each layer's scores: their sum minus the change that they explain."""
    names = ("change", "completeness", "nodes", "converged")
    columns = zip(*(getattr(found, name)[prompt].tolist() for name in names), strict=True)
    rows = [dict(zip(names, values, strict=True)) for values in columns]
    return [
        {"layer": layer} | {k: _known(v) for k, v in row.items()} for layer, row in enumerate(rows)
    ]


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
