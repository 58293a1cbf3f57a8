"""Linear shortcuts the obvious way: plain Hugging Face and hooks, one sentence at a time, NumPy.

The procedure of "Jump to Conclusions" (arXiv 2303.09435) in float64; shares no code with the
package. scikit-learn's LinearRegression(fit_intercept=False) hands its problem to LAPACK's gelsd
with its `tol` as the cut-off; numpy.linalg.lstsq calls the same routine, here with that cut-off.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

RCOND = 1e-6  # scikit-learn 1.9's `tol`

# Per family and stack: the blocks.
BLOCKS = {
    "gpt2": {"decoder": "transformer.h"},
    "gpt_neo": {"decoder": "transformer.h"},
    "bert": {"encoder": "bert.encoder.layer"},
    "t5": {"encoder": "encoder.block", "decoder": "decoder.block"},
}

LAMBDAS = (-1.112, *(step / 10 for step in range(11)), 1.112)


class Procedure:
    """Reads representations off a model and turns them into distributions, in float64.

    Args:
        hf: the model; a copy is widened.
        mask: id that replaces the chosen token, or None.
    """

    def __init__(self, hf: Any, mask: int | None = None) -> None:
        self.hf, self.mask = copy.deepcopy(hf).double().eval(), mask
        self.family = hf.config.model_type

    def states(self, stack: str, tokens: Sequence[int], column: int) -> Array:
        """Return x_0 … x_L [L + 1, d] at a column of what the stack reads.

        Args:
            stack: `encoder` or `decoder`.
            tokens: what the model's first stack reads, special tokens included.
            column: of that stack's input; T5's decoder begins with its start token.
        """
        blocks = list(self.hf.get_submodule(BLOCKS[self.family][stack]))
        seen: list[Tensor] = []
        handles = [
            block.register_forward_pre_hook(
                lambda _module, args, kwargs: seen.append(args[0] if args else kwargs["x"]),
                with_kwargs=True,
            )
            for block in blocks
        ]
        handles.append(blocks[-1].register_forward_hook(lambda _m, _a, out: seen.append(out)))
        alone = self.family == "t5" and stack == "encoder"
        with torch.no_grad():
            if alone:
                self.hf.encoder(input_ids=torch.tensor([list(tokens)]))
            else:
                self.hf(**self._inputs(list(tokens), column))
        for handle in handles:
            handle.remove()
        found = [value[0] if isinstance(value, tuple) else value for value in seen]
        return np.stack([value[0, column].numpy() for value in found])

    def logits(self, h: Array) -> Array:
        """Read vectors [R, d] of the last layer, before any final norm, as logits [R, V]."""
        x, hf = torch.from_numpy(h), self.hf
        with torch.no_grad():
            if self.family == "bert":
                return hf.cls.predictions(x).numpy()
            if self.family == "t5":
                x = hf.decoder.final_layer_norm(x)
                scale = hf.config.d_model**-0.5 if hf.config.scale_decoder_outputs else 1.0
                return hf.lm_head(x * scale).numpy()
            return hf.lm_head(hf.transformer.ln_f(x)).numpy()

    def _inputs(self, tokens: list[int], column: int) -> dict[str, Tensor]:
        """Cut behind the token where nothing after it matters; put the mask in its place."""
        if self.family.startswith("gpt"):
            return {"input_ids": torch.tensor([tokens[: column + 1]])}
        if self.mask is not None:
            tokens[column] = self.mask
        inputs = {"input_ids": torch.tensor([tokens])}
        if self.family == "t5":
            start = self.hf.config.decoder_start_token_id
            inputs["decoder_input_ids"] = torch.tensor([[start, *tokens[:-1]]])
        return inputs


def linear_regression(x: Array, y: Array, rcond: float = RCOND) -> Array:
    """Return A [d_y, d_x] that minimises the sum of |A x - y|²; the smallest where many do."""
    return np.asarray(np.linalg.lstsq(x, y, rcond=rcond)[0].T, np.float64)


def affine_regression(x: Array, y: Array, rcond: float = RCOND) -> tuple[Array, Array]:
    """Return A and b that minimise the sum of |A x + b - y|²."""
    a = linear_regression(x - x.mean(0), y - y.mean(0), rcond)
    return a, y.mean(0) - a @ x.mean(0)


def condition(x: Array) -> float:
    """Return the largest singular value over the smallest."""
    values = np.linalg.svd(x, compute_uv=False)
    return float(values[0] / values[-1])


def r2(predicted: Array, actual: Array) -> float:
    """Average 1 - SSE/SST over coordinates; a constant one counts 1 if hit exactly, else 0."""
    scores = []
    for column in range(actual.shape[1]):
        p, y = predicted[:, column], actual[:, column]
        mean = math.fsum(y) / len(y)
        sse = math.fsum((p - y) ** 2)
        sst = math.fsum((y - mean) ** 2)
        scores.append(1 - sse / sst if sst else float(sse == 0))
    return math.fsum(scores) / len(scores)


def top(logits: Array, k: int) -> list[int]:
    """Return the ids of the k largest logits, ties in favour of the lower id."""
    found: list[int] = np.argsort(-logits, kind="stable")[:k].tolist()
    return found


def softmax(logits: Array) -> Array:
    """Return probabilities of a row of logits."""
    weights: Array = np.exp(logits - logits.max())
    return weights / weights.sum()


def score(approximate: Array, final: Array) -> dict[str, float]:
    """Compare rows of logits [R, V] with the model's own: Precision@k and surprisal, averaged."""
    rows = []
    for guess, own in zip(approximate, final, strict=True):
        token, best = top(guess, 1)[0], top(own, 10)
        row = {f"hit@{k}": float(token in best[:k]) for k in (1, 5, 10)}
        rows.append(row | {"surprisal": -math.log(softmax(own)[token])})
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}


def threshold(layer: int, position: float, mean_length: float, lam: float) -> float:
    """Return the gap that an exit at a layer has to exceed (CALM)."""
    if layer < 1:
        return 2.0
    return 0.9 * lam + 0.1 * math.exp(-4 * position / mean_length)


def exit_layer(
    logits: Sequence[Array], position: float, mean_length: float, lam: float
) -> tuple[int, int]:
    """Go up layer by layer until the two best tokens lie far enough apart.

    Args:
        logits: the mapped logits [V] of each layer; what the last one says is taken.
        position: of the token, from 0.
        mean_length: N, of all validation sentences.
        lam: λ.

    Returns:
        The layer, and the token that is then said.
    """
    n_layers = len(logits) - 1
    for layer, row in enumerate(logits[:-1]):
        first, second = np.sort(softmax(row))[::-1][:2]
        if first - second > threshold(layer, position, mean_length, lam):
            return layer, top(row, 1)[0]
    return n_layers, top(logits[-1], 1)[0]
