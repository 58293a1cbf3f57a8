"""What fine-tuning reads: sentences, and pairs of them, as rows of token ids."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.heads.bank_tasks import EMPTY
from pyengine.heads.task import (
    INNER_K_FOLD,
    K_FOLD,
    SCORES,
    SIMILARITY,
    SPLIT,
    Examples,
    Task,
)
from pyengine.loading import quiet
from pyengine.models import Model

Row = dict[str, Any]

# What may stand between the sentences of a pair where the tokenizer has no format for pairs.
JOINTS = ("sep_token_id", "eos_token_id", "bos_token_id", "unk_token_id")

# Shares held out where a task brings no dev set (as SentEval's last fit), or one part for all.
DEV_OF_TRAIN, DEV_OF_ALL, TEST_OF_ALL = 0.05, 0.1, 0.1


@dataclass(frozen=True)
class Reader:
    """Turns texts into token ids.

    A single sentence gets the model's special tokens, a causal model's none. A pair is read as the
    tokenizer's pair format has it, with token types where the model has them; where it has none, as
    the first sentence, `joint`, and the second.

    Attributes:
        model: whose tokenizer it is.
        max_length: of a row, special tokens included; what is longer is cut, of a pair the longer
            sentence first.
        appended: tokens put after all that, to be read there.
    """

    model: Model
    max_length: int
    appended: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.model.tokenizer is None:
            raise PyengineError(f"{self.model.name} has no tokenizer to read sentences with")
        if not 4 <= self.max_length <= self.model.max_positions:
            raise PyengineError(
                f"max_length must be between 4 and {self.model.max_positions}, what "
                f"{self.model.name} reads; got {self.max_length}"
            )

    @property
    def joint(self) -> int | None:
        """The token between the sentences of a pair; None where the tokenizer has a format.

        It is the separator, else the token of the end, of the beginning, or unknown words'.
        """
        tokenizer: Any = self.model.tokenizer
        if not self.model.family.causal and _has_pairs(tokenizer):
            return None
        for name in JOINTS:
            token = getattr(tokenizer, name, None)
            if token is not None and token < self.model.vocab_size:
                return int(token)
        raise PyengineError(
            f"the tokenizer of {self.model.name} has no token to stand between two sentences"
        )

    def rows(self, first: Sequence[str], second: Sequence[str] | None = None) -> list[Row]:
        """Read sentences, or pairs; an empty one is read as `.`.

        Returns:
            Rows of `input_ids`, and of `token_type_ids` where pairs need them.

        Raises:
            PyengineError: if a text has no token.
        """
        first = [text if text.strip() else EMPTY for text in first]
        second = second and [text if text.strip() else EMPTY for text in second]
        with quiet():
            if second is None:
                rows = self._single(first)
            elif self.joint is None:
                rows = self._formatted(first, second)
            else:
                rows = self._joined(first, second, self.joint)
        for text, row in zip(first, rows, strict=True):
            if not row["input_ids"]:
                raise PyengineError(f"the text {text[:40]!r} has no token")
            row["input_ids"] = [*row["input_ids"], *self.appended]
        return rows

    @property
    def _room(self) -> int:
        """What is left for a row without what is appended."""
        return self.max_length - len(self.appended)

    def _single(self, texts: Sequence[str]) -> list[Row]:
        around = self.model.special_tokens()
        room = self._room - len(around)
        return [
            {"input_ids": [*around.prefix, *ids[:room], *around.suffix]}
            for ids in self._content(texts)
        ]

    def _formatted(self, first: Sequence[str], second: Sequence[str]) -> list[Row]:
        types = self.model.family.token_types is not None
        # A copy: cutting leaves its mark on a fast tokenizer.
        tokenizer: Any = copy.deepcopy(self.model.tokenizer)
        read = tokenizer(
            list(first),
            list(second),
            truncation="longest_first",
            max_length=self.max_length,
            return_token_type_ids=types,
            return_attention_mask=False,
        )
        names = ("input_ids", "token_type_ids") if types else ("input_ids",)
        return [{name: read[name][i] for name in names} for i in range(len(first))]

    def _joined(self, first: Sequence[str], second: Sequence[str], joint: int) -> list[Row]:
        around = self.model.special_tokens()
        room = self._room - len(around) - 1
        rows = []
        for a, b in zip(self._content(first), self._content(second), strict=True):
            n_a, n_b = _cut(len(a), len(b), room)
            ids = [*around.prefix, *a[:n_a], joint, *b[:n_b], *around.suffix]
            rows.append({"input_ids": ids})
        return rows

    def _content(self, texts: Sequence[str]) -> list[list[int]]:
        tokenizer: Any = self.model.tokenizer
        read = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
        found: list[list[int]] = read["input_ids"]
        return found


def collated(rows: Sequence[Row], pad_id: int) -> dict[str, Tensor]:
    """Pad rows on the right to one batch, and say where they end."""
    longest = max(len(row["input_ids"]) for row in rows)
    pads = {"input_ids": pad_id, "token_type_ids": 0}
    batch = {
        name: torch.tensor([row[name] + [pad] * (longest - len(row[name])) for row in rows])
        for name, pad in pads.items()
        if name in rows[0]
    }
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
    if "labels" in rows[0]:
        labels = [row["labels"] for row in rows]
        whole = isinstance(labels[0], int)
        batch["labels"] = torch.tensor(labels, dtype=torch.int64 if whole else torch.float32)
    return batch


def split(task: Task, seed: int = 0) -> dict[str, Examples]:
    """Return train, dev and test of a task.

    Where SentEval cross-validates, fine-tuning splits once, drawn with `seed`: dev is 5 % of train,
    or dev and test 10 % each of all.

    Raises:
        PyengineError: for a task with nothing to train on, or too few examples to split.
    """
    if task.kind == SIMILARITY:
        raise PyengineError(f"the task {task.name} has nothing to train on")
    if task.protocol == SPLIT:
        return dict(task.parts)
    whole = task.parts["all" if task.protocol == INNER_K_FOLD else "train"]
    order = np.random.default_rng(seed).permutation(len(whole))
    if task.protocol == K_FOLD:
        dev, train = _apart(order, DEV_OF_TRAIN, task)
        return {"train": taken(whole, train), "dev": taken(whole, dev), "test": task.parts["test"]}
    n_test = max(1, round(TEST_OF_ALL * len(order)))
    test, rest = order[:n_test], order[n_test:]
    dev, train = _apart(rest, DEV_OF_ALL / (1 - TEST_OF_ALL), task)
    return {name: taken(whole, rows) for name, rows in zip(PARTS, (train, dev, test), strict=True)}


PARTS = ("train", "dev", "test")


def taken(examples: Examples, rows: np.ndarray) -> Examples:
    """Return some examples, in the given order."""
    second = examples.second
    return Examples(
        tuple(examples.first[i] for i in rows),
        None if second is None else tuple(second[i] for i in rows),
        examples.targets[rows],
    )


def labelled_rows(reader: Reader, examples: Examples, kind: str) -> list[Row]:
    """Read examples with their targets: int classes, or float scores, as `labels`."""
    plain = float if kind == SCORES else int
    rows = reader.rows(examples.first, examples.second)
    return [row | {"labels": plain(y)} for row, y in zip(rows, examples.targets, strict=True)]


def _apart(order: np.ndarray, share: float, task: Task) -> tuple[np.ndarray, np.ndarray]:
    n = max(1, round(share * len(order)))
    if n >= len(order):
        raise PyengineError(f"the task {task.name} has too few examples to hold some out")
    return order[:n], order[n:]


def _has_pairs(tokenizer: Any) -> bool:
    """Whether the tokenizer puts something between the sentences of a pair."""
    single, pair = (tokenizer.num_special_tokens_to_add(pair=pair) for pair in (False, True))
    return bool(pair > single)


def _cut(a: int, b: int, room: int) -> tuple[int, int]:
    """Return how much of two lengths is kept: the longer gives first."""
    if a + b <= room:
        return a, b
    half = room // 2
    if a <= half:
        return a, room - a
    if b <= room - half:
        return room - b, b
    return half, room - half
