"""The forward pass of a model's body, on a structural copy that may be tapped."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

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
        causal = family.stacks[0].causal
        whole: Any = self.body
        body = whole.encoder if family.encoder_decoder else whole
        # Right padding lies after every content token, so a causal model needs no mask; but hooks
        # of the caller's that look for the last token do.
        hooked = bool(body._forward_pre_hooks)
        mask = _padding_mask(batch, device) if hooked or not causal else None
        extra = {"use_cache": False} if causal else {}
        out = body(input_ids=to_device(batch.input_ids, device), attention_mask=mask, **extra)
        hidden: Tensor = out[0]
        return hidden

    def _run_encoder_decoder(self, batch: Batch, decoder: Batch, device: torch.device) -> Tensor:
        mask = _padding_mask(batch, device)
        body: Any = self.body
        encoded = body.encoder(input_ids=to_device(batch.input_ids, device), attention_mask=mask)
        hooked = bool(body.decoder._forward_pre_hooks)
        out = body.decoder(
            input_ids=to_device(decoder.input_ids, device),
            attention_mask=_padding_mask(decoder, device) if hooked else None,
            encoder_hidden_states=encoded[0],
            encoder_attention_mask=mask,
            use_cache=False,
        )
        hidden: Tensor = out[0]
        return hidden


def to_device(array: Any, device: torch.device) -> Tensor:
    """Copy a numpy array to a device without waiting for it; on the CPU memory is shared."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


def _body_copy(body: nn.Module) -> nn.Module:
    copied = structural_copy(body)
    # Padding needs no mask here; with a pad token transformers would look for it in every batch
    # (and make the GPU wait) only to warn.
    copied.config = copy.copy(copied.config)
    copied.config.pad_token_id = None
    return copied


def _padding_mask(batch: Batch, device: torch.device) -> Tensor | None:
    """Return the [B, T] mask, None where nothing is padded (attention is then faster)."""
    return None if batch.attention_mask.all() else to_device(batch.attention_mask, device)
