"""The ways to extract activations: run in turn, several rounds, and compared with each other."""

import gc
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks import _peers_huggingface, _peers_pyengine, _peers_tools
from benchmarks._peers_common import Answer, Run, Setting
from benchmarks._values_common import Cost, cost, duration

BODY, TOPK, STOPPED = "body", "hooks + topk", "hook that raises"
TRANSFORMER_LENS, NNSIGHT = "TransformerLens + topk", "nnsight + topk"
MODEL, FUSED, ONE_LAYER = "pyengine model", "pyengine fused", "run_with_cache one layer"


class Case(NamedTuple):
    """A way: what prepares it, and the name of the way whose answer it must give."""

    prepare: Callable[[Setting], Run]
    same_as: str | None = None


CASES = {
    BODY: Case(_peers_huggingface.body),
    "lm": Case(_peers_huggingface.lm),
    "hooks store": Case(_peers_huggingface.hooks_store),
    TOPK: Case(_peers_huggingface.hooks_topk),
    "StreamingTopK in hooks": Case(_peers_huggingface.hooks_streaming, TOPK),
    TRANSFORMER_LENS: Case(_peers_tools.transformer_lens, TOPK),
    NNSIGHT: Case(_peers_tools.nnsight, TOPK),
    MODEL: Case(_peers_pyengine.model_activation, TOPK),
    FUSED: Case(_peers_pyengine.fused_activation, TOPK),
    STOPPED: Case(_peers_huggingface.one_layer),
    ONE_LAYER: Case(_peers_pyengine.one_layer, STOPPED),
}
TOLERANCE = 1e-4  # between the activations of different implementations

# What the rounds of each case cost, and what it answered in the last.
Rounds = tuple[dict[str, list[Cost]], dict[str, Answer]]


def with_peers(chosen: Iterable[str]) -> list[str]:
    """Add the body and the cases that the chosen ones must agree with; in the order of `CASES`."""
    chosen = {BODY, *chosen}
    wanted = chosen | {CASES[name].same_as for name in chosen}
    return [name for name in CASES if name in wanted]


def interleaved(setting: Setting, names: Iterable[str]) -> Rounds:
    """Run every case once per round, after a round on two batches that does not count."""
    runs = {name: CASES[name].prepare(setting) for name in names}
    costs: dict[str, list[Cost]] = {name: [] for name in runs}
    answers: dict[str, Answer] = {}
    with _frozen():
        for number in range(setting.scale.rounds + 1):
            ids = setting.ids if number else setting.ids[: 2 * setting.scale.batch]
            for name, run in runs.items():
                gc.collect()
                spent, answer = cost(partial(run, ids))
                say = f"{setting.family}, round {number}: {name}, CPU {duration(spent.cpu_s)}"
                print(say, file=sys.stderr, flush=True)
                if number:
                    costs[name].append(spent)
                if answer is not None:
                    answers[name] = answer
    return costs, answers


@contextmanager
def _frozen() -> Iterator[None]:
    """Spare the cases the search for garbage in all that the peers have loaded."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def figures(costs: dict[str, list[Cost]], answers: dict[str, Answer]) -> dict[str, Any]:
    """Sum every case up: medians, the rounds themselves, and how its answer differs.

    `of_body` is the median over the rounds of the CPU time over the body's in the same round, so
    that what slows a round slows both; `of_body_spread` its least and greatest.
    """
    found: dict[str, Any] = {}
    for name, spent in costs.items():
        wall, cpu = zip(*spent, strict=True)
        of_body = ratios(spent, costs[BODY])
        found[name] = {
            "wall_s": statistics.median(wall),
            "cpu_s": statistics.median(cpu),
            "wall_s_rounds": wall,
            "cpu_s_rounds": cpu,
            "of_body": statistics.median(of_body),
            "of_body_spread": [min(of_body), max(of_body)],
        }
        if (same_as := CASES[name].same_as) is not None:
            found[name] |= compare(answers[name], answers[same_as])
    return found


def ratios(spent: list[Cost], peer: list[Cost]) -> list[float]:
    """Return CPU times over a peer's, round by round."""
    return [own.cpu_s / other.cpu_s for own, other in zip(spent, peer, strict=True)]


def compare(found: Answer, expected: Answer) -> dict[str, float]:
    """Return the largest difference of values, and the share of ids that both answers have."""
    off = {"difference": (found.values - expected.values).abs().max().item()}
    if found.ids is None or expected.ids is None:
        return off
    # No key has an id twice: what is there twice is in both answers.
    both = torch.cat([found.ids, expected.ids], 1).sort(1).values
    shared = (both[:, 1:] == both[:, :-1]).sum().item()
    return off | {"same_ids": shared / expected.ids.numel()}


def wrong(case: dict[str, Any]) -> bool:
    """Return whether values differ by more than they may; NaN does."""
    return not case.get("difference", 0.0) <= TOLERANCE
