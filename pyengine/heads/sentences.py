"""The sentences of tasks as a model reads them: each distinct text tokenised once, never split."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from pyengine.analyses.analysis_inputs import check_ids
from pyengine.errors import PyengineError
from pyengine.heads.bank_files import SENTENCES, content_hash
from pyengine.heads.bank_tasks import EMPTY, BankTask, indexed
from pyengine.heads.pooling import APPENDED, Pooling, pooling_of
from pyengine.heads.task import Task
from pyengine.models import Model
from pyengine.store import Report, TokenStore

CHUNK_TEXTS = 4096


@dataclass(frozen=True, eq=False)
class Sentences:
    """What a bank is made of, in the order of its rows.

    Attributes:
        texts: the distinct sentences of all tasks.
        tasks: by name, over these.
        store: their tokens without special ones; unit i is sentence i.
        truncated: bool [n], which were longer than the model reads.
    """

    texts: list[str]
    tasks: dict[str, BankTask]
    store: TokenStore
    truncated: np.ndarray

    @classmethod
    def of(
        cls,
        model: Model,
        tasks: Sequence[Task],
        pooling: Pooling = "auto",
        on_tokenized: Callable[[int, int], None] | None = None,
    ) -> "Sentences":
        """Collect and tokenise the sentences of some tasks.

        They are numbered in the order in which they first appear: tasks as given, parts and
        examples in SentEval's order. Other orders of the tasks make other banks.

        What is longer than the model reads, special tokens included, loses its end.

        Args:
            model: what will read them.
            tasks: whose sentences these are.
            pooling: as in `extract_heads`; `pad` takes the room of one more token.
            on_tokenized: called with (characters done, in all).

        Raises:
            PyengineError: without tasks, for two of one name, a model without a tokenizer, or a
                tokenizer that has tokens which the model lacks, or none for `EMPTY`.
        """
        if model.tokenizer is None:
            raise PyengineError(f"{model.name} has no tokenizer: it cannot read sentences")
        room = model.max_positions - len(model.special_tokens())
        room -= len(APPENDED.get(pooling_of(model, pooling)[model.layers[0].stack.name], ()))
        if room < 1:
            raise PyengineError(f"{model.name} reads {model.max_positions} tokens: too few")
        texts, index = indexed(tasks)
        ids, lengths = list[np.ndarray](), list[int]()
        for row in _encoded(model, texts, on_tokenized):
            ids.append(np.array(row[:room], np.uint32))
            lengths.append(len(row))
        kept = np.minimum(lengths, room)
        offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        report = Report(units=len(texts), tokens=int(offsets[-1]))
        store = TokenStore.in_memory(np.concatenate(ids), offsets, report, adds_special=True)
        check_ids(model, store.tokens)
        return cls(texts, index, store, np.array(lengths) > room)

    def check_fit(self, model: Model, around: int) -> None:
        """Refuse a model, or a pooling, that these were not tokenised for.

        Args:
            model: what is to read them.
            around: tokens that it reads before and after each.

        Raises:
            PyengineError: if the longest has no room, or a token is not the model's.
        """
        check_ids(model, self.store.tokens)
        longest = int(self.store.lengths.max()) + around
        if longest > model.max_positions:
            raise PyengineError(
                f"the sentences have up to {longest} tokens, and {model.name} reads "
                f"{model.max_positions}: were they made for another model or pooling?"
            )

    @property
    def n_tokens(self) -> int:
        """Tokens, special ones left out."""
        return self.store.n_tokens

    @property
    def n_examples(self) -> int:
        """Examples of all parts of all tasks."""
        return sum(map(len, self.tasks.values()))

    @property
    def n_duplicates(self) -> int:
        """Sentences of examples that are there already."""
        parts = chain.from_iterable(task.parts.values() for task in self.tasks.values())
        return sum(part.rows.size for part in parts) - len(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def table(self) -> pa.Table:
        """A row per sentence, as `pyengine.heads.bank_files.SENTENCES` has them."""
        columns = {
            "sentence": np.arange(len(self)),
            "text": self.texts,
            "n_tokens": self.store.lengths,
            "truncated": self.truncated,
        }
        return pa.table(columns).cast(SENTENCES)

    def describe(self) -> dict[str, Any]:
        """Return the manifest's section on what is read."""
        return {
            "source": ", ".join(self.tasks),
            "sha256": content_hash(self.texts, self.tasks),
            "tokens_sha256": self.store.content_hash,
            "n_units": len(self),
            "n_tokens": self.n_tokens,
            "n_examples": self.n_examples,
            "n_duplicates": self.n_duplicates,
            "n_truncated": int(self.truncated.sum()),
        }


def _encoded(
    model: Model, texts: list[str], report: Callable[[int, int], None] | None
) -> Iterator[list[int]]:
    """Yield the tokens of each text; of one that has none, those of `EMPTY`.

    Raises:
        PyengineError: if there are none of these either.
    """
    tokenizer: Any = model.tokenizer
    more = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    empty = tokenizer(EMPTY, add_special_tokens=False, **more)["input_ids"]
    n_characters, done = sum(map(len, texts)), 0
    for first in range(0, len(texts), CHUNK_TEXTS):
        chunk = texts[first : first + CHUNK_TEXTS]
        for text, ids in zip(
            chunk, tokenizer(chunk, add_special_tokens=False, **more)["input_ids"], strict=True
        ):
            if not (read := ids or empty):
                raise PyengineError(f"the tokenizer of {model.name} has no tokens for {text!r}")
            yield read
            done += len(text)
        if report is not None:
            report(done, n_characters)
