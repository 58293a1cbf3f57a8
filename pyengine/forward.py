"""The forward pass of a model's body, on a structural copy that may be tapped."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pyengine.attention_masks import constants_on_device, run_stack
from pyengine.batches import Batch
from pyengine.models import Model
from pyengine.structural_copy import structural_copy


class Forward:
    """Runs batches through a structural copy of a model's body.

    Attributes:
        model: the model, never modified.
        body: the copy; hooks may be put on it and its modules replaced.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.body = _body_copy(model.body)

    def run(self, batch: Batch, decoder: Batch | None = None) -> Tensor:
        """Run one batch; what is inside is for hooks to take.

        Args:
            batch: the units as the model's first stack reads them. Alone it runs the only stack,
                or the encoder.
            decoder: the teacher-forced decoder input, for encoder-decoders only.

        Returns:
            [B, T, d_model], what the last stack hands to the output head.
        """
        device = self.model.device
        if decoder is None:
            return self._run_single(batch, device)
        return self._run_encoder_decoder(batch, decoder, device)

    def _run_single(self, batch: Batch, device: torch.device) -> Tensor:
        family = self.model.family
        stack, causal = family.stacks[0], family.stacks[0].causal
        whole: Any = self.body
        body = whole.encoder if family.encoder_decoder else whole
        # Right padding lies after every content token, so a causal model needs no mask; but hooks
        # of the caller's that look for the last token do.
        hooked = bool(body._forward_pre_hooks)
        mask = _padding_mask(batch, device) if hooked or not causal else None
        extra = {"use_cache": False} if causal else {}
        input_ids = on_device(batch, "input_ids", device)
        return run_stack(
            body, input_ids, mask, causal=causal, takes_masks=stack.takes_masks, **extra
        )

    def _run_encoder_decoder(self, batch: Batch, decoder: Batch, device: torch.device) -> Tensor:
        mask = _padding_mask(batch, device)
        body: Any = self.body
        input_ids = on_device(batch, "input_ids", device)
        encoded = run_stack(body.encoder, input_ids, mask, causal=False)
        hooked = bool(body.decoder._forward_pre_hooks)
        return run_stack(
            body.decoder,
            on_device(decoder, "input_ids", device),
            _padding_mask(decoder, device) if hooked else None,
            causal=True,
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            use_cache=False,
        )


def to_device(array: Any, device: torch.device) -> Tensor:
    """Copy a numpy array to a device without waiting for it; on the CPU memory is shared."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


def on_device(batch: Batch, name: str, device: torch.device) -> Tensor:
    """Return an array of a batch on a device: the copy that is there already, or a new one."""
    if name in batch.copies:
        copied: Tensor = batch.copies[name]
        return copied
    return to_device(getattr(batch, name), device)


def copied_ahead(batch: Batch, device: torch.device) -> Batch:
    """Return a batch whose arrays are on their way to a device.

    Without room for them the batch comes as it is: its arrays are copied when they are needed, and
    lack of memory is dealt with there.
    """
    names = ("input_ids", "attention_mask", "ids")
    try:
        copies = {name: to_device(getattr(batch, name), device) for name in names}
    except torch.OutOfMemoryError:
        return batch
    return replace(batch, copies=copies)


def _body_copy(body: nn.Module) -> nn.Module:
    copied = structural_copy(body)
    # Padding needs no mask here; with a pad token transformers would look for it in every batch
    # (and make the GPU wait) only to warn.
    copied.config = copy.copy(copied.config)
    copied.config.pad_token_id = None
    constants_on_device(copied)
    return copied


def _padding_mask(batch: Batch, device: torch.device) -> Tensor | None:
    """Return the [B, T] mask, None where nothing is padded (attention is then faster)."""
    return None if batch.attention_mask.all() else on_device(batch, "attention_mask", device)
