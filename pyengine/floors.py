"""The least that a forward pass can take: arithmetic and memory traffic of a model's body.

FLOP are counted as `torch.utils.flop_counter` counts them: two per weight and token of a matrix,
and of attention two per pair of positions and number of a head for the scores, as many for the
weighted values. The output head is not run over a corpus, and left out.

Traffic is that of eager modules with the fused activation: each reads its inputs and writes its
output once, a matrix n_in + n_out numbers per token, attention 4 x its width (its scores never
leave the chip), the activation 2 d_ff (gated: 3 d_ff), a norm 2 and the addition to the residual
stream 3 d_model. Weights are read once for many tokens; they, embeddings and the norms outside the
layers are left out. Of GPT-2 that makes 38 d_model per layer: 700 kB per token of GPT-2 small in
bfloat16.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from pyengine.families import family_of
from pyengine.layers import Layer, body_of, layers_of
from pyengine.peaks import Peak

# The parts of a body, in order of use.
PARTS = ("projections", "scores", "ffn", "activation", "norms")


@dataclass(frozen=True)
class Cost:
    """What something takes.

    Attributes:
        flops: floating-point operations.
        numbers: read from and written to memory, in the dtype of the model.
    """

    flops: float = 0.0
    numbers: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.numbers + other.numbers)

    def __mul__(self, times: float) -> "Cost":
        return Cost(self.flops * times, self.numbers * times)

    def seconds(self, peak: Peak, itemsize: int) -> float:
        """Return the longer of computing and moving: either may hide the other."""
        return max(self.flops / peak.flops, self.numbers * itemsize / peak.bytes)


class Matrix(NamedTuple):
    """A matrix that is applied to every token."""

    n_in: int
    n_out: int

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        weight: Any = module.weight
        n_in, n_out = weight.shape if type(module).__name__ == "Conv1D" else weight.shape[::-1]
        return cls(int(n_in), int(n_out))

    @property
    def cost(self) -> Cost:
        """Per token."""
        return Cost(2 * self.n_in * self.n_out, self.n_in + self.n_out)


@dataclass(frozen=True)
class Attention:
    """One attention of a layer.

    Attributes:
        queries: matrices applied to the layer's own tokens: queries and output, of self-attention
            also keys and values.
        keys: keys and values of cross-attention, applied to the encoder's tokens.
        width: heads x width of a head.
        causal: whether a position sees only those up to itself.
        window: of those only the last so many; None: all.
    """

    queries: tuple[Matrix, ...]
    keys: tuple[Matrix, ...]
    width: int
    causal: bool
    window: int | None

    def costs(self, own: np.ndarray, other: np.ndarray, every_pair: bool) -> dict[str, Cost]:
        """Return what it takes over units of `own` tokens; cross-attention reads `other`."""
        n = int(own.sum())
        m = int(other.sum()) if self.keys else n
        seen = own * other if self.keys else own * own
        if self.causal and not every_pair:
            reach = own if self.window is None else np.minimum(own, self.window)
            seen = reach * (reach + 1) // 2 + (own - reach) * reach
        products = sum((matrix.cost for matrix in self.queries), Cost()) * n
        products += sum((matrix.cost for matrix in self.keys), Cost()) * m
        scores = Cost(4 * self.width * int(seen.sum()), 2 * self.width * (n + m))
        return {"projections": products, "scores": scores}


@dataclass(frozen=True)
class LayerShape:
    """The sizes of a layer.

    Attributes:
        stack: `encoder` or `decoder`.
        attentions: in order.
        ffn: its matrices, the value matrix last.
        d_model: width of the residual stream.
        norm_last: whether a norm follows the last addition (BERT).
    """

    stack: str
    attentions: tuple[Attention, ...]
    ffn: tuple[Matrix, ...]
    d_model: int
    norm_last: bool

    def costs(self, own: np.ndarray, other: np.ndarray, every_pair: bool) -> dict[str, Cost]:
        """Return what each part takes over units of `own` tokens."""
        n = int(own.sum())
        found = {
            "ffn": sum((matrix.cost for matrix in self.ffn), Cost()) * n,
            "activation": Cost(0, len(self.ffn) * self.ffn[-1].n_in * n),
            "norms": Cost(0, 5 * self.d_model * (len(self.attentions) + 1) * n),
        }
        return added([found, *(each.costs(own, other, every_pair) for each in self.attentions)])

    def after_activation(self, own: np.ndarray) -> dict[str, Cost]:
        """Return what comes after the activation: value matrix, addition, perhaps a norm."""
        n = int(own.sum())
        numbers = (5 if self.norm_last else 3) * self.d_model
        return {"ffn": self.ffn[-1].cost * n, "norms": Cost(0, numbers * n)}


@dataclass(frozen=True)
class BodyShape:
    """The sizes of a model's body.

    Attributes:
        layers: all of them, T5's encoder before its decoder.
    """

    layers: tuple[LayerShape, ...]

    @classmethod
    def of(cls, hf: PreTrainedModel) -> "BodyShape":
        """Read the sizes off a model of a known family; one on the meta device will do."""
        family, body = family_of(hf.config), body_of(hf)
        return cls(tuple(_layer_shape(hf, body, layer) for layer in layers_of(family, body)))

    def costs(
        self,
        lengths: Sequence[int] | np.ndarray,
        decoder_lengths: Sequence[int] | np.ndarray | None = None,
        *,
        every_pair: bool = False,
        to_last_activation: bool = False,
    ) -> dict[str, Cost]:
        """Return what each of `PARTS` takes over some units.

        Args:
            lengths: tokens of each unit in the first stack, special tokens included.
            decoder_lengths: of each unit in the decoder of an encoder-decoder; None: it is not run.
            every_pair: count every pair of positions, as eager attention computes them, instead of
                those that a mask leaves.
            to_last_activation: end there, as a search for trigger examples does.
        """
        first = np.asarray(lengths, np.int64)
        read = {self.layers[0].stack: first}
        if decoder_lengths is not None:
            read["decoder"] = np.asarray(decoder_lengths, np.int64)
        run = [layer for layer in self.layers if layer.stack in read]
        costs = [layer.costs(read[layer.stack], first, every_pair) for layer in run]
        if to_last_activation:
            after = run[-1].after_activation(read[run[-1].stack])
            costs.append({part: cost * -1 for part, cost in after.items()})
        return added(costs)


def added(costs: Iterable[Mapping[str, Cost]]) -> dict[str, Cost]:
    """Add costs up by part."""
    total = dict.fromkeys(PARTS, Cost())
    for each in costs:
        for part, cost in each.items():
            total[part] += cost
    return total


def whole(costs: dict[str, Cost]) -> Cost:
    """Add up all parts."""
    return sum(costs.values(), Cost())


def _layer_shape(hf: PreTrainedModel, body: nn.Module, layer: Layer) -> LayerShape:
    stack, up = layer.stack, layer.up(body)
    inputs = [layer.key(body)] if up is None else [layer.key(body), up]
    ffn = [Matrix.of(module) for module in (*inputs, layer.module(body, stack.value))]
    windows = getattr(hf.config, "attention_layers", None)  # GPT-Neo's
    local = windows is not None and windows[layer.block] == "local"
    found = []
    for number, (parts, out) in enumerate(zip(stack.projections, stack.attention, strict=True)):
        first, *others = (Matrix.of(layer.module(body, part)) for part in parts)
        output = Matrix.of(layer.module(body, out))
        crossed = number > 0
        own, keys = ((first, output), tuple(others)) if crossed else ((first, *others, output), ())
        causal = stack.causal and not crossed
        window = int(hf.config.window_size) if local else None
        found.append(Attention(own, keys, output.n_in, causal, window))
    return LayerShape(
        stack.name, tuple(found), tuple(ffn), ffn[-1].n_out, norm_last=stack.final_norm is None
    )
