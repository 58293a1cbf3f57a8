"""How a vector of the residual stream is read as a distribution over the vocabulary.

logits = W · f(h) + b, where f is, as asked: nothing (Geva et al. 2021, §4: softmax(v · E)), the
final norm ("logit lens"), and the model's own output head. Norms and heads run in float32 also
where the model is in half precision.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyengine.checks import check_choice
from pyengine.errors import PyengineError
from pyengine.layers import Layer
from pyengine.models import Model
from pyengine.vocab_project import Projection, vocab_project

HEADS = ("full", "embedding")


@dataclass(frozen=True, eq=False)
class Readout:
    """A way to read vectors of one stack of a model.

    Attributes:
        weight: [vocab_size, d_model], the output embedding, in the model's dtype (ELECTRA-small's
            is narrower: as wide as what the head's transform leaves).
        bias: [vocab_size], or None.
        steps: what is done to a vector before, in this order.
        dtype: of the computation, float32 or float64.
    """

    weight: Tensor
    bias: Tensor | None
    steps: tuple[Callable[[Tensor], Tensor], ...]
    dtype: torch.dtype

    @torch.no_grad()
    def prepare(self, hidden: Tensor) -> Tensor:
        """Return what is multiplied with the output embedding, [R, d_model]."""
        if not self.steps:
            return hidden
        x = hidden.to(self.dtype)
        for step in self.steps:
            x = step(x)
        return x

    def project(self, hidden: Tensor, *, targets: Tensor | None = None, m: int = 1) -> Projection:
        """Read [R, d_model]; see `pyengine.ops.vocab_project` for targets and m."""
        x = self.prepare(hidden)
        return vocab_project(x, self.weight, self.bias, targets=targets, m=m)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return all logits of a few rows, [R, vocab_size], float32 or float64."""
        logits = self.prepare(hidden).to(self.dtype) @ self.weight.to(self.dtype).t()
        return logits if self.bias is None else logits + self.bias


def readout(model: Model, layer: Layer, *, final_norm: bool, head: str = "full") -> Readout:
    """Return how to read the vectors of a layer.

    Args:
        model: the model.
        layer: one of `model.layers`; matters for encoder-decoders, and for BERT's norm.
        final_norm: put the vector through the norm that ends the layer's stack. BERT, which has
            none, normalises after every layer: there it is the layer's own output norm.
        head: `full`, the model's output head (BERT: its transform, and the bias), or `embedding`,
            the bare output embedding. T5 scales the vector where its configuration says so, in
            both.

    Raises:
        PyengineError: for an unknown head, `full` where the model has no output head, or
            `embedding` where that is narrower than the residual stream (ELECTRA-small).
    """
    check_choice("head", head, HEADS)
    dtype = torch.float64 if model.dtype == "float64" else torch.float32
    unembedding = _submodule(model.hf, model.family.unembedding)
    steps: list[Callable[[Tensor], Tensor]] = []
    if final_norm:
        part = layer.stack.final_norm or layer.stack.norms[-1]
        steps.append(_widened(layer.module(model.body, part), dtype))
    if head == "full":
        _check_head(model, unembedding)
        if model.family.head_transform is not None:
            steps.append(_widened(model.hf.get_submodule(model.family.head_transform), dtype))
    if getattr(model.config, "scale_decoder_outputs", False):
        scale = model.config.d_model**-0.5
        steps.append(lambda x: x * scale)
    if head == "embedding":
        return Readout(_embedding(model, unembedding), None, tuple(steps), dtype)
    own: Any = unembedding
    bias = getattr(own, "bias", None)
    bias = None if bias is None else bias.detach().to(dtype)
    return Readout(own.weight.detach(), bias, tuple(steps), dtype)


def _embedding(model: Model, unembedding: Any) -> Tensor:
    """Return the output embedding, [vocab_size, d_model]; without one, the token embedding."""
    random = f"{model.family.unembedding}.weight" in model.absent
    own = _token_embedding(model) if unembedding is None or random else unembedding
    if not _is_wide(model, own):
        raise PyengineError(
            f"the embedding of {model.name} is narrower than its residual stream: only "
            "head='full' reads that, through the head's own transform"
        )
    weight: Tensor = own.weight.detach()
    return weight


def _check_head(model: Model, unembedding: nn.Module | None) -> None:
    if unembedding is not None and not model.random_head:
        return
    why = f"{model.name} has no output head"
    if unembedding is not None:
        why = f"the checkpoint of {why} ({model.random_head} is missing)"
    if _is_wide(model, _token_embedding(model)):
        why += "; head='embedding' reads through its token embedding"
    raise PyengineError(why)


def _token_embedding(model: Model) -> Any:
    return model.body.get_submodule(model.family.embedding)


def _is_wide(model: Model, embedding: Any) -> bool:
    """Say whether an embedding is as wide as the residual stream; ELECTRA-small's is not."""
    return bool(embedding.weight.shape[1] == model.values(0).shape[1])


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _widened(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return the module in `dtype`; a copy, where the model is in half precision."""
    if all(parameter.dtype == dtype for parameter in module.parameters()):
        return module
    return copy.deepcopy(module).to(dtype)
