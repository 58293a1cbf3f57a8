"""The training loop and the measurements, the same for every family."""

import math
import random
import time
from collections.abc import Iterator
from typing import Any

import torch
from embedded_facts import Fact
from embedded_objectives import IGNORE, Batch, FactRow, Objective

FACT_ROWS = 24  # fact sentences in a step
FACT_WEIGHT = 0.5
HELD_OUT_ROWS = 64


def batch_loss(model: Any, batch: Batch, device: str, reduction: str = "mean") -> torch.Tensor:
    """Return the cross-entropy in nats of the labelled positions."""
    inputs = {name: value.to(device) for name, value in batch.inputs.items()}
    logits = model(**inputs).logits
    labels = batch.labels.to(device)
    loss: torch.Tensor = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE, reduction=reduction
    )
    return loss


def token_stream(objective: Objective, lines: list[str]) -> torch.Tensor:
    """Return the ids of all lines, one after the other."""
    return torch.tensor([i for line in lines for i in objective.line(line)])


def windows(stream: torch.Tensor, size: int, rows: int, rng: torch.Generator) -> torch.Tensor:
    """Return `rows` random windows int64 [rows, size] of the stream."""
    starts = torch.randint(0, len(stream) - size + 1, (rows, 1), generator=rng)
    return stream[starts + torch.arange(size)]


def cycle_facts(facts: list[Fact], seed: int) -> Iterator[FactRow]:
    """Yield the training paraphrases for ever, reshuffled each round."""
    rows = [(prompt, fact.object) for fact in facts for prompt in fact.training_prompts()]
    rng = random.Random(seed)
    while True:
        rng.shuffle(rows)
        yield from rows


def train_model(
    model: Any,
    objective: Objective,
    lines: list[str],
    facts: list[Fact],
    *,
    steps: int,
    rows: int,
    lr: float,
    embedding_lr: float,
    seed: int,
    device: str,
    name: str,
) -> None:
    """Run AdamW with a linear warm-up and a cosine to a fiftieth; print a line now and then."""
    stream = token_stream(objective, lines)
    rng = torch.Generator().manual_seed(seed)
    fact_rows = cycle_facts(facts, seed)
    embedding = model.get_input_embeddings().weight
    others = [parameter for parameter in model.parameters() if parameter is not embedding]
    groups: list[dict[str, Any]] = [
        {"params": [embedding], "lr": lr * embedding_lr},
        {"params": others},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    warm = max(1, min(200, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / warm, 0.02 + 0.49 * (1 + math.cos(math.pi * s / steps))),
    )
    model.to(device).train()
    begun = time.monotonic()
    for step in range(1, steps + 1):
        text = objective.text(windows(stream, objective.window, rows, rng), rng)
        fact = objective.facts([next(fact_rows) for _ in range(FACT_ROWS)], only_object=False)
        text_loss = batch_loss(model, text, device)
        fact_loss = batch_loss(model, fact, device)
        optimizer.zero_grad(set_to_none=True)
        (text_loss + FACT_WEIGHT * fact_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            took = time.monotonic() - begun
            print(
                f"{name} {step}/{steps}: text {text_loss.item():.3f}, facts {fact_loss.item():.3f},"
                f" {step * rows * objective.window / took:,.0f} tokens/s,"
                f" {took / step * (steps - step):.0f} s left",
                flush=True,
            )


@torch.no_grad()
def measure(
    model: Any, objective: Objective, lines: list[str], facts: list[Fact]
) -> dict[str, float]:
    """Return held-out loss, unigram entropy of the predicted tokens, and recall of the facts.

    The entropy is that of the predicted tokens' own frequencies: no unigram model does better.
    """
    model.eval()
    stream = token_stream(objective, lines)
    rows = stream[: len(stream) // objective.window * objective.window].view(-1, objective.window)
    total, predicted = 0.0, []
    for chunk in rows.split(HELD_OUT_ROWS):
        for batch in objective.held_out(chunk):
            total += batch_loss(model, batch, "cpu", reduction="sum").item()
            predicted.append(batch.labels[batch.labels != IGNORE])
    counts = torch.cat(predicted).bincount().double()
    share = counts[counts > 0] / counts.sum()
    held_out = [(fact.prompts()[fact.held_out], fact.object) for fact in facts]
    trained = [(prompt, fact.object) for fact in facts for prompt in fact.training_prompts()]
    return {
        "held_out_loss": round(total / counts.sum().item(), 4),
        "unigram_entropy": round(-(share * share.log()).sum().item(), 4),
        "predicted_tokens": int(counts.sum()),
        "fact_recall_held_out_paraphrase": round(recall(model, objective, held_out), 4),
        "fact_recall_trained_paraphrases": round(recall(model, objective, trained), 4),
    }


@torch.no_grad()
def recall(model: Any, objective: Objective, rows: list[FactRow]) -> float:
    """Return the share of rows whose object is the argmax over the whole vocabulary."""
    batch = objective.facts(rows, only_object=True)
    best = model(**batch.inputs).logits.argmax(-1)
    asked = batch.labels != IGNORE
    return (best[asked] == batch.labels[asked]).double().mean().item()
