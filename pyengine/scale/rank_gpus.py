"""Which GPU a rank computes on: one of its own."""

import torch

from pyengine.errors import PyengineError
from pyengine.scale.rank_group import Ranks


def tell_gpu(ranks: Ranks) -> None:
    """Tell the ranks of this machine which GPU this one sees, if it sees one alone.

    All ranks call this before any calls `own_device`, which waits for them.
    """
    if ranks.n_local > 1:
        ranks.tell(_name(ranks, ranks.local), _only_gpu())


def own_device(asked: str, ranks: Ranks) -> str:
    """Give each rank of a machine its own GPU.

    torchrun lets every rank see all GPUs; `srun --gpus-per-task 1` shows each its own.

    Args:
        asked: `auto`, `cuda` or `cpu`.
        ranks: as this one sees them.

    Returns:
        The device to load the model on.

    Raises:
        PyengineError: if one GPU is named, or this rank has none of its own.
    """
    if asked.startswith("cuda:"):
        raise PyengineError(
            f"device {asked!r} names one GPU, but every rank takes its own; say 'cuda'"
        )
    if asked not in ("auto", "cuda") or not torch.cuda.is_available():
        return asked
    n_devices = torch.cuda.device_count()
    if n_devices == 1 and ranks.n_local > 1 and _all_differ(ranks):
        return "cuda:0"
    if ranks.local >= n_devices:
        raise PyengineError(
            f"rank {ranks.local} of this machine has no GPU of its own: torch sees {n_devices}; "
            f"use --nproc-per-node {n_devices}"
        )
    return f"cuda:{ranks.local}"


def _all_differ(ranks: Ranks) -> bool:
    seen = [ranks.hear(_name(ranks, local)) for local in range(ranks.n_local)]
    return all(seen) and len(set(seen)) == len(seen)


def _name(ranks: Ranks, local: int) -> str:
    return f"gpu/{ranks.machine}/{local}"


def _only_gpu() -> str:
    """Return what identifies the only GPU that is visible; nothing where there is not just one."""
    if not torch.cuda.is_available() or torch.cuda.device_count() != 1:
        return ""
    return str(torch.cuda.get_device_properties(0).uuid)
