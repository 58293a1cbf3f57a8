"""Which code runs a kernel: decided by the device, or by `PYENGINE_BACKEND`."""

import os

import torch

from pyengine.errors import PyengineError

BACKENDS = ("reference", "torch", "triton")


def backend_for(device: torch.device, *, cpu: str = "torch") -> str:
    """Return the backend for tensors on `device`; `cpu` is the usual one of the CPU."""
    chosen = os.environ.get("PYENGINE_BACKEND")
    if chosen is None:
        default = {"cpu": cpu, "cuda": "triton"}.get(device.type)
        if default is None:
            raise PyengineError(
                f"no kernels for device '{device.type}': use cpu or cuda, "
                "or set PYENGINE_BACKEND=torch"
            )
        return default
    if chosen not in BACKENDS:
        raise PyengineError(
            f"PYENGINE_BACKEND must be one of {', '.join(BACKENDS)}, got '{chosen}'"
        )
    if chosen == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise PyengineError(
            f"PYENGINE_BACKEND=triton needs CUDA tensors, got '{device.type}' "
            "(or TRITON_INTERPRET=1, for tests)"
        )
    return chosen
