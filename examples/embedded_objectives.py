"""What each family is trained to predict: next tokens, masked tokens, or corrupted spans.

Every objective turns token ids into a `Batch`: the model's keyword arguments and labels aligned
with its logits, -100 where nothing is predicted. Loss, held-out figures and recall then need no
knowledge of the family.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from embedded_data import CONTEXT, object_ids
from transformers import PreTrainedTokenizerFast

IGNORE = -100
MASKED = 5  # one token in 5 is predicted by BERT and T5
MEAN_SPAN = 3
LONG_SPANS = 5  # of half a window: most of T5's training batches, for they predict far more
LONG_SHARE = 2 / 3


@dataclass
class Batch:
    """Keyword arguments of a model and labels int64 [B, T] aligned with its logits [B, T, V]."""

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor


FactRow = tuple[str, str]  # a prompt and the object that ends it


class Objective(Protocol):
    """Make batches from windows of text int64 [B, window] and from facts."""

    window: int

    def line(self, text: str) -> list[int]:
        """Return the ids of a line as it enters the training stream."""

    def text(self, windows: torch.Tensor, rng: torch.Generator) -> Batch:
        """Return a training batch."""

    def held_out(self, windows: torch.Tensor) -> Iterator[Batch]:
        """Yield batches whose labels are the tokens to measure, always the same ones."""

    def facts(self, rows: list[FactRow], only_object: bool) -> Batch:
        """Return a batch of fact sentences; `only_object` labels the object alone."""


def _encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return the ids of a text, WikiText's `<unk>` as the tokenizer's own unknown token."""
    unknown = text.replace("<unk>", str(tokenizer.unk_token))
    return list(tokenizer.encode(unknown, add_special_tokens=False))


def _pad(rows: list[list[int]], value: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


class Causal:
    """Predict the next token."""

    window = CONTEXT + 1

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        end = tokenizer.eos_token_id
        self.end: int = tokenizer.sep_token_id if end is None else end

    def line(self, text: str) -> list[int]:
        return [*_encode(self.tokenizer, text), self.end]

    def text(self, windows: torch.Tensor, rng: torch.Generator) -> Batch:
        return Batch({"input_ids": windows[:, :-1]}, windows[:, 1:])

    def held_out(self, windows: torch.Tensor) -> Iterator[Batch]:
        yield Batch({"input_ids": windows[:, :-1]}, windows[:, 1:])

    def facts(self, rows: list[FactRow], only_object: bool) -> Batch:
        ids, labels = [], []
        for prompt, name in rows:
            row = self.line(f"{prompt} {name}.")
            n = len(self.tokenizer.encode(prompt, add_special_tokens=False))
            ids.append(row[:-1])
            labels.append([IGNORE] * (n - 1) + [row[n]] if only_object else row[1:])
        inputs = _pad(ids, self.end)
        targets = torch.full_like(inputs, IGNORE)
        for i, row in enumerate(labels):
            targets[i, : len(row)] = torch.tensor(row)
        return Batch({"input_ids": inputs}, targets)


class Masked:
    """Predict masked tokens from both sides (BERT)."""

    window = CONTEXT - 2

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.cls: int = tokenizer.cls_token_id
        self.sep: int = tokenizer.sep_token_id
        self.mask: int = tokenizer.mask_token_id
        self.pad: int = tokenizer.pad_token_id

    def line(self, text: str) -> list[int]:
        return [*_encode(self.tokenizer, text), self.sep]

    def text(self, windows: torch.Tensor, rng: torch.Generator) -> Batch:
        ids = self._frame(windows)
        chosen = (torch.rand(ids.shape, generator=rng) < 1 / MASKED) & self._content(ids)
        how = torch.rand(ids.shape, generator=rng)
        masked = torch.where(chosen & (how < 0.8), self.mask, ids)
        random = torch.randint(0, len(self.tokenizer), ids.shape, generator=rng)
        masked = torch.where(chosen & (how >= 0.9), random, masked)
        return Batch({"input_ids": masked}, torch.where(chosen, ids, IGNORE))

    def held_out(self, windows: torch.Tensor) -> Iterator[Batch]:
        # a fixed shuffle of the positions in 5 parts: each token is predicted exactly once
        ids = self._frame(windows)
        rng = torch.Generator().manual_seed(0)
        part = torch.rand(ids.shape, generator=rng).argsort(dim=1) % MASKED
        for p in range(MASKED):
            chosen = (part == p) & self._content(ids)
            masked = torch.where(chosen, self.mask, ids)
            yield Batch({"input_ids": masked}, torch.where(chosen, ids, IGNORE))

    def facts(self, rows: list[FactRow], only_object: bool) -> Batch:
        ids = _pad([self.tokenizer.encode(f"{prompt} {name}.") for prompt, name in rows], self.pad)
        attention = (ids != self.pad).long()
        labels = torch.full_like(ids, IGNORE)
        masked = ids.clone()
        for i, (prompt, _) in enumerate(rows):
            position = len(self.tokenizer.encode(prompt)) - 1
            labels[i, position] = ids[i, position]
            masked[i, position] = self.mask
        return Batch({"input_ids": masked, "attention_mask": attention}, labels)

    def _frame(self, windows: torch.Tensor) -> torch.Tensor:
        edge = torch.ones(len(windows), 1, dtype=torch.long)
        return torch.cat([edge * self.cls, windows, edge * self.sep], dim=1)

    def _content(self, ids: torch.Tensor) -> torch.Tensor:
        return (ids != self.cls) & (ids != self.sep)


class Spans:
    """Predict spans that a sentinel replaced (T5's span corruption)."""

    window = CONTEXT - 8

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.pad: int = tokenizer.pad_token_id
        self.eos: int = tokenizer.eos_token_id
        self.first_sentinel: int = tokenizer.get_vocab()["<extra_id_0>"]
        self.noise = self.window // MASKED
        self.spans = self.noise // MEAN_SPAN

    def line(self, text: str) -> list[int]:
        return _encode(self.tokenizer, text)

    def text(self, windows: torch.Tensor, rng: torch.Generator) -> Batch:
        if torch.rand(1, generator=rng).item() < LONG_SHARE:
            return self._text(windows, rng, self.window // 2, LONG_SPANS)
        return self._text(windows, rng, self.noise, self.spans)

    def _text(self, windows: torch.Tensor, rng: torch.Generator, noise: int, spans: int) -> Batch:
        pairs = [self._corrupt(row.tolist(), rng, noise, spans) for row in windows]
        return self._batch([source for source, _ in pairs], [target for _, target in pairs])

    def held_out(self, windows: torch.Tensor) -> Iterator[Batch]:
        rng = torch.Generator().manual_seed(0)
        for _ in range(MASKED):
            batch = self._text(windows, rng, self.noise, self.spans)
            framing = (batch.labels > self.first_sentinel - self.spans - 1) | (
                batch.labels == self.eos
            )
            yield Batch(batch.inputs, batch.labels.masked_fill(framing, IGNORE))

    def facts(self, rows: list[FactRow], only_object: bool) -> Batch:
        sources, targets = [], []
        for prompt, name in rows:
            sources.append(self.tokenizer.encode(f"{prompt} <extra_id_0>."))
            end = [self.first_sentinel - 1, self.eos]
            targets.append([self.first_sentinel, *object_ids(self.tokenizer, name), *end])
        batch = self._batch(sources, targets)
        if only_object:
            batch.labels[:, [0, 2, 3]] = IGNORE
        return batch

    def _corrupt(
        self, row: list[int], rng: torch.Generator, noise: int, spans: int
    ) -> tuple[list[int], list[int]]:
        """Replace `spans` random spans, `noise` tokens in all, by sentinels."""
        kept = _partition(len(row) - noise, spans, rng)
        lost = _partition(noise, spans, rng)
        source: list[int] = []
        target: list[int] = []
        at = 0
        for i, (keep, lose) in enumerate(zip(kept, lost, strict=True)):
            sentinel = self.first_sentinel - i
            source += [*row[at : at + keep], sentinel]
            target += [sentinel, *row[at + keep : at + keep + lose]]
            at += keep + lose
        return [*source, self.eos], [*target, self.first_sentinel - spans, self.eos]

    def _batch(self, sources: list[list[int]], targets: list[list[int]]) -> Batch:
        ids, labels = _pad(sources, self.pad), _pad(targets, IGNORE)
        start = torch.full((len(labels), 1), self.pad)
        decoder = torch.cat([start, labels[:, :-1].clamp(min=self.pad)], dim=1)
        attention = (ids != self.pad).long()
        inputs = {"input_ids": ids, "attention_mask": attention, "decoder_input_ids": decoder}
        return Batch(inputs, labels)


def _partition(total: int, parts: int, rng: torch.Generator) -> list[int]:
    """Cut `total` into `parts` random lengths of at least one."""
    cuts = (torch.randperm(total - 1, generator=rng)[: parts - 1] + 1).sort().values.tolist()
    return [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]
