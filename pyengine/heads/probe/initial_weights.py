"""Where every probe begins: the weights that torch.nn.Linear draws after torch.manual_seed(seed).

They are drawn on the CPU from a generator of our own, layer after layer, so that neither the device
nor what else draws numbers in the process has a part in them.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn


def initial_weights(widths: Sequence[int], generator: Generator) -> list[Tensor]:
    """Draw the layers of one probe.

    Args:
        widths: of the input, of hidden layers, of the output.
        generator: on the CPU, freshly seeded; later draws (dropout) go on from where this ends.

    Returns:
        One float32 [n_out, n_in + 1] per layer, the bias in the last column.
    """
    return [_linear(*pair, generator) for pair in pairwise(widths)]


def _linear(n_in: int, n_out: int, generator: Generator) -> Tensor:
    weight, bias = torch.empty(n_out, n_in), torch.empty(n_out)
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(n_in)
    bias.uniform_(-bound, bound, generator=generator)
    return torch.cat([weight, bias[:, None]], dim=1)
