"""Attribution the obvious way: the whole model once per node, plain autograd, one prompt at a time.

Shares no code with the engine but the clozes, and runs in the model's own dtype.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from brute_force import DOWN, NON_LINEARITY, apart
from torch import Tensor, nn
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention
from transformers.models.t5.modeling_t5 import T5LayerNorm

from pyengine.cloze import Cloze

OBJECTIVES = ("probability", "log_probability", "logit")
RULES = ("package", "left", "right", "midpoint", "trapezoid", "gauss_legendre")


class Expected(NamedTuple):
    """What one prompt should get: means over its clozes; the probability is their product."""

    scores: Tensor
    change: Tensor
    probability: float


def nodes(rule: str, m: int) -> list[tuple[float, float]]:
    """Return (alpha, weight) of every node."""
    if rule == "gauss_legendre":
        x, w = np.polynomial.legendre.leggauss(m)
        return [(float(a + 1) / 2, float(b) / 2) for a, b in zip(x, w, strict=True)]
    if rule == "trapezoid" and m > 1:
        return [(k / (m - 1), (0.5 if k in (0, m - 1) else 1.0) / (m - 1)) for k in range(m)]
    alphas = {
        "package": lambda k: k / (m - 1) if m > 1 else 0.0,
        "left": lambda k: k / m,
        "right": lambda k: (k + 1) / m,
        "midpoint": lambda k: (k + 0.5) / m,
        "trapezoid": lambda k: 0.5,  # one node
    }
    return [(alphas[rule](k), 1 / m) for k in range(m)]


class Naive:
    """Scores of one model at one kind of coefficient.

    Args:
        hf: the model, in eval mode.
        value: `post` or `pre`.
        special: ids that are no content.
        given: the baseline called `given`, [n_layers, d_ff].
    """

    def __init__(
        self,
        hf: Any,
        value: str = "post",
        special: frozenset[int] = frozenset(),
        given: Tensor | None = None,
    ) -> None:
        self.hf, self.special, self.given = apart(hf), special, given
        templates = (DOWN if value == "post" else NON_LINEARITY)[hf.config.model_type]
        self.sites: list[tuple[bool, nn.Module]] = []
        for in_decoder, template in enumerate(templates):
            for block in range(100):
                try:
                    module = hf.get_submodule(template.format(block))
                except AttributeError:
                    break
                self.sites.append((bool(in_decoder), module))
        self._seen: dict[tuple[Cloze, int], Tensor] = {}
        self._nodes: dict[Any, dict[str, tuple[float, Tensor]]] = {}

    def attribute(
        self,
        items: Sequence[Cloze],
        rule: str,
        steps: int,
        baseline: str = "zero",
        objective: str = "probability",
    ) -> Expected:
        """Return the mean over the clozes of (a − b) Σ w ∂F/∂a (b + α (a − b)), and F(1) − F(0)."""

        def read(cloze: Cloze, layer: int, alpha: float) -> tuple[float, Tensor]:
            return self.node(cloze, layer, baseline, alpha)[objective]

        def score(cloze: Cloze, layer: int) -> Tensor:
            start, end = self.path(cloze, layer, baseline)
            parts = [w * read(cloze, layer, alpha)[1] for alpha, w in nodes(rule, steps)]
            return (end - start) * torch.stack(parts).sum(0)

        def change(cloze: Cloze, layer: int) -> Tensor:
            ends = [read(cloze, layer, alpha)[0] for alpha in (1.0, 0.0)]
            return torch.tensor(ends[0] - ends[1], dtype=torch.float64)

        whole = [self.node(cloze, 0, baseline, 1.0)["probability"][0] for cloze in items]
        return Expected(self._mean(items, score), self._mean(items, change), math.prod(whole))

    def activation(self, items: Sequence[Cloze]) -> Tensor:
        """Return the coefficients themselves, [n_layers, d_ff]."""
        return self._mean(items, lambda cloze, layer: self.path(cloze, layer, "zero")[1])

    def gradient_x_activation(self, items: Sequence[Cloze], objective: str) -> Tensor:
        """Return the coefficient times its gradient in the model as it is."""

        def score(cloze: Cloze, layer: int) -> Tensor:
            gradient = self.node(cloze, layer, "zero", 1.0)[objective][1]
            return self.path(cloze, layer, "zero")[1] * gradient

        return self._mean(items, score)

    def _mean(self, items: Sequence[Cloze], of: Callable[[Cloze, int], Tensor]) -> Tensor:
        rows = [[of(cloze, layer) for layer in range(len(self.sites))] for cloze in items]
        return torch.stack([torch.stack(row) for row in rows]).mean(0)

    def path(self, cloze: Cloze, layer: int, baseline: str) -> tuple[Tensor, Tensor]:
        """Return where the path starts and ends."""
        seen = self.coefficients(cloze, layer)
        end = seen[self.position(cloze, layer)]
        if baseline == "zero":
            return torch.zeros_like(end), end
        if baseline == "given":
            assert self.given is not None
            return self.given[layer].to(end.dtype), end
        return seen[self.content(cloze, layer)].mean(0), end

    def content(self, cloze: Cloze, layer: int) -> list[int]:
        """List the positions that the mean is taken over."""
        if self.sites[layer][0]:
            return list(range(1, len(cloze.decoder_ids)))
        return [i for i, token in enumerate(cloze.input_ids) if token not in self.special]

    def position(self, cloze: Cloze, layer: int) -> int:
        in_decoder = self.sites[layer][0]
        return len(cloze.decoder_ids) - 1 if in_decoder else cloze.position

    def node(
        self, cloze: Cloze, layer: int, baseline: str, alpha: float
    ) -> dict[str, tuple[float, Tensor]]:
        """Return, by objective, its value and its gradient at one point of the path."""
        key = (cloze, layer, baseline, alpha)
        if key not in self._nodes:
            start, end = self.path(cloze, layer, baseline)
            z = (start + alpha * (end - start)).detach().requires_grad_(True)
            logits = self.logits(cloze, layer, z)
            self._nodes[key] = {
                name: _value_and_gradient(logits, cloze.target, name, z) for name in OBJECTIVES
            }
        return self._nodes[key]

    def coefficients(self, cloze: Cloze, layer: int) -> Tensor:
        """Return [T, d_ff] of the model as it is."""
        if (cloze, layer) not in self._seen:

            def take(_module: Any, inputs: tuple[Tensor, ...]) -> None:
                self._seen[cloze, layer] = inputs[0][0].detach().clone()

            handle = self.sites[layer][1].register_forward_pre_hook(take)
            with torch.no_grad():
                self.hf(**self.inputs(cloze))
            handle.remove()
        return self._seen[cloze, layer]

    def logits(self, cloze: Cloze, layer: int, z: Tensor) -> Tensor:
        """Return the logits of the answer when the layer's vector at its position is `z`."""
        at = self.position(cloze, layer)

        def replace(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = inputs[0].clone()
            x[0, at] = z
            return (x, *inputs[1:])

        handle = self.sites[layer][1].register_forward_pre_hook(replace)
        out = self.hf(**self.inputs(cloze)).logits[0]
        handle.remove()
        return out[len(cloze.decoder_ids) - 1 if cloze.decoder_ids else cloze.position]

    def inputs(self, cloze: Cloze) -> dict[str, Tensor]:
        inputs = {"input_ids": torch.tensor([cloze.input_ids])}
        if cloze.decoder_ids:
            inputs["decoder_input_ids"] = torch.tensor([cloze.decoder_ids])
        return inputs


def _value_and_gradient(
    logits: Tensor, target: int, objective: str, z: Tensor
) -> tuple[float, Tensor]:
    read = {
        "probability": lambda: logits.softmax(-1)[target],
        "log_probability": lambda: logits.log_softmax(-1)[target],
        "logit": lambda: logits[target],
    }
    value = read[objective]()
    (gradient,) = torch.autograd.grad(value, z, retain_graph=True)
    return float(value.detach()), gradient


def stay_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep transformers from rounding to float32 inside GPT-Neo's attention and T5's norm."""
    monkeypatch.setattr(GPTNeoSelfAttention, "_attn", _gpt_neo_attention)
    monkeypatch.setattr(T5LayerNorm, "forward", _t5_norm)


def _gpt_neo_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    n_queries, n_keys = query.size(-2), key.size(-2)
    visible = module.bias[:, :, n_keys - n_queries : n_keys, :n_keys]
    weights = query @ key.transpose(-1, -2)
    weights = weights.masked_fill(~visible, torch.finfo(weights.dtype).min)
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(-1)
    return weights @ value, weights


def _t5_norm(module: Any, hidden_states: Tensor) -> Tensor:
    square = hidden_states.pow(2).mean(-1, keepdim=True)
    return module.weight * hidden_states * torch.rsqrt(square + module.variance_epsilon)
