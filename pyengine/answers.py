"""What a model answers: the target's probability and rank, and its own best token."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyengine.cloze import Cloze, batch_clozes
from pyengine.forward import Forward, to_device
from pyengine.models import Model
from pyengine.readout import readout


class Answers(NamedTuple):
    """What a model says at n clozes; tensors on the CPU, float32 (float64 models: float64).

    Attributes:
        probability: [n], of the target.
        rank: int64 [n], of the target; 0 is the best.
        top_token: int64 [n], the model's own best token; ties: the lower id.
        top_probability: [n].
    """

    probability: Tensor
    rank: Tensor
    top_token: Tensor
    top_probability: Tensor


@torch.inference_mode()
def answers(model: Model, items: Sequence[Cloze], forward: Forward | None = None) -> Answers:
    """Run the clozes as one batch.

    Args:
        model: the model.
        items: at least one.
        forward: a copy of the model that something was done to; None: the model as it is.

    Raises:
        PyengineError: for a model without an output head.
    """
    batch = batch_clozes(model, items)
    stack = model.family.stacks[-1]
    hidden = (forward or Forward(model)).run(batch.batch, batch.decoder)
    device = hidden.device
    positions = to_device(batch.positions[stack.name], device)
    at = hidden[torch.arange(len(hidden), device=device), positions]
    # The final norm, where there is one, is behind us.
    targets = to_device(batch.targets, device)[:, None]
    found = readout(model, model.layers[-1], final_norm=False).project(at, targets=targets)
    columns = (
        found.target_probs[:, 0],
        found.target_ranks[:, 0],
        found.top_ids[:, 0],
        found.top_probs[:, 0],
    )
    return Answers(*(column.cpu() for column in columns))
