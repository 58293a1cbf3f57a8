"""Made-up results of `fact_neurons`, with the schema of the real ones and plausible trends."""

from typing import Any

import numpy as np
import synthetic_results

from pyengine.analyses.fact_neuron_result import FactNeurons
from pyengine.analyses.fact_tables import KINDS, SCHEMAS, to_table
from pyengine.relation_names import NAMES

FACTS_EACH, PROMPTS_EACH = 3, 2


def manifest(n_layers: int = 4, **sections: Any) -> dict[str, Any]:
    question = {"method": "adaptive", "steps": None, "adaptive": 0.3, "share": 0.5, "factor": 2.0}
    question |= {"objective": "probability", "value": "post", "seed": 0}
    made = synthetic_results.manifest("neurons", n_layers=n_layers, question=question, **sections)
    made["corpus"] = {"source": "made-up", "n_facts": 12, "n_prompts": 24, "n_relations": 4}
    return made


def effects(rng: np.random.Generator, fact: int, strength: float) -> list[dict[str, Any]]:
    """Own prompts lose and gain much of their probability, the unrelated ones hardly any."""
    rows = []
    for kind in KINDS:
        moved = strength if kind == "own" else 0.02 * rng.standard_normal()
        for prompt in range(PROMPTS_EACH):
            before = float(rng.uniform(0.001, 0.3))
            probability = {
                "before": before,
                "suppressed": before * (1 - moved),
                "enhanced": min(before * (1 + 3 * moved), 1.0),
            }
            row = {"fact": fact, "kind": kind, "prompt": prompt, "target": "w1"}
            row["text"] = f"w{fact} [b] w{prompt} [MASK] ."
            for state, value in probability.items():
                correct = bool(rng.random() < value)
                row |= {f"probability_{state}": value, f"rank_{state}": 0 if correct else 7}
                row |= {
                    f"correct_{state}": correct,
                    f"completion_{state}": "w1" if correct else "w2",
                }
            rows.append(row)
    return rows


def found(n_relations: int = 4, n_layers: int = 4, seed: int = 0, **sections: Any) -> FactNeurons:
    """Make a result with three facts per relation, of two prompts each; every neuron has dim 0."""
    rng = np.random.default_rng(seed)
    names = [*NAMES, *(f"relation-{i}" for i in range(n_relations))][:n_relations]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
    for fact in range(n_relations * FACTS_EACH):
        relation = names[fact // FACTS_EACH]
        row = {"fact": fact, "uid": f"uid-{fact}", "relation": relation, "subject": f"w{fact}"}
        n_neurons = int(rng.integers(1, n_layers + 1))
        row |= {"object": "w1", "n_prompts": PROMPTS_EACH, "n_neurons": n_neurons, "share": 0.5}
        row |= {"n_coarse": 8.5, "unrelated": (fact + FACTS_EACH) % (n_relations * FACTS_EACH)}
        rows["facts"].append(row | {"converged": True, "completeness": 1e-4})
        for layer in range(n_layers - n_neurons, n_layers):
            rows["neurons"].append({"fact": fact, "layer": layer, "dim": 0, "n_prompts": 2})
        rows["effects"] += effects(rng, fact, float(rng.uniform(0.2, 0.9)))
    rows["skipped"] = [
        {"fact": len(rows["facts"]), "uid": "uid-x", "relation": names[-1], "object": object_}
        | {"reason": f"the target '{object_}' is not in the vocabulary"}
        for object_ in ("x", "y")
    ]
    return FactNeurons(
        **{name: to_table(rows[name], SCHEMAS[name]) for name in SCHEMAS},
        manifest=manifest(n_layers, **sections),
        record={
            "n_facts": len(rows["facts"]),
            "n_prompts": PROMPTS_EACH * len(rows["facts"]),
            "n_skipped": 2,
            "exact": True,
        },
    )
