"""EleutherAI's delphi: a cache of latents, as its `LatentDataset` reads it.

https://github.com/EleutherAI/delphi, delphi/latents/cache.py and loader.py.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from pyengine.analyses.trigger_result import TriggerExamples
from pyengine.errors import PyengineError
from pyengine.families import FAMILIES
from pyengine.files import atomic_folder

# delphi takes a smaller activation for none.
SMALLEST = 1e-5
# delphi cuts the sequences into windows, by default of this length, which must divide theirs.
WINDOW = 32
# Ways to spell padding; a run does not say which id its model pads with.
PADS = ("<pad>", "[PAD]", "<|endoftext|>", "</s>")


def export_delphi(triggers: TriggerExamples, folder: Path) -> None:
    """Write `FOLDER/{hookpoint}/0_{d_ff - 1}.safetensors` and `config.json` per layer of the run.

    The latents of a layer are its keys. delphi stores every activation that is not zero (1e-5 or
    more in size); this holds those that the run keeps, minima included, and no other: say
    `min_examples` of at most k, and do not read its frequencies as the corpus's. One sequence per
    unit that the run refers to, its content tokens padded to a multiple of 32; the same sequences
    in every file. The hookpoint is the module, from the model without its head, whose output the
    run holds, such as `h.0.mlp.act` (openai-gpt's blocks share one: a hook on it sees all of them).

    - `locations` uint16 (uint32 if a unit or key needs it) [n, 3]: sequence, position, key;
      ascending by key, best first within it
    - `activations` float16 [n]
    - `tokens` int32 [n_sequences, longest]
    - `units` int64 [n_sequences], `lengths` int32 [n_sequences]: ours; the corpus unit of each
      sequence, and its tokens without padding

    The same run gives the same bytes.

    Raises:
        PyengineError: if an activation is beyond float16, if nothing says which module's output
            the run holds (T5 before the non-linearity), or if the folder exists already and is
            not empty.
    """
    sequences = _sequences(triggers)
    hookpoints = [hookpoint(triggers, layer) for layer in triggers.layers]

    def write(temporary: Path) -> None:
        for row, name in enumerate(hookpoints):
            (temporary / name).mkdir()
            last = triggers.manifest["model"]["d_ff"] - 1
            tensors = {**_latents(triggers, row), **sequences}
            save_file(tensors, temporary / name / f"0_{last}.safetensors")
            config = json.dumps(_config(triggers, sequences["tokens"]), indent=4)
            (temporary / name / "config.json").write_text(f"{config}\n", encoding="utf-8")

    atomic_folder(folder, write)


def hookpoint(triggers: TriggerExamples, layer: int) -> str:
    """Return the path of the module, from the model without its head, whose output a layer holds.

    Raises:
        PyengineError: for T5 before the non-linearity.
    """
    model, value = triggers.manifest["model"], triggers.manifest["question"]["value"]
    stacks = model["stacks"]
    block = stacks[:layer].count(stacks[layer])
    stack = next(s for s in FAMILIES[model["family"]].stacks if s.name == stacks[layer])
    if value == "pre":
        if len(stack.key) > 1:
            raise PyengineError(
                f"delphi names latents by their module, and a run with value=pre of "
                f"{model['family']} does not say which one it is; use a run with value=post"
            )
        return stack.key[0].format(block)
    # What a gated FFN multiplies has no module of its own, but the dropout after it hands it on.
    path = stack.activation if stack.up is None else f"{stack.ffn}.dropout"
    return path.format(block)


def _latents(triggers: TriggerExamples, row: int) -> dict[str, np.ndarray]:
    """Return what a layer keeps, in all directions of the run, each position once."""
    parts = []
    for side in triggers.sides().values():
        units, positions = side.units[row].numpy(), side.positions[row].numpy()
        column, rank = np.nonzero(units >= 0)
        sequence = np.searchsorted(triggers.table.units, units[column, rank])
        key = np.array(side.dims, np.int64)[column]
        places = np.stack([sequence, positions[column, rank], key], axis=1)
        parts.append((places.astype(np.int64), side.scores[row].numpy()[column, rank]))
    places, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
    first = np.sort(np.unique(places, axis=0, return_index=True)[1])
    first = first[np.abs(scores[first]) > SMALLEST]
    places, scores = places[first], scores[first]
    order = np.argsort(places[:, 2], kind="stable")
    small = len(places) == 0 or places.max() < 2**16
    return {
        "locations": places[order].astype(np.uint16 if small else np.uint32),
        "activations": _half(scores[order]),
    }


def _half(scores: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = scores.astype(np.float16)
    beyond = np.isinf(half) & np.isfinite(scores)
    if beyond.any():
        raise PyengineError(f"delphi stores float16, which cannot hold {scores[beyond][0]:g}")
    return half


def _sequences(triggers: TriggerExamples) -> dict[str, np.ndarray]:
    table = triggers.table
    lengths = np.diff(table.offsets)
    longest = -(-int(lengths.max(initial=1)) // WINDOW) * WINDOW
    tokens = np.full((len(lengths), longest), _pad_id(triggers), np.int32)
    tokens[np.arange(longest) < lengths[:, None]] = table.tokens
    return {"tokens": tokens, "units": table.units, "lengths": lengths.astype(np.int32)}


def _pad_id(triggers: TriggerExamples) -> int:
    tokenizer = triggers.text.tokenizer
    ids = [] if tokenizer is None else [tokenizer.token_to_id(pad) for pad in PADS]
    return next((found for found in ids if found is not None), 0)


def _config(triggers: TriggerExamples, tokens: np.ndarray) -> dict[str, Any]:
    """Return delphi's `CacheConfig` with the model's name; `pyengine` is our addition."""
    made, corpus, question = (triggers.manifest[part] for part in ("model", "corpus", "question"))
    return {
        "dataset_repo": corpus["source"],
        "dataset_split": "",
        "dataset_name": "",
        "dataset_column": "",
        "batch_size": 1,
        "cache_ctx_len": tokens.shape[1],
        "n_tokens": tokens.size,
        "n_splits": 1,
        "model_name": made["name"],
        "pyengine": {**question, "pad_id": _pad_id(triggers)},
    }
