"""What the ways to extract activations share: sizes, models, token ids, the answer they give."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn

import pyengine

NAMES = {"gpt2": "GPT-2 small", "bert": "BERT-base", "t5": "T5-small"}
CLASSES: dict[str, Any] = {
    "gpt2": transformers.GPT2LMHeadModel,
    "bert": transformers.BertForMaskedLM,
    "t5": transformers.T5ForConditionalGeneration,
}
# Nobody generates; a cache of keys and values would be made for nothing.
SETTINGS: dict[str, dict[str, Any]] = {
    "gpt2": {"bos_token_id": 0, "eos_token_id": 0, "use_cache": False},
    "bert": {"use_cache": False},
    "t5": {"decoder_start_token_id": 0, "use_cache": False},
}
TINY: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 2, "initializer_range": 0.3},
    "bert": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "initializer_range": 0.3,
    },
    "t5": {"d_model": 32, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 3},
}
FIRST_ID = 8  # above padding, which a tool may mask by itself

# Where the coefficients go in: paths from the body, in the order of the layers.
DOWN_PROJECTIONS = {
    "gpt2": r"h\.\d+\.mlp\.c_proj",
    "bert": r"encoder\.layer\.\d+\.output\.dense",
    "t5": r"(en|de)coder\.block\.\d+\.layer\.\d\.DenseReluDense\.wo",
}
# What their names begin with, in TransformerLens and here.
BLOCKS = {
    "gpt2": ("blocks",),
    "bert": ("blocks",),
    "t5": ("encoder_blocks", "decoder_blocks"),
}


@dataclass(frozen=True)
class Scale:
    """How much is measured; the defaults are the benchmark.

    Attributes:
        sequences, length: of the token ids.
        batch: sequences that are computed together.
        k: examples per key.
        rounds: repetitions.
        device: where the models run.
        tiny: narrow models of few layers, for the tests of this code.
    """

    sequences: int = 64
    length: int = 128
    batch: int = 8
    k: int = 50
    rounds: int = 3
    device: str = "cpu"
    tiny: bool = False

    @property
    def sliced(self) -> int:
        """How many sequences the slowest ways are run on: two batches."""
        return min(self.sequences, 2 * self.batch)


class Answer(NamedTuple):
    """What a way found.

    Attributes:
        values: float32 [n_keys, k], the best activations of every key, descending; or the
            activations of one layer in the last batch, [batch, length, d_ff].
        ids: int64 [n_keys, k], sequence * length + position; None where nothing is ranked.
        stored_bytes: what the way kept in files.
    """

    values: Tensor
    ids: Tensor | None = None
    stored_bytes: int = 0

    @classmethod
    def of_places(cls, values: Tensor, ids: Tensor, stored_bytes: int = 0) -> "Answer":
        """Give empty places, whose ids are below 0, a value of 0 and ids of their own."""
        empty = ids < 0
        own = -1 - torch.arange(ids.shape[1])
        return cls(values.masked_fill(empty, 0), ids.where(~empty, own), stored_bytes)


# Runs over token ids [sequences, length]; None where a way has nothing to say.
Run = Callable[[Tensor], Answer | None]


class Batch(NamedTuple):
    """The rows of the token ids from `first` on, and what Hugging Face's forward takes."""

    first: int
    inputs: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Setting:
    """A random model and what is asked of it.

    Attributes:
        family: `gpt2`, `bert` or `t5`.
        scale: sizes.
        hf: Hugging Face's model with its output head, in float32, with sdpa attention.
        body: the same modules without the head.
    """

    family: str
    scale: Scale
    hf: Any
    body: Any

    @classmethod
    def of(cls, family: str, scale: Scale) -> "Setting":
        """Draw a model of a family's usual size."""
        torch.manual_seed(0)
        kind = CLASSES[family]
        sizes = TINY[family] if scale.tiny else {}
        config = kind.config_class(**SETTINGS[family] | sizes)
        hf = kind._from_config(config, attn_implementation="sdpa").eval().to(scale.device)
        return cls(family, scale, hf, _t5_body(hf) if family == "t5" else hf.base_model)

    @cached_property
    def ids(self) -> Tensor:
        """Token ids [sequences, length]."""
        shape = self.scale.sequences, self.scale.length
        generator = torch.Generator().manual_seed(1)
        return torch.randint(FIRST_ID, self.hf.config.vocab_size, shape, generator=generator)

    def batches(self, ids: Tensor) -> Iterator[Batch]:
        """Cut token ids into batches; T5's decoder reads the start token before them."""
        for first in range(0, len(ids), self.scale.batch):
            rows = ids[first : first + self.scale.batch]
            rows = rows.to(self.scale.device)
            inputs = {"input_ids": rows}
            if self.family == "t5":
                inputs["decoder_input_ids"] = nn.functional.pad(rows, (1, 0), value=0)
            yield Batch(first, inputs)

    def content(self, acts: Tensor) -> Tensor:
        """Leave the start token's activations out."""
        return acts[:, -self.scale.length :]

    def down_projections(self, body: nn.Module) -> list[str]:
        """List the paths of the down-projections, T5's encoder before its decoder."""
        paths = (path for path, _ in body.named_modules())
        return [path for path in paths if re.fullmatch(DOWN_PROJECTIONS[self.family], path)]

    @property
    def hook_names(self) -> list[str]:
        """Name the coefficients of every layer as TransformerLens and pyengine do."""
        layers = range(self.hf.config.num_hidden_layers)
        return [f"{stack}.{i}.mlp.hook_post" for stack in BLOCKS[self.family] for i in layers]

    @property
    def middle(self) -> int:
        """The layer that alone is asked for: of T5, the decoder's first."""
        return len(self.hook_names) // 2

    @cached_property
    def model(self) -> pyengine.Model:
        """The model as pyengine takes it."""
        return pyengine.load((self.hf, None))


def _t5_body(hf: Any) -> Any:
    """Put T5's stacks together without the head, for which there is a class of its own."""
    with torch.device("meta"):
        body = transformers.T5Model(hf.config)
    body.shared, body.encoder, body.decoder = hf.shared, hf.encoder, hf.decoder
    return body.eval()


class RunningTopK:
    """The textbook way: `torch.topk` over the batch, joined with the best so far, and again."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._best: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, layer: int, acts: Tensor, first: int) -> None:
        """Take a layer's activations [B, T, d_ff] of the sequences from `first` on."""
        flat = self._setting.content(acts).flatten(0, 1)
        k = self._setting.scale.k
        values, ids = flat.topk(min(k, len(flat)), dim=0)
        ids = ids + first * self._setting.scale.length
        if layer in self._best:
            values = torch.cat([self._best[layer][0], values])
            ids = torch.cat([self._best[layer][1], ids])
            values, order = values.topk(min(k, len(values)), dim=0)
            ids = ids.gather(0, order)
        self._best[layer] = values, ids

    def answer(self) -> Answer:
        values, ids = zip(*(self._best[layer] for layer in sorted(self._best)), strict=True)
        return Answer(torch.cat(values, 1).T.cpu(), torch.cat(ids, 1).T.cpu())
