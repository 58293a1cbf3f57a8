"""What the tests on Ray share; the workers import it too."""

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fact_helpers
import heads_helpers
import ray
import torch
from cached_helpers import POST
from extract_cases import SMALL, UnitSums, random_units
from patience import PATIENCE, be_killed, wait_for
from tiny_models import tiny_model, word_tokenizer

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
JOINED = "joined"  # a resource that only a node that joins later has; a file when it works


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
    "heads": lambda: Work(
        pyengine.extract_heads,
        (tiny_model("bert"), word_tokenizer()),
        heads_helpers.small_tasks(),
        settings=heads_helpers.SMALL,
    ),
}


def search(
    model: pyengine.Model,
    corpus: Any,
    *,
    shard: tuple[int, int],
    on_progress: Callable[[int, int], None] | None,
    log: Path,
    hold: str = "",
    bad_task: int = -1,
    end: str = "",
    **settings: Any,
) -> Any:
    """Search for trigger examples; on the way each task waits as `HOLDS[hold]` says.

    Each task that begins becomes a line of the log: its number and the process. The task `bad_task`
    ends as `end` says, once all others are done in the run directory beside the log.
    """
    task, calls = shard[0], itertools.count()
    if shard[1] == NO_TASK[1]:
        hold = ""
    else:
        with log.open("a") as stream:
            stream.write(f"{task} {os.getpid()}\n")

    def on_the_way(done: int, total: int) -> None:
        if next(calls) == task % 3:
            HOLDS[hold](log, task)
        if task == bad_task and end:
            wait_for(lambda: len(tasks_done(log.parent / "run")) == N_TASKS - 1)
            _end(task, end)
        if on_progress is not None:
            on_progress(done, total)

    found = pyengine.trigger_examples(
        model, corpus, shard=shard, on_progress=on_the_way, **SMALL | {"k": 5} | settings
    )
    if next(calls) <= task % 3:
        HOLDS[hold](log, task)
    return found


def _end(task: int, how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    errors = {"refuse": PyengineError, "fail": TypeError, "ill": OSError}
    raise errors[how](f"task {task} is bad")


def _first_three(log: Path, task: int) -> None:
    """The first three processes wait to be killed."""
    if processes(log).index(os.getpid()) < 3:
        be_killed()


def _joined(log: Path, task: int) -> None:
    """On the node that has joined, wait to be killed; on the others, for that."""
    joined = [node["NodeID"] for node in ray.nodes() if JOINED in node["Resources"]]
    if ray.get_runtime_context().get_node_id() in joined:
        (log.parent / JOINED).touch()
        be_killed()
    wait_for((log.parent / JOINED).exists)


def _last_task(log: Path, task: int) -> None:
    if task == N_TASKS - 1:
        be_killed()


HOLDS: dict[str, Callable[[Path, int], None]] = {
    "": lambda log, task: None,
    "first three": _first_three,
    "joined": _joined,
    "last task": _last_task,
}


def logged_work(log: Path, **settings: Any) -> Work:
    return Work(search, gpt2(), corpus(), settings={"log": log, **settings})


def begun(log: Path) -> list[tuple[int, int]]:
    """Return (task, process) of the tasks that have begun, in order."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(task), int(pid)) for task, pid in map(str.split, lines)]


def processes(log: Path) -> list[int]:
    """Return the processes that have begun tasks, in order."""
    return list(dict.fromkeys(pid for _, pid in begun(log)))


def tasks_done(run: Path) -> set[int]:
    return {int(path.name[:5]) for path in (run / "tasks").glob("*.json")}


def results(run: Path) -> dict[str, bytes]:
    """Return the files of a complete run but for its provenance."""
    found = {str(path.relative_to(run)): path for path in run.rglob("*") if not path.is_dir()}
    assert found.pop("provenance.json")
    assert not [path for path in run.rglob("*") if path.name in ("shards", "parts", "tasks")]
    return {name: path.read_bytes() for name, path in found.items()}


def n_lost(run: Path) -> Any:
    return json.loads((run / "provenance.json").read_text())["lost_workers"]


def demo_work() -> Work:
    """Work on the embedded model, on whatever device there is."""
    texts = Corpus.from_texts(["The first of many lines.", "And another one."] * 300)
    return Work(pyengine.trigger_examples, "demo", texts, (5,), {"block_tokens": 500})


def demo() -> None:
    """Run `demo_work` on a cluster of this machine; the argument is OUT."""
    from pyengine.scale.on_ray import run_on_ray

    run_on_ray(demo_work(), Path(sys.argv[1]), n_tasks=3)


def main() -> None:
    """Run logged work on a cluster of this machine; the arguments are OUT, LOG and HOLD."""
    from pyengine.scale import on_ray

    torch.set_num_threads(1)
    on_ray.SWEEP_SECONDS = PATIENCE
    out, log, hold = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    on_ray.run_on_ray(logged_work(log, hold=hold), out, address="local", n_tasks=N_TASKS)
