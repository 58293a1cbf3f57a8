"""What an attribution finds for a batch of clozes, before target tokens are averaged."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class ClozeScores:
    """Scores of P clozes by layer, on the model's device; see `Attribution`.

    Attributes:
        scores: [n_layers, P, d_ff].
        completeness, change: [n_layers, P].
        nodes: int32 [n_layers, P], on the CPU.
        converged: bool [n_layers, P], on the CPU.
        probability: [P], of the answer.
    """

    scores: Tensor
    completeness: Tensor
    change: Tensor
    nodes: Tensor
    converged: Tensor
    probability: Tensor
