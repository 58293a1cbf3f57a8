"""A model and what the engine knows about it."""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pyengine import stacked_weights
from pyengine.errors import PyengineError
from pyengine.families import Family
from pyengine.layers import Layer, body_of, layers_of
from pyengine.store import tokenizer_hash

# T5 has no longest input of its own; longer units are split here unless told otherwise.
DEFAULT_MAX_POSITIONS = 512

# What a configuration says about its files and its output, not about the computation of the body.
_VOLATILE = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
)


@dataclass(frozen=True)
class SpecialTokens:
    """Ids put around a unit's content, never competing themselves."""

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prefix) + len(self.suffix)


@dataclass(frozen=True, eq=False)
class Model:
    """A Hugging Face model with what the engine knows about it. Never modified.

    Attributes:
        hf: the model as loaded or as given.
        tokenizer: a fast tokenizer, or None (then only token ids can be fed).
        family: the row of `pyengine.families.FAMILIES`.
        name: the hub name, folder or class name that it came from.
        revision: the hub revision asked for, if any.
        dtype: one of `float32`, `tf32`, `bfloat16`, `float16`, `float64`.
        absent: weights outside the body that the checkpoint lacks (an output head); they are
            random, so that nothing may be read out through them.
    """

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    family: Family
    name: str
    revision: str | None
    dtype: str
    absent: tuple[str, ...] = ()

    @property
    def config(self) -> Any:
        return self.hf.config

    @property
    def device(self) -> torch.device:
        return next(self.hf.parameters()).device

    @cached_property
    def body(self) -> nn.Module:
        """The model without its output head; the family's paths start here."""
        return body_of(self.hf)

    @cached_property
    def layers(self) -> list[Layer]:
        """All feed-forward layers, T5's encoder before its decoder."""
        return layers_of(self.family, self.body)

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @cached_property
    def d_ff(self) -> int:
        value: Any = self.layers[0].module(self.body, self.layers[0].stack.value)
        return int(getattr(value, "in_features", None) or value.weight.shape[0])

    def values(self, layer: int) -> torch.Tensor:
        """Return the value vectors of a layer, [d_ff, d_model], one row each; shares memory."""
        module: Any = self.layers[layer].module(self.body, self.layers[layer].stack.value)
        weight: torch.Tensor = module.weight.detach()
        return weight if type(module).__name__ == "Conv1D" else weight.t()

    @property
    def W_in(self) -> torch.Tensor:
        """[n_layers, d_model, d_ff]: post = act(x @ W_in + b_in); a copy, like all below.

        Of gated layers the matrix beside the gate: post = act(x @ W_gate) * (x @ W_in).
        """
        return stacked_weights.w_in(self)

    @property
    def W_gate(self) -> torch.Tensor:
        """[n_layers, d_model, d_ff], the gates of gated layers; refused where there are none."""
        return stacked_weights.w_gate(self)

    @property
    def W_out(self) -> torch.Tensor:
        """[n_layers, d_ff, d_model]: the values, one row each."""
        return stacked_weights.w_out(self)

    @property
    def b_in(self) -> torch.Tensor:
        """[n_layers, d_ff], zeros where there are none."""
        return stacked_weights.b_in(self)

    @property
    def b_out(self) -> torch.Tensor:
        """[n_layers, d_model], zeros where there are none."""
        return stacked_weights.b_out(self)

    @property
    def W_U(self) -> torch.Tensor:
        """[d_model, vocab_size], the unembedding; T5's tied head also scales what it reads.

        ELECTRA-small's is as wide as its embeddings: what its head's transform leaves.
        """
        return stacked_weights.w_u(self)

    @property
    def b_U(self) -> torch.Tensor:
        """[vocab_size], zeros where there is none."""
        return stacked_weights.b_u(self)

    @property
    def vocab_size(self) -> int:
        embedding: Any = self.body.get_submodule(self.family.embedding)
        return int(embedding.weight.shape[0])

    @cached_property
    def random_head(self) -> str | None:
        """Name a weight of the output head that the checkpoint lacks; None if it has them all."""
        parts = filter(None, (self.family.unembedding, self.family.head_transform))
        roots = {part.split(".")[0] for part in parts}
        return next((name for name in self.absent if name.split(".")[0] in roots), None)

    @property
    def max_positions(self) -> int:
        """Longest input in tokens, special tokens included."""
        return int(getattr(self.config, self.family.max_positions, None) or DEFAULT_MAX_POSITIONS)

    @property
    def pad_id(self) -> int:
        """Token id of padding; any id will do, since padding is masked."""
        for holder in (self.tokenizer, self.config):
            pad = getattr(holder, "pad_token_id", None)
            # A token that was added to the tokenizer alone has no row in the embedding.
            if pad is not None and 0 <= pad < self.vocab_size:
                return int(pad)
        return 0

    @property
    def decoder_start_id(self) -> int:
        start = getattr(self.config, "decoder_start_token_id", None)
        return int(self.pad_id if start is None else start)

    def special_tokens(self, bos: bool = False) -> SpecialTokens:
        """Return what surrounds a unit: as the tokenizer says for an encoder, else a BOS if asked.

        Raises:
            PyengineError: if `bos` is asked of a model that has no BOS token, or of an encoder.
        """
        if self.tokenizer is None:
            return SpecialTokens()
        if self.family.causal:
            if not bos:
                return SpecialTokens()
            if self.tokenizer.bos_token_id is None:
                raise PyengineError(f"bos=True, but the tokenizer of {self.name} has no BOS token")
            return SpecialTokens(prefix=(self.tokenizer.bos_token_id,))
        if bos:
            raise PyengineError(f"bos=True is for causal models; {self.name} is not one")
        return _surroundings(self.tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the configuration and every parameter and buffer but those `absent`."""
        return model_hash(self.hf, without=self.absent)

    @cached_property
    def tokenizer_fingerprint(self) -> str | None:
        return None if self.tokenizer is None else tokenizer_hash(self.tokenizer)


def model_hash(hf: PreTrainedModel, without: Collection[str] = ()) -> str:
    """Return the SHA-256 of a model's configuration, parameters and buffers (tied ones once).

    Args:
        hf: the model.
        without: names left out: random weights would be others in every process.
    """
    config = {k: v for k, v in hf.config.to_diff_dict().items() if k not in _VOLATILE}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    tensors = dict(hf.named_parameters()) | dict(hf.named_buffers())
    for name, tensor in sorted(tensors.items()):
        if name in without:
            continue
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _surroundings(tokenizer: PreTrainedTokenizerBase) -> SpecialTokens:
    """Find what the tokenizer puts before and after a text."""
    content = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(content) + 1):
        if whole[start : start + len(content)] == content:
            return SpecialTokens(tuple(whole[:start]), tuple(whole[start + len(content) :]))
    raise PyengineError("the tokenizer does not put its special tokens around the text")
