"""Made-up results of the analyses, with the schema of the real ones and plausible trends."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pyengine.analyses.agreement_result import Agreement
from pyengine.analyses.agreement_summary import by_layer, by_probability
from pyengine.analyses.agreement_table import SCHEMA
from pyengine.analyses.prediction_result import Predictions
from pyengine.analyses.prediction_tables import EXAMPLES, Groups, schema
from pyengine.token_text import TokenText

KINDS = ("agreement", "residual", "ffn", "composition")


def manifest(analysis: str, family: str = "gpt2", **sections: Any) -> dict[str, Any]:
    """Return a manifest with what the readers of results look at."""
    n_layers = sections.get("n_layers", 4)
    model = {"name": "made-up", "revision": None, "family": family, "n_layers": n_layers}
    model |= {"d_ff": sections.get("d_ff", 8), "sha256": "0", "tokenizer_sha256": None}
    model["stacks"] = sections.get("stacks", ["decoder"] * n_layers)
    corpus = {"source": "made-up.txt", "sha256": "0", "n_units": 3, "n_tokens": 30}
    return {
        "analysis": analysis,
        "question": {"k": 50, **sections.get("question", {})},
        "numerics": {"dtype": "float32", "device": "cpu: x86_64"},
        "model": model,
        "corpus": corpus,
        "result": {},
    }


def agreement(
    n_layers: int = 4, d_ff: int = 40, k: int = 5, vocab: int = 50_257, seed: int = 0, **more: Any
) -> Agreement:
    """Make an agreement whose rate rises with depth and is zero in the first layer."""
    rng = np.random.default_rng(seed)
    rows = n_layers * d_ff
    layers = np.repeat(np.arange(n_layers), d_ff)
    depth = (layers + 1) / n_layers
    prob = np.clip(rng.lognormal(-7 + 5 * depth, 1.0), None, 0.99)
    agrees = rng.random(rows) < prob * (layers > 0)
    ranks = (rng.random((rows, k)) ** (1 + 9 * depth[:, None]) * (vocab - 1)).astype(int) + 1
    ranks[agrees, 0] = 0
    top = rng.integers(0, vocab, rows)
    targets = rng.integers(0, vocab, (rows, k))
    targets[agrees, 0] = top[agrees]
    made = {
        "layer": layers,
        "dim": np.tile(np.arange(d_ff), n_layers),
        "top_token": top,
        "top_text": [f" w{token}" for token in top],
        "top_prob": prob,
        "entropy": rng.random(rows) * 10,
        "top_tokens": [[int(token), 1, 2] for token in top],
        "top_probs": [[float(p), p / 2, p / 3] for p in prob],
        "agrees": agrees,
        "matches": (targets == top[:, None]).sum(1),
        "n_targets": np.full(rows, k),
        "n_examples": np.full(rows, k),
        "targets": targets.tolist(),
        "target_ranks": ranks.tolist(),
        "target_probs": (1 / (2.0 + ranks)).tolist(),
        "shuffled_target": np.where(rng.random(rows) < prob / 20, top, -1),
        "shuffled_rank": (rng.random(rows) * 0.8 * vocab).astype(int),
    }
    table = pa.table([made[field.name] for field in SCHEMA], SCHEMA.names).cast(SCHEMA)
    kinds = dict.fromkeys(range(n_layers), "next")
    question = {"final_norm": "off", "head": "full", "k": k, "layers": list(range(n_layers))}
    return Agreement(
        table=table,
        layers=by_layer(table, kinds, vocab),
        probability=by_probability(table, vocab),
        text=TokenText(None),
        manifest=manifest("agreement", n_layers=n_layers, d_ff=d_ff, question=question, **more),
    )


def predictions(
    mode: str = "layer",
    n_examples: int = 6,
    n_layers: int = 4,
    d_ff: int = 8,
    n: int = 3,
    vocab: int = 11,
    seed: int = 0,
    all_values: bool = False,
    distributions: Path | None = None,
    **more: Any,
) -> Predictions:
    """Make predictions; later layers know the final token better.

    `distributions` is a file to write the distributions to.
    """
    rng = np.random.default_rng(seed)
    rows = n_examples * n_layers
    layer = np.tile(np.arange(n_layers), n_examples)
    position = rng.integers(0, 4, n_examples)
    final = rng.integers(0, vocab, n_examples).repeat(n_layers)
    gold = rng.integers(0, vocab, n_examples).repeat(n_layers)
    known = rng.random(rows) < (layer + 1) / (n_layers + 1)
    residual = np.where(known, final, rng.integers(0, vocab, rows))
    ffn = rng.integers(0, vocab, rows)
    out = np.where(rng.random(rows) < 0.8, residual, np.where(rng.random(rows) < 0.5, ffn, final))
    last = layer == n_layers - 1
    out = np.where(last, final, out)
    coefficients = np.maximum(rng.standard_normal((rows, d_ff)), -0.17).astype(np.float32)
    norms = 0.5 + rng.random((n_layers, d_ff)).astype(np.float32)
    made = {
        "unit": np.arange(n_examples).repeat(n_layers),
        "position": pa.array(position.repeat(n_layers), pa.int32()),
        "layer": pa.array(layer, pa.int32()),
        "gold_token": pa.array(gold, pa.int32(), mask=np.arange(rows) < n_layers),
        "final_token": pa.array(final, pa.int32()),
        "final_prob": rng.random(rows).astype(np.float32),
        "n_active": pa.array((coefficients > 0).sum(1), pa.int32()),
        "n_negative": pa.array((coefficients < 0).sum(1), pa.int32()),
        "residual_norm": (1 + rng.random(rows)).astype(np.float32),
    }
    tokens = {"residual": residual, "ffn": ffn}
    if mode == "layer":
        made |= _layer_columns(rng, tokens | {"layer": out}, final, vocab)
    else:
        made |= _value_columns(rng, tokens, final, vocab, coefficients, norms[layer], n)
        if all_values:
            made |= _all_columns(rng, coefficients, norms[layer], vocab)
    text = [" ".join(f"w{j}" for j in range(5 + i)) for i in range(n_examples)]
    examples = {
        "unit": np.arange(n_examples),
        "position": pa.array(position, pa.int32()),
        "token": pa.array(rng.integers(0, vocab, n_examples), pa.int32()),
        "text": text,
        "prefix": [" ".join(t.split()[: p + 1]) for t, p in zip(text, position, strict=True)],
    }
    if distributions is not None:
        np.save(distributions, rng.random((n_examples, vocab)).astype(np.float32))
    question = {"mode": mode, "position": "random", "seed": 0, "n": n, "all_values": all_values}
    question |= {"final_norm": "on", "head": "full", "layers": list(range(n_layers))}
    wanted = schema(mode, all_values)
    table = pa.table(made).select(wanted.names).cast(wanted)
    return Predictions(
        groups=Groups(wanted, (table,)),
        example_groups=Groups(EXAMPLES, (pa.table(examples).cast(EXAMPLES),)),
        distributions=() if distributions is None else (distributions,),
        text=TokenText(None),
        manifest=manifest("predictions", n_layers=n_layers, d_ff=d_ff, question=question, **more),
        record={"n_examples": n_examples},
    )


def _readings(rng: Any, name: str, token: np.ndarray, final: np.ndarray, vocab: int) -> Any:
    rank = np.where(token == final, 0, rng.integers(1, vocab, len(token)))
    prob = 0.2 + 0.8 * rng.random(len(token))
    return {
        f"{name}_token": pa.array(token, pa.int32()),
        f"{name}_prob": prob.astype(np.float32),
        f"{name}_final_rank": pa.array(rank, pa.int32()),
        f"{name}_final_prob": (prob / (1 + rank)).astype(np.float32),
    }


def _layer_columns(rng: Any, tokens: dict[str, Any], final: np.ndarray, vocab: int) -> Any:
    made: dict[str, Any] = {}
    for name, token in tokens.items():
        made |= _readings(rng, name, token, final, vocab)
        made[f"{name}_gold_rank"] = pa.array(rng.integers(0, vocab, len(final)), pa.int32())
        made[f"{name}_gold_prob"] = rng.random(len(final)).astype(np.float32)
    layer, residual, ffn = tokens["layer"], tokens["residual"], tokens["ffn"]
    kind = np.where(
        layer == residual,
        np.where(layer == ffn, 0, 1),
        np.where(layer == ffn, 2, 3),
    )
    return made | {
        "ffn_residual_rank": pa.array(rng.integers(0, vocab, len(final)), pa.int32()),
        "ffn_residual_prob": rng.random(len(final)).astype(np.float32),
        "changed_without_residual": layer != ffn,
        "n_matching_layer": pa.array(rng.integers(0, 3, len(final)), pa.int32()),
        "n_matching_ffn": pa.array(rng.integers(0, 2, len(final)), pa.int32()),
        "residual_norm_rank": pa.array(rng.integers(0, 3, len(final)), pa.int32()),
        "kind": pa.array([KINDS[i] for i in kind]).dictionary_encode(),
    }


def _value_columns(
    rng: Any,
    tokens: dict[str, Any],
    final: np.ndarray,
    vocab: int,
    coefficients: np.ndarray,
    norms: np.ndarray,
    n: int,
) -> Any:
    rows = len(final)
    made: dict[str, Any] = {}
    for name, token in tokens.items():
        made |= _readings(rng, name, token, final, vocab)
    contributions = np.abs(coefficients) * norms
    top = np.argsort(-contributions, axis=1, kind="stable")[:, :n]

    def ints(values: np.ndarray) -> pa.Array:
        return pa.array(values.tolist(), pa.list_(pa.int32()))

    def floats(values: np.ndarray) -> pa.Array:
        return pa.array(values.tolist(), pa.list_(pa.float32()))

    made |= {
        "ffn_residual_rank": pa.array(rng.integers(0, vocab, rows), pa.int32()),
        "ffn_residual_prob": rng.random(rows).astype(np.float32),
        **{
            f"n_{what}": pa.array(rng.integers(0, 3, rows), pa.int32())
            for what in ("matching_final", "matching_ffn", "matching_gold")
        },
        "n_distinct": pa.array(rng.integers(1, 5, rows), pa.int32()),
        "top_dims": ints(top),
        "top_coefficients": floats(np.take_along_axis(coefficients, top, 1)),
        "top_contributions": floats(np.take_along_axis(contributions, top, 1)),
        "top_tokens": ints(rng.integers(0, vocab, (rows, n))),
        "top_probs": floats(rng.random((rows, n))),
    }
    for name in ("final", "gold", "ffn"):
        made[f"top_{name}_ranks"] = ints(rng.integers(0, vocab, (rows, n)))
        made[f"top_{name}_probs"] = floats(rng.random((rows, n)))
    return made


def _all_columns(rng: Any, coefficients: np.ndarray, norms: np.ndarray, vocab: int) -> Any:
    shape = coefficients.shape
    made: dict[str, Any] = {
        "all_coefficients": pa.array(coefficients.tolist(), pa.list_(pa.float32())),
        "all_contributions": pa.array(
            (np.abs(coefficients) * norms).tolist(), pa.list_(pa.float32())
        ),
        "all_tokens": pa.array(rng.integers(0, vocab, shape).tolist(), pa.list_(pa.int32())),
    }
    for name in ("final", "ffn"):
        ranks = rng.integers(0, vocab, shape).tolist()
        made[f"all_{name}_ranks"] = pa.array(ranks, pa.list_(pa.int32()))
        probs = rng.random(shape).tolist()
        made[f"all_{name}_probs"] = pa.array(probs, pa.list_(pa.float32()))
    return made
