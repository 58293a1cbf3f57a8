"""The forward pass of a model's body, on a copy that may be tapped.

The copy is *structural*: new modules, the same memory. The caller's model keeps its modules,
hooks and mode; nothing has to be undone.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from pyengine.batches import Batch
from pyengine.models import Model


class Forward:
    """Runs batches through a structural copy of a model's body.

    Attributes:
        model: the model, never modified.
        body: the copy; hooks may be put on it and its modules replaced.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.body = _structural_copy(model.body)

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


def _structural_copy(body: nn.Module) -> nn.Module:
    copied: Any = _copied(body, {}).eval()
    # Padding needs no mask here; with a pad token transformers would look for it in every batch
    # (and make the GPU wait) only to warn.
    copied.config = copy.copy(copied.config)
    copied.config.pad_token_id = None
    return copied


def _copied(part: Any, seen: dict[int, Any]) -> Any:
    """Copy modules, and the tables they hold; parameters keep their memory, all else is shared.

    `copy.deepcopy` does the same in ten times the time, mostly for configurations.
    """
    if id(part) in seen:  # shared modules and tied parameters stay so
        return seen[id(part)]
    if isinstance(part, nn.Parameter):
        # Frozen, so that gradients of activations do not drag those of weights along.
        copied: Any = nn.Parameter(part.detach(), requires_grad=False)
    elif isinstance(part, nn.Module):
        copied = object.__new__(type(part))
        seen[id(part)] = copied
        copied.__dict__ = {name: _copied(value, seen) for name, value in vars(part).items()}
    elif isinstance(part, dict):  # of parameters, modules, hooks, each of its own kind
        copied = part.copy()
        copied.update((key, _copied(own, seen)) for key, own in part.items())
    else:
        return part
    seen[id(part)] = copied
    return copied


def _padding_mask(batch: Batch, device: torch.device) -> Tensor | None:
    """Return the [B, T] mask, None where nothing is padded (attention is then faster)."""
    return None if batch.attention_mask.all() else to_device(batch.attention_mask, device)
