"""What decides the vectors of `extract_heads`, checked, and the room that they take."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pyengine.analyses.cached_activations_settings import (
    BLOCK_BYTES,
    LEAST_BLOCK_TOKENS,
    SAVE_DTYPES,
    SENTENCES,
    DiskNeed,
)
from pyengine.capture import ACTIVATION_MODES
from pyengine.checks import check_choice, check_count
from pyengine.engine import BATCH_TOKENS, BLOCK_TOKENS
from pyengine.errors import PyengineError
from pyengine.extraction.sites import site_width
from pyengine.heads.bank import BankPlace
from pyengine.heads.places import BLOCK, HEAD, Place, places_of
from pyengine.heads.pooling import APPENDED, Pooling, pooling_of
from pyengine.heads.sentences import Sentences
from pyengine.models import Model

LOCATIONS = (HEAD, BLOCK)  # by default


@dataclass(frozen=True)
class ExtractSettings:
    """What decides the result beside the sentences; as the arguments of `extract_heads`.

    Attributes:
        places: what is read, and what is kept of it.
        pooling: by stack.
        save_dtype: a key of `SAVE_DTYPES`.
        activation: `fused` or `model`.
        batch_tokens: tokens per batch, padding included.
        block_tokens: tokens per block; None: as many as fit into a block's memory.
    """

    places: tuple[tuple[Place, BankPlace], ...]
    pooling: dict[str, str]
    save_dtype: str
    activation: str
    batch_tokens: int
    block_tokens: int | None

    @classmethod
    def checked(
        cls,
        model: Model,
        locations: Sequence[str] = LOCATIONS,
        pooling: Pooling = "auto",
        save_dtype: str | None = None,
        activation: str = "fused",
        batch_tokens: int | None = None,
        block_tokens: int | None = None,
    ) -> "ExtractSettings":
        """Check the settings and fill in the defaults.

        Raises:
            PyengineError: naming the first setting that cannot be.
        """
        names = (locations,) if isinstance(locations, str) else tuple(locations)
        if not names:
            raise PyengineError("no locations are given; give some, as locations=('head',)")
        save_dtype = "float32" if save_dtype is None else save_dtype
        check_choice("save_dtype", save_dtype, [*SAVE_DTYPES])
        check_choice("activation", activation, ACTIVATION_MODES)
        if model.dtype == "float64" and activation == "fused":
            raise PyengineError("fused activations are not for float64; use activation='model'")
        check_count("batch_tokens", batch_tokens)
        check_count("block_tokens", block_tokens)
        by_stack = pooling_of(model, pooling)
        places = tuple((p, _kept(model, p, by_stack)) for p in places_of(model, names))
        batch = BATCH_TOKENS[model.device.type] if batch_tokens is None else batch_tokens
        return cls(places, by_stack, save_dtype, activation, batch, block_tokens)

    @property
    def dtype(self) -> torch.dtype:
        return SAVE_DTYPES[self.save_dtype]

    @property
    def sentence_bytes(self) -> int:
        """Bytes that are kept of a sentence."""
        return sum(kept.width for _, kept in self.places) * self.dtype.itemsize

    @property
    def appended(self) -> tuple[int, ...]:
        """Tokens put after each sentence; of causal models, which have one stack."""
        return APPENDED.get(next(iter(self.pooling.values())), ())

    def n_around(self, model: Model) -> int:
        """Return how many tokens are read before and after those of each sentence."""
        return len(model.special_tokens()) + len(self.appended)

    def block_tokens_of(self, sentences: Sentences, device: str) -> int:
        """Return how many tokens make a block: as told, or about as many as its memory takes."""
        if self.block_tokens is not None:
            return self.block_tokens
        in_memory = BLOCK_BYTES[device] // self.sentence_bytes
        tokens = in_memory * sentences.n_tokens // len(sentences)
        return min(BLOCK_TOKENS[device], max(LEAST_BLOCK_TOKENS, tokens))

    def question(self) -> dict[str, Any]:
        """Return what the manifest says of what is asked."""
        places = [kept.record for _, kept in self.places]
        return {"places": places, "pooling": self.pooling, "save_dtype": self.save_dtype}

    def need(self, folder: Path, n_sentences: int, n_left: int) -> DiskNeed:
        """Return what some sentences, of which `n_left` are not written yet, take on the disk."""
        return DiskNeed.of(folder, self.sentence_bytes, n_sentences, n_left, SENTENCES)


def _kept(model: Model, place: Place, pooling: dict[str, str]) -> BankPlace:
    stack = place.site.positions
    width = site_width(model, place.site)
    return BankPlace(place.location, place.layer, stack, place.n_parts, width, pooling[stack])
