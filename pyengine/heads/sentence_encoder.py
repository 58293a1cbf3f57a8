"""Chosen heads of a model as a sentence encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import torch
from rich.console import Console
from rich.progress import Progress as Bar
from torch import Tensor
from torch.nn.functional import normalize as unit_length

from pyengine.checks import check_count
from pyengine.errors import PyengineError
from pyengine.heads.chosen_heads import ChosenHeads, Progress
from pyengine.heads.encoder_file import check_model, read_description, write_description
from pyengine.heads.places import HEAD
from pyengine.heads.pooling import Pooling, pooling_of
from pyengine.heads.results_table import short_name
from pyengine.loading import load as load_model
from pyengine.models import Model

if TYPE_CHECKING:
    from pyengine.heads.results import HeadResults


class SentenceEncoder:
    """Turns sentences into vectors: the contexts of some heads side by side.

    The vectors are those that a bank of the same model holds, in the same order of heads. The pass
    through the model ends at the last layer that is needed.

    Attributes:
        model: the model; never changed.
        heads: (layer, head), layers through all stacks; head -1: the place as a whole.
        location: `head`, `cross`, `block`, `ffn` or `neurons`.
        pooling: of each stack.
        normalize: whether vectors are scaled to length 1.
    """

    def __init__(
        self,
        model: Any,
        heads: Sequence[tuple[int, int]],
        *,
        pooling: Pooling = "auto",
        location: str = HEAD,
        normalize: bool = False,
    ) -> None:
        """Choose heads of a model.

        Args:
            model: from `pyengine.load`, or what it takes.
            heads: (layer, head), in the order of the vector; head -1 is all of a layer's.
            pooling: as in `extract_heads`.
            location: where the heads, or layers, are read.
            normalize: scale every vector to length 1.

        Raises:
            PyengineError: for no heads, or some that the model lacks.
        """
        self.model: Model = load_model(model)
        self.pooling = pooling_of(self.model, pooling)
        self.location, self.normalize = location, normalize
        self._chosen = ChosenHeads(self.model, heads, location, self.pooling)
        self.heads = self._chosen.heads

    @classmethod
    def from_results(
        cls,
        model: Any,
        results: "HeadResults",
        task: str,
        n: int | None = None,
        *,
        location: str = HEAD,
        normalize: bool = False,
    ) -> "SentenceEncoder":
        """Choose the n heads of a model that are best on a task, pooled as they were probed.

        Args:
            model: what was probed.
            results: of the probes.
            task: its name.
            n: how many; None: of those that were concatenated, the heads that are best on dev.
            location: `head`, `cross`, or another one: its n best layers.
            normalize: scale every vector to length 1.

        Raises:
            PyengineError: for results of another model, without the task, or without concatenations
                for n=None.
        """
        from pyengine.heads.concat_table import best, curve

        loaded = load_model(model)
        own = results.where(model=short_name(loaded.name), task=task)
        if n is None:
            concats = own.concats.filter(pc.equal(own.concats["location"], location))
            heads = best(curve(concats, task)).heads
            own = own.where(bank=concats["bank"][0].as_py())
        else:
            heads = tuple(own.ranked(task, n, location))
        rows = own.where(location=location).table
        of_layer = dict(zip(rows["layer"].to_pylist(), rows["pooling"].to_pylist(), strict=True))
        pooling = {loaded.layers[layer].stack.name: of_layer[layer] for layer, _ in heads}
        return cls(loaded, heads, pooling=pooling, location=location, normalize=normalize)

    @property
    def width(self) -> int:
        """The length of a vector."""
        return sum(self._chosen.widths)

    def get_sentence_embedding_dimension(self) -> int:
        """Return the length of a vector, under the name that sentence-transformers gives it."""
        return self.width

    def encode(
        self,
        sentences: str | Sequence[str],
        batch_size: int | None = 32,
        show_progress_bar: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        on_progress: Progress | None = None,
    ) -> Any:
        """Return the vectors of sentences, in their order.

        An empty sentence is read as `.`; what is longer than the model reads loses its end.

        Args:
            sentences: texts, or one.
            batch_size: the most sentences of the greatest length that are computed together; of
                shorter ones more are. None: as many as when a bank is made.
            show_progress_bar: on stderr.
            convert_to_numpy: return an array; if not, a list of tensors.
            convert_to_tensor: return one tensor, on the model's device; goes before.
            normalize_embeddings: scale to length 1, also where the encoder itself does not.
            on_progress: called with (tokens done, in all).

        Returns:
            float32 [n, width]; of a single str [width].

        Raises:
            PyengineError: if something other than texts is given.
        """
        texts = [sentences] if isinstance(sentences, str) else list(sentences)
        if strange := [text for text in texts if not isinstance(text, str)]:
            raise PyengineError(f"encode takes texts, not {type(strange[0]).__name__}")
        check_count("batch_size", batch_size)
        found = torch.empty(0, self.width)
        if texts:
            with Bar(console=Console(stderr=True), disable=not show_progress_bar) as bar:
                report = on_progress or _reporting(bar)
                found = self._chosen.vectors(texts, batch_size, report)
        if self.normalize or normalize_embeddings:
            found = unit_length(found, dim=1)
        if isinstance(sentences, str):
            found = found[0]
        if convert_to_tensor:
            return found.to(self.model.device)
        return found.numpy() if convert_to_numpy else list(found)

    @staticmethod
    def similarity(a: Any, b: Any) -> Tensor:
        """Return the cosines of two sets of vectors, float32 [n, m]; 0 for a vector of zeros."""
        left, right = (
            unit_length(torch.atleast_2d(torch.as_tensor(x)).float(), dim=1) for x in (a, b)
        )
        return left @ right.to(left.device).T

    def save(self, folder: str | Path) -> Path:
        """Write which heads of which model these are; the model itself stays where it is.

        Raises:
            PyengineError: if the folder cannot be written.
        """
        write_description(self, Path(folder))
        return Path(folder)

    @classmethod
    def load(
        cls, folder: str | Path, model: Any = None, *, device: str = "auto"
    ) -> "SentenceEncoder":
        """Read what `save` wrote.

        Args:
            folder: as given to `save`.
            model: the model; None: it is loaded by its name, in its dtype.
            device: where it is loaded.

        Raises:
            PyengineError: if the folder holds no encoder, or the model is another one.
        """
        of, reads = read_description(Path(folder))
        if model is None:
            model = load_model(
                of["name"], revision=of["revision"], dtype=of["dtype"], device=device
            )
        model = load_model(model)
        check_model(model, of, folder)
        return cls(model, reads.pop("heads"), **reads)

    def __repr__(self) -> str:
        return f"SentenceEncoder({self.model.name}, {len(self.heads)} heads, width {self.width})"


def _reporting(bar: Bar) -> Progress:
    task = bar.add_task("encoding", total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)
