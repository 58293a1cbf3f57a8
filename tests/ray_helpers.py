"""What the tests on Ray share; the workers import it too."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fact_helpers
import torch
from cached_helpers import POST
from extract_cases import SMALL, UnitSums, random_units
from tiny_models import tiny_model

import pyengine
from pyengine import Corpus, Moments
from pyengine.analyses.cached_activations import cache_activations
from pyengine.analyses.fact_neurons import fact_neurons
from pyengine.analyses.predictions import ffn_predictions
from pyengine.errors import PyengineError
from pyengine.scale.ray_worker import NO_TASK
from pyengine.scale.work import Work

UNITS = random_units(60)
N_TASKS = 5


def gpt2() -> Any:
    return tiny_model("gpt2"), None


def corpus() -> Corpus:
    return Corpus.from_token_ids(UNITS)


def own_reducers() -> dict[Any, Any]:
    """Return one of ours that adds, and one of our own."""
    sums = UnitSums(len(UNITS), 20)
    return {
        "blocks.1.hook_resid_post": [Moments(n_keys=20), sums],
        "hook_embed": [UnitSums(60, 20)],
    }


WORKS: dict[str, Callable[[], Work]] = {
    "triggers": lambda: Work(pyengine.trigger_examples, gpt2(), corpus(), (5,), SMALL),
    "extract": lambda: Work(pyengine.extract, gpt2(), corpus(), (own_reducers(),), SMALL),
    "predictions": lambda: Work(
        ffn_predictions, gpt2(), corpus(), ("layer",), SMALL | {"output_dist": True}
    ),
    "activations": lambda: Work(cache_activations, gpt2(), corpus(), (POST,), SMALL),
    "neurons": lambda: Work(
        fact_neurons,
        (tiny_model("gpt2"), fact_helpers.tokenizer()),
        fact_helpers.facts(9),
        settings={"block_facts": 2, "method": "left", "steps": 2, "share": 0.4},
    ),
}


def search(
    model: pyengine.Model,
    corpus: Any,
    *,
    shard: tuple[int, int],
    on_progress: Callable[[int, int], None] | None,
    log: Path,
    pause: float = 0.0,
    bad_task: int = -1,
    end: str = "",
    **settings: Any,
) -> Any:
    """Search for trigger examples, slowly; task `bad_task` ends as `end` says.

    Each task that begins becomes a line of the log: its number and the process.
    """
    if shard[1] != NO_TASK[1]:
        with log.open("a") as stream:
            stream.write(f"{shard[0]} {os.getpid()}\n")

    def slowly(done: int, total: int) -> None:
        time.sleep(pause)
        if shard[0] == bad_task and end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if shard[0] == bad_task and end:
            raise {"refuse": PyengineError, "fail": RuntimeError}[end](f"task {shard[0]} is bad")
        if on_progress is not None:
            on_progress(done, total)

    return pyengine.trigger_examples(
        model, corpus, shard=shard, on_progress=slowly, **SMALL | {"k": 5} | settings
    )


def slow_work(log: Path, **settings: Any) -> Work:
    return Work(search, gpt2(), corpus(), settings={"log": log, **settings})


def begun(log: Path) -> list[tuple[int, int]]:
    """Return (task, process) of the tasks that have begun, in order."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(task), int(pid)) for task, pid in map(str.split, lines)]


def results(run: Path) -> dict[str, bytes]:
    """Return the files of a complete run but for its provenance."""
    found = {str(path.relative_to(run)): path for path in run.rglob("*") if not path.is_dir()}
    assert found.pop("provenance.json")
    assert not [path for path in run.rglob("*") if path.name in ("shards", "parts", "tasks")]
    return {name: path.read_bytes() for name, path in found.items()}


def n_lost(run: Path) -> Any:
    return json.loads((run / "provenance.json").read_text())["lost_workers"]


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.02)


def demo_work() -> Work:
    """Work on the embedded model, on whatever device there is."""
    texts = Corpus.from_texts(["The first of many lines.", "And another one."] * 300)
    return Work(pyengine.trigger_examples, "demo", texts, (5,), {"block_tokens": 500})


def demo() -> None:
    """Run `demo_work` on a cluster of this machine; the argument is OUT."""
    from pyengine.scale.on_ray import run_on_ray

    run_on_ray(demo_work(), Path(sys.argv[1]), n_tasks=3)


def main() -> None:
    """Run slow work on a cluster of this machine; the arguments are OUT, LOG and PAUSE."""
    from pyengine.scale.on_ray import run_on_ray

    torch.set_num_threads(1)
    out, log, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    run_on_ray(slow_work(log, pause=pause), out, address="local", n_tasks=N_TASKS)
