"""What an extraction will take, for `pyengine.estimates`: the same of parts of its sentences."""

from dataclasses import replace
from typing import cast

import numpy as np

from pyengine.heads.extract_memory import settings_of, shapes_of
from pyengine.heads.sentences import Sentences
from pyengine.memory_plan import arguments_of
from pyengine.models import Model
from pyengine.samples import Sample, spread_units
from pyengine.scale.work import Work
from pyengine.store import TokenStore


class SentenceParts:
    """The sentences of an extraction, and some of them; see `pyengine.samples.Parts`.

    Raises:
        PyengineError: where the extraction itself would refuse its settings.
    """

    unit = "tokens"
    n_units: int | None

    def __init__(self, work: Work, model: Model) -> None:
        self._work, self._model = work, model
        self._sentences = cast("Sentences", work.corpus)
        self._settings = settings_of(model, arguments_of(work, model))
        self.size, self.n_units = self._sentences.n_tokens, len(self._sentences)
        self.cost = self._computed(self._sentences)

    def sample(self, size: int) -> Sample:
        """Cut out sentences of about so many tokens."""
        if size >= self.size:
            return Sample(self._work, self.size, self.cost)
        few = _some(self._sentences, *spread_units(self._sentences.store, size))
        return Sample(replace(self._work, corpus=few), few.n_tokens, self._computed(few))

    def notes(self) -> dict[str, str]:
        return {}

    def _computed(self, sentences: Sentences) -> int:
        shapes = shapes_of(self._model, self._settings, sentences)
        return sum(rows * width for rows, width in shapes)


def _some(sentences: Sentences, store: TokenStore, at: np.ndarray) -> Sentences:
    """Return some sentences, and all tasks: as much is written of these as for all sentences."""
    texts = [sentences.texts[row] for row in at]
    return replace(sentences, texts=texts, store=store, truncated=sentences.truncated[at])
