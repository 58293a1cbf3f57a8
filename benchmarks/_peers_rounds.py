"""The ways to extract activations: run in turn, several rounds, and compared with each other."""

import gc
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import _peers_huggingface, _peers_pyengine, _peers_slow, _peers_tools
from benchmarks._gpu_common import synchronize
from benchmarks._peers_common import Answer, Run, Setting
from benchmarks._values_common import Cost, cost, duration

BODY, TOPK, STOPPED = "body", "hooks + topk", "hook that raises"
TRANSFORMER_LENS, NNSIGHT = "TransformerLens + topk", "nnsight + topk"
MODEL, FUSED, ONE_LAYER = "pyengine model", "pyengine fused", "run_with_cache one layer"
FF_LAYERS, STORE_ALL = "ff-layers' search", "store all above 0"


class Case(NamedTuple):
    """A way to extract activations.

    Attributes:
        prepare: makes it ready to run.
        same_as: the name of the way whose answer it must give.
        slow: what must give its answer, for a way that is run on `Scale.sliced` sequences only.
    """

    prepare: Callable[[Setting], Run]
    same_as: str | None = None
    slow: Callable[[Setting], Run] | None = None

    def ids(self, setting: Setting) -> Tensor:
        """Return the token ids that it is run on."""
        return setting.ids if self.slow is None else setting.ids[: setting.scale.sliced]


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
    FF_LAYERS: Case(_peers_slow.ff_layers, slow=_peers_pyengine.every_sentence),
    STORE_ALL: Case(_peers_slow.store_all, slow=_peers_pyengine.above_zero),
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
            for name, run in runs.items():
                ids = CASES[name].ids(setting) if number else setting.ids[: setting.scale.sliced]
                gc.collect()
                spent, answer = cost(partial(_finished, setting, run, ids))
                say = f"{setting.family}, round {number}: {name}, CPU {duration(spent.cpu_s)}"
                print(say, file=sys.stderr, flush=True)
                if number:
                    costs[name].append(spent)
                if answer is not None:
                    answers[name] = answer
    return costs, answers


def _finished(setting: Setting, run: Run, ids: Tensor) -> Answer | None:
    answer = run(ids)
    synchronize(torch.device(setting.scale.device))
    return answer


@contextmanager
def _frozen() -> Iterator[None]:
    """Spare the cases the search for garbage in all that the peers have loaded."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def figures(
    setting: Setting, costs: dict[str, list[Cost]], answers: dict[str, Answer]
) -> dict[str, Any]:
    """Sum every case up: medians, the rounds themselves, and how its answer differs.

    `of_body` is the median over the rounds of the time per token over the body's in the same
    round, so that what slows a round slows both; `of_body_spread` its least and greatest. It is CPU
    time, on a GPU that of the clock.
    """
    found: dict[str, Any] = {}
    for name, spent in costs.items():
        case = CASES[name]
        wall, cpu = zip(*spent, strict=True)
        share = case.ids(setting).numel() / setting.ids.numel()
        of_body = [ratio / share for ratio in ratios(setting, spent, costs[BODY])]
        found[name] = {
            "tokens": case.ids(setting).numel(),
            "wall_s": statistics.median(wall),
            "cpu_s": statistics.median(cpu),
            "wall_s_rounds": wall,
            "cpu_s_rounds": cpu,
            "of_body": statistics.median(of_body),
            "of_body_spread": [min(of_body), max(of_body)],
        }
        if case.same_as is not None:
            found[name] |= compare(answers[name], answers[case.same_as])
        if case.slow is not None:
            expected = case.slow(setting)(case.ids(setting))
            assert expected is not None
            found[name] |= compare(answers[name], expected)
        if name in answers and answers[name].stored_bytes:
            found[name]["stored_bytes"] = answers[name].stored_bytes
    return found


def ratios(setting: Setting, spent: list[Cost], peer: list[Cost]) -> list[float]:
    """Return times over a peer's, round by round."""
    clock = attrgetter("cpu_s" if setting.scale.device == "cpu" else "wall_s")
    return [clock(own) / clock(other) for own, other in zip(spent, peer, strict=True)]


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
