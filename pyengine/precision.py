"""How exactly a GPU multiplies: a process-wide switch, set for a pass and put back."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Allow TF32 products for `tf32` and forbid every shortcut otherwise; restore on leaving."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (
        matmul.allow_tf32,
        cudnn.allow_tf32,
        matmul.allow_bf16_reduced_precision_reduction,
        matmul.allow_fp16_reduced_precision_reduction,
    )
    matmul.allow_tf32 = cudnn.allow_tf32 = dtype == "tf32"
    matmul.allow_bf16_reduced_precision_reduction = False
    matmul.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        (
            matmul.allow_tf32,
            cudnn.allow_tf32,
            matmul.allow_bf16_reduced_precision_reduction,
            matmul.allow_fp16_reduced_precision_reduction,
        ) = before
