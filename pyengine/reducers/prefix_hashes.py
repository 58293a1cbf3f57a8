"""A number for each token prefix of a batch, by which equal prefixes are recognised."""

import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.reducers.competing import Places


def prefix_hashes(token_ids: Tensor | None, places: Places) -> Tensor:
    """Return a 64-bit hash, int64 [B, T], of the admitted tokens up to and including each place.

    The sum, modulo 2**64, of a well mixed number for each (position, token): two different
    prefixes share a hash with a probability of about 2**-64. Padding adds nothing.

    Raises:
        PyengineError: without token_ids, or for rows that do not start at position 0.
    """
    if token_ids is None:
        raise PyengineError("per='prefix' needs token_ids, to recognise equal prefixes")
    order = places.admitted.cumsum(1)
    first = places.positions[places.admitted & (order == 1)]
    if first.any():
        raise PyengineError(
            f"per='prefix' needs whole units: a row starts at position {int(first.max())}, not 0"
        )
    tokens = token_ids.to(order.device, torch.int64)
    return torch.where(places.admitted, _mix(tokens + order * -0x61C8864680B583EB), 0).cumsum(1)


def _mix(x: Tensor) -> Tensor:
    """Return 64 bits that each depend on all bits of `x`: SplitMix64 (Steele et al. 2014).

    torch's int64 wraps around, as it should; its shift repeats the sign, which is masked.
    """
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & (2**33 - 1))
