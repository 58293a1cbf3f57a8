"""F, what is attributed, as a function of the last stream, and its gradient there.

The gradient of log p is taken and multiplied with p afterwards: probabilities of 1e-8 do not
underflow on the way through half precision. The logits exist for a block of rows only.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pyengine.models import Model
from pyengine.readout import readout

OBJECTIVES = ("probability", "log_probability", "logit")

# Logits held at once.
BLOCK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 28}


class Answered(NamedTuple):
    """F of R rows.

    Attributes:
        value: [R], F.
        seed: [R, d_model], the gradient of log p (or of the logit) where the output embedding
            reads.
        factor: [R], what that gradient is multiplied with to be F's.
        probability: [R], of the target.
    """

    value: Tensor
    seed: Tensor
    factor: Tensor
    probability: Tensor


class AnswerHead:
    """The final norm and the output head of a model, for one objective.

    Raises:
        PyengineError: for a model without an output head.
    """

    def __init__(self, model: Model, objective: str) -> None:
        self._objective = objective
        self._readout = readout(model, model.layers[-1], final_norm=_has_final_norm(model))
        self._weight = self._readout.weight.to(self._readout.dtype)
        self._block_logits = BLOCK_LOGITS[model.device.type]

    def prepare(self, stream: Tensor) -> Tensor:
        """Return what the output embedding reads, [R, d_model]; differentiable."""
        x = stream.to(self._readout.dtype)
        for step in self._readout.steps:
            x = step(x)
        return x

    @torch.no_grad()
    def answer(self, prepared: Tensor, targets: Tensor) -> Answered:
        """Return F and its gradient.

        Args:
            prepared: [R, d_model].
            targets: int64 [R].
        """
        n_rows = max(1, self._block_logits // len(self._weight))
        blocks = [
            self._block(*block)
            for block in zip(prepared.split(n_rows), targets.split(n_rows), strict=True)
        ]
        return Answered(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))

    def _block(self, x: Tensor, targets: Tensor) -> Answered:
        logits = x @ self._weight.t()
        if self._readout.bias is not None:
            logits += self._readout.bias
        at = targets[:, None]
        logit = logits.gather(1, at)[:, 0]
        # 1 - p is made of the other tokens' shares: p may be all but 1.
        largest = logits.amax(1)
        shares = logits.sub_(largest[:, None]).exp_().scatter_(1, at, 0.0)
        others = shares.sum(1)
        log_p = torch.nn.functional.logsigmoid(logit - largest - others.log())
        probability, one = log_p.exp(), torch.ones_like(logit)
        if self._objective == "logit":
            return Answered(logit, self._weight[targets], one, probability)
        whole = others + (logit - largest).exp()
        # The gradient of log p: W_t - sum of p_v W_v, times -whole.
        seed = shares.scatter_(1, at, -others[:, None]) @ self._weight / -whole[:, None]
        if self._objective == "log_probability":
            return Answered(log_p, seed, one, probability)
        return Answered(probability, seed, probability, probability)


def _has_final_norm(model: Model) -> bool:
    """BERT's last stream has been normalised by its layer."""
    return model.layers[-1].stack.final_norm is not None
