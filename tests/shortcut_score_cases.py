"""Tiny models with maps solved by NumPy, and the scores of them the obvious way, in float64."""

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from tiny_models import VOCAB, tiny_model
from torch import Tensor

import pyengine
from pyengine.shortcuts.fit import fit_shortcuts
from pyengine.shortcuts.linear_map import LinearMap
from pyengine.shortcuts.points import points_of
from pyengine.shortcuts.result import Shortcuts
from pyengine.shortcuts.validation import Validation
from pyengine.units import UnitTable

BLOCKS = {
    ("gpt2", "decoder"): "transformer.h",
    ("gpt_neo", "decoder"): "transformer.h",
    ("openai-gpt", "decoder"): "transformer.h",
    ("bert", "encoder"): "bert.encoder.layer",
    ("electra", "encoder"): "electra.encoder.layer",
    ("t5", "encoder"): "encoder.block",
    ("t5", "decoder"): "decoder.block",
}
N_TRAIN, N_VALIDATION, LENGTH = 90, 40, 9


@dataclass
class Case:
    """A model, maps of one stack, and the training rows [n, L + 1, d]."""

    model: Any
    shortcuts: Shortcuts
    train: Tensor

    @property
    def held(self) -> Tensor:
        return self.shortcuts.validation().states


def own_stack(family: str) -> str:
    return "encoder" if family in ("bert", "electra") else "decoder"


def case(family: str, stack: str | None = None, pairs: str = "last", **overrides: Any) -> Case:
    """Fit `mat` and `affine` by NumPy on one random token of random sentences."""
    hf = tiny_model(family, **overrides)
    stack = stack or own_stack(family)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, VOCAB, (N_TRAIN + N_VALIDATION, LENGTH), generator=generator)
    positions = torch.randint(0, LENGTH, (len(ids),), generator=generator)
    states = stream(hf, stack, ids)[torch.arange(len(ids)), positions]
    train, held = states[:N_TRAIN], states[N_TRAIN:]
    model = pyengine.load(hf)
    points = points_of(model, stack)
    maps, bases, means = {}, {}, {}
    for i, j in points.pairs(pairs):
        maps[i, j] = solved(train[:, i], train[:, j])
        for kind, mapping in maps[i, j].items():
            outputs = mapping(train[:, i]).double()
            outputs = outputs if kind == "mat" else outputs - outputs.mean(0)
            basis = torch.linalg.svd(outputs, full_matrices=False).Vh.t()
            bases[stack, i, kind] = basis.float()
            if mapping.bias is not None:
                means[stack, i, kind] = mapping(train[:, i]).mean(0) - mapping.bias
    units = torch.arange(N_VALIDATION) + 1000
    tokens = ids[N_TRAIN:].numpy().astype(np.int32)
    offsets = np.arange(N_VALIDATION + 1) * LENGTH
    table = UnitTable(units.numpy(), offsets[:-1], offsets, tokens.ravel())
    validation = Validation(held, units, positions[N_TRAIN:], table)
    shortcuts = Shortcuts.from_maps(
        model,
        {stack: points},
        {stack: maps},
        {stack: validation},
        bases=bases,
        means=means,
        pairs=pairs,
    )
    return Case(model, shortcuts, train)


def stream(hf: Any, stack: str, ids: Tensor) -> Tensor:
    """Return x_0 … x_L of every token, [B, T, L + 1, d], by hooks on the blocks."""
    blocks = hf.get_submodule(BLOCKS[hf.config.model_type, stack])
    seen: list[Tensor] = []
    handles = [block.register_forward_pre_hook(lambda _, x: seen.append(x[0])) for block in blocks]

    def last(_module: Any, _inputs: Any, out: Any) -> None:
        seen.append(out[0] if isinstance(out, tuple | list) else out)

    handles.append(blocks[-1].register_forward_hook(last))
    run(hf, ids)
    for handle in handles:
        handle.remove()
    return torch.stack(seen, 2)


def run(hf: Any, ids: Tensor) -> Tensor:
    """Return the model's own logits."""
    more = {"decoder_input_ids": ids} if hf.config.model_type == "t5" else {}
    with torch.no_grad():
        logits: Tensor = hf(input_ids=ids, **more).logits
    return logits


def solved(x: Tensor, y: Tensor) -> dict[str, LinearMap]:
    """Return the least-squares maps of both kinds, in float64 by LAPACK's SVD."""
    a, b = x.double().numpy(), y.double().numpy()
    plain = np.linalg.lstsq(a, b, rcond=None)[0]
    full = np.linalg.lstsq(np.c_[a, np.ones(len(a))], b, rcond=None)[0]

    def tensor(array: np.ndarray) -> Tensor:
        return torch.tensor(array, dtype=torch.float32)

    return {
        "mat": LinearMap(tensor(plain.T)),
        "affine": LinearMap(tensor(full[:-1].T), tensor(full[-1])),
    }


class Oracle:
    """The head of a model in float64, and every metric from whole distributions."""

    def __init__(self, hf: Any) -> None:
        self.hf = copy.deepcopy(hf).double()

    def logits(self, h: Tensor) -> np.ndarray:
        """Read [n, d] states of the last layer, before any final norm."""
        hf, h = self.hf, h.double()
        with torch.no_grad():
            if hf.config.model_type == "bert":
                logits = hf.cls(h)
            elif hf.config.model_type == "electra":
                logits = hf.generator_lm_head(hf.generator_predictions(h))
            elif hf.config.model_type == "openai-gpt":
                logits = hf.lm_head(h)
            elif hf.config.model_type == "t5":
                h = hf.decoder.final_layer_norm(h)
                scaled = getattr(hf.config, "scale_decoder_outputs", False)
                logits = hf.lm_head(h * hf.config.d_model**-0.5 if scaled else h)
            else:
                logits = hf.lm_head(hf.transformer.ln_f(h))
        found: np.ndarray = logits.numpy()
        return found

    def scores(self, last: Tensor, mapped: Tensor) -> dict[str, np.ndarray]:
        final, found = (log_softmax(self.logits(h)) for h in (last, mapped))
        rows = np.arange(len(final))
        order, own = (np.argsort(-x, axis=1, kind="stable") for x in (found, final))
        best, p = order[:, 0], np.exp(found)
        return {
            "top_tokens": order[:, :10],
            "surprisal": -final[rows, best],
            "kl": (np.exp(final) * (final - found)).sum(1),
            "entropy": -(p * found).sum(1),
            "rank": (order == own[:, :1]).argmax(1),
            "confidence": p[rows, best],
            "gap": p[rows, best] - p[rows, order[:, 1]],
            "place": np.minimum((own == best[:, None]).argmax(1), 10),
        }


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def corpus(n: int = 160) -> Any:
    """Return random units of 3 to 8 tokens."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 9, n)
    return pyengine.Corpus.from_token_ids(
        [generator.integers(4, VOCAB, k).tolist() for k in lengths]
    )


@cache
def fitted(family: str = "gpt2", **settings: Any) -> tuple[Any, Shortcuts]:
    """Return a tiny model, and maps that were fitted on `corpus`."""
    model = pyengine.load((tiny_model(family), None))
    settings |= {"mask": False} if own_stack(family) == "encoder" else {}
    return model, fit_shortcuts(model, corpus(), **settings)


def of(table: pa.Table, **wanted: Any) -> pa.Table:
    """Return the rows with these values."""
    for name, value in wanted.items():
        table = table.filter(pc.field(name) == value)
    return table


def values(table: pa.Table, name: str) -> np.ndarray:
    """Return a column."""
    found: np.ndarray = table[name].to_numpy()
    return found
