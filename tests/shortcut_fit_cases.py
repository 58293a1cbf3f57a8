"""Fits of tiny models of every family, and the states that they should have seen."""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attribution_cases import tiny
from torch import Tensor

import pyengine
from pyengine.corpus import Corpus
from pyengine.shortcuts.fit import fit_shortcuts
from pyengine.shortcuts.linear_map import LinearMap
from pyengine.shortcuts.result import Shortcuts
from pyengine.shortcuts.sample import Draw, Sample
from pyengine.store import TokenStore

SMALL: dict[str, Any] = {"batch_tokens": 64, "block_tokens": 40}
N_UNITS = 60

loaded = cache(tiny)


def texts(n: int = N_UNITS, seed: int = 0) -> list[str]:
    """Draw texts of 1 to 13 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{i}" for i in rng.integers(0, 80, rng.integers(1, 14))) for _ in range(n)]


def fitted(family: str = "gpt2", out: Path | None = None, **more: Any) -> Shortcuts:
    """Fit a tiny model over `texts`."""
    model = loaded(family, more.pop("dtype", torch.float64))
    return fit_shortcuts(model, Corpus.from_texts(texts()), out=out, **SMALL | more)


def sample(model: pyengine.Model, store: TokenStore, shortcuts: Shortcuts) -> Sample:
    """Draw again what a fit has drawn."""
    question = shortcuts.manifest["question"]
    names = ("tokens", "seed", "n_train", "n_validation", "skip_first", "special")
    around = {stack: surrounded(model, stack) for stack in shortcuts.stacks}
    draw = Draw(**{name: question[name] for name in names})
    return Sample.of(store, draw, around, causal=model.family.causal)


def surrounded(model: pyengine.Model, stack: str) -> tuple[int, int]:
    """Count the special tokens around a unit."""
    if model.family.model_type in ("bert", "electra"):
        return 1, 1
    if model.family.model_type == "t5":
        return (0, 1) if stack == "encoder" else (1, 0)
    return 0, 0


def states_at(
    model: pyengine.Model,
    shortcuts: Shortcuts,
    stack: str,
    places: Iterable[tuple[Sequence[int], int]],
) -> Tensor:
    """Return [n, P, d], the states of units at one position each; units are run without padding."""
    special, mask_id = model.special_tokens(), shortcuts.manifest["question"]["mask_id"]
    before = 0 if model.family.causal else 1 if stack == "decoder" else len(special.prefix)
    asked = []
    for tokens, position in places:
        ids = [*special.prefix, *tokens, *special.suffix]
        if mask_id is not None:
            ids[before + position] = mask_id
        asked.append((tuple(ids), tuple(tokens), before + position))
    runs = {(ids, tokens): torch.empty(0) for ids, tokens, _ in asked}
    for length in {len(ids) for ids, _ in runs}:
        alike = [key for key in runs if len(key[0]) == length]
        inputs = {"input_ids": torch.tensor([ids for ids, _ in alike])}
        if model.family.encoder_decoder:
            inputs["decoder_input_ids"] = torch.tensor(
                [[model.decoder_start_id, *tokens] for _, tokens in alike]
            )
        names = shortcuts.points(stack).names
        _, cache = pyengine.run_with_cache(model, inputs, list(names), return_type=None)
        runs |= zip(alike, torch.stack([cache[name] for name in names], dim=2), strict=True)
    return torch.stack([runs[ids, tokens][column] for ids, tokens, column in asked])


def lstsq(x: Tensor, y: Tensor, affine: bool) -> tuple[Tensor, Tensor | None]:
    """Solve y ≈ A x + b by NumPy, A of least norm; return A and b."""
    x_mean, y_mean = (rows.mean(0) if affine else torch.zeros_like(rows[0]) for rows in (x, y))
    found = np.linalg.lstsq((x - x_mean).numpy(), (y - y_mean).numpy(), rcond=2.0**-21)[0]
    weight = torch.from_numpy(found).t()
    return weight, y_mean - weight @ x_mean if affine else None


def weight(found: LinearMap) -> Tensor:
    """Return the matrix of a map that is not the identity."""
    assert found.weight is not None
    return found.weight
