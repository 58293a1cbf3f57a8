"""torchrun's ranks give the bytes of one process, whoever dies and however many there are."""

import json
import os
import random
import re
import runpy
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Run
from patience import wait_for
from rank_helpers import HELD, LAST, contents, finished, torchrun, write_corpus

import pyengine
from pyengine.embedded import EXCERPT, FACTS
from pyengine.scale.tasks import TaskFolder

BERT = Path(__file__).parent / "models" / "bert"
SMALL = ["--unit", "line", "--block-tokens", 20, "--batch-tokens", 40]
COMMANDS: dict[str, list[object]] = {
    "triggers": ["--k", 4, "--per", "token", *SMALL],
    "predictions": ["--position", "all", "--output-dist", *SMALL],
    "cache": ["--names", "blocks.1.mlp.hook_post", *SMALL],
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.txt")


def check_ranks(run: Run, tmp_path: Path, command: list[object], n_ranks: int = 2) -> None:
    """Compare ranks with one process, and with shards that were merged."""
    assert run(*command, "--out", tmp_path / "whole").code == 0
    for shard in ("0/2", "1/2"):
        part = tmp_path / f"part-{shard[0]}"
        assert run(*command, "--shard", shard, "--out", part).code == 0
    parts = [tmp_path / "part-0", tmp_path / "part-1"]
    assert run("merge", *parts, "--out", tmp_path / "merged").code == 0

    arguments = ["-m", "pyengine", *command, "--tasks", 5, "--out", tmp_path / "ranks", "--json"]
    code, out, err = finished(torchrun(n_ranks, *arguments))
    assert code == 0, err
    assert json.loads(out)["run"] == str(tmp_path / "ranks")  # one rank speaks
    assert err.count(f"→ {tmp_path / 'ranks'}") == 1 and "Traceback" not in err
    expected = contents(tmp_path / "whole")
    assert contents(tmp_path / "ranks") == expected == contents(tmp_path / "merged")
    provenance = json.loads((tmp_path / "ranks" / "provenance.json").read_text())
    assert provenance["ranks"] == n_ranks and provenance["seconds"] > 0


def test_triggers(run: Run, model: Path, corpus: Path, tmp_path: Path) -> None:
    check_ranks(run, tmp_path, ["triggers", model, corpus, *COMMANDS["triggers"]])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predictions", "cache"])
def test_predictions_and_activations(
    run: Run, model: Path, corpus: Path, tmp_path: Path, name: str
) -> None:
    n_ranks = 3 if name == "predictions" else 2
    check_ranks(run, tmp_path, [name, model, corpus, *COMMANDS[name]], n_ranks)


@pytest.mark.slow
def test_facts(run: Run, tmp_path: Path) -> None:
    small = ["--facts", FACTS, "--max-facts", 3, "--block-facts", 2, "--method", "left"]
    check_ranks(run, tmp_path, ["neurons", "pararel", BERT, *small, "--steps", 2])


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
from extract_cases import Largest, UnitSums, random_units
from tiny_models import tiny_model
import pyengine
from pyengine import Corpus, Moments, StreamingTopK

torch.set_num_threads(1)
model = pyengine.load((tiny_model("gpt2"), None))
seen = []
for name in ("first", "second"):  # several calls in one process
    reducers = {{
        "blocks.*.mlp.hook_post": [StreamingTopK(5, 3 * 37)],
        "transformer.h.1.mlp.c_proj": [Moments(37), Largest(37)],
        "blocks.0.hook_resid_post": [UnitSums(60, 20)],
    }}
    found = pyengine.scale_out(
        pyengine.extract, model, Corpus.from_token_ids(random_units()), reducers,
        out=Path({out!r}) / name, batch_tokens=48, block_tokens=40,
        on_progress=lambda *at: seen.append(at), **{more!r},
    )
    assert found["transformer.h.1.mlp.c_proj"][1].compute().shape == (37,)
assert not torch.distributed.is_initialized()
if seen:
    assert seen == sorted(seen, key=lambda at: at[1]) and seen[-1][0] == seen[-1][1]
    print("progress", len(seen))
"""


def write_script(tmp_path: Path, out: str, **more: Any) -> Path:
    path = tmp_path / f"{out}.py"
    tests = str(Path(__file__).parent)
    path.write_text(SCRIPT.format(tests=tests, out=str(tmp_path / out), more=more))
    return path


@pytest.mark.slow
def test_extract_with_reducers_of_ones_own(tmp_path: Path) -> None:
    code, out, err = finished(torchrun(2, write_script(tmp_path, "ranks", tasks=6)))
    assert code == 0, err
    assert out.count("progress") == 1
    runpy.run_path(str(write_script(tmp_path, "alone")))
    for name in ("first", "second"):
        assert contents(tmp_path / "ranks" / name) == contents(tmp_path / "alone" / name)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[object], dict[str, bytes]]:
    """A command over the embedded text, without --out, and what one process finds with it."""
    folder = tmp_path_factory.mktemp("demo")
    text = EXCERPT.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip()]
    (folder / "text.txt").write_text("\n".join(lines))
    found = pyengine.trigger_examples(
        pyengine.load("demo"),
        pyengine.Corpus.from_path(folder / "text.txt", unit="line"),
        5,
        block_tokens=500,
        batch_tokens=256,
        out=folder / "run",
        cache_dir=folder / "cache",
    )
    assert found.record["exact"]
    small = ["--unit", "line", "--block-tokens", 500, "--batch-tokens", 256]
    command = ["triggers", "demo", folder / "text.txt", "--k", 5, "--checkpoint-blocks", 1]
    return [*command, *small], contents(folder / "run")


def stop(command: list[object], tmp_path: Path, act: Callable[[int], None]) -> tuple[str, str]:
    """Begin it with two ranks, and stop them once a task is done; return stdout and stderr."""
    script = tmp_path / "held.py"
    script.write_text(HELD)
    process = torchrun(2, script, *command)
    wait_for(lambda: TaskFolder(tmp_path / "ranks", 12).done() or process.poll() is not None)
    act(process.pid)
    code, out, err = finished(process)
    assert code != 0, err
    assert not (tmp_path / "ranks" / "triggers.safetensors").exists()
    assert TaskFolder(tmp_path / "ranks", 12).done() <= {*range(LAST + 1)}
    return out, err


@pytest.mark.slow
def test_a_killed_rank_costs_no_bits(
    demo: tuple[list[object], dict[str, bytes]], tmp_path: Path
) -> None:
    def kill(pid: int) -> None:
        chance = random.Random(0)
        time.sleep(chance.uniform(0, 0.5))
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(chance.choice(children)), signal.SIGKILL)

    command, expected = [*demo[0], "--out", tmp_path / "ranks", "--tasks", 12], demo[1]
    stop(command, tmp_path, kill)
    code, _, err = finished(torchrun(3, "-m", "pyengine", *command))
    assert code == 0, err
    assert contents(tmp_path / "ranks") == expected


@pytest.mark.slow
def test_terminated_ranks_say_how_to_resume(
    demo: tuple[list[object], dict[str, bytes]], tmp_path: Path
) -> None:
    command, expected = [*demo[0], "--out", tmp_path / "ranks", "--tasks", 12], demo[1]
    out, err = stop(command, tmp_path, lambda pid: os.kill(pid, signal.SIGTERM))
    assert not out
    assert err.count("run the same command again to resume") == 1, err
    code, _, err = finished(torchrun(1, "-m", "pyengine", *command))
    assert code == 0, err
    assert contents(tmp_path / "ranks") == expected


@pytest.mark.slow
def test_torchrun_restarts_what_has_died(
    run: Run, model: Path, corpus: Path, tmp_path: Path
) -> None:
    command = [model, corpus, *COMMANDS["triggers"]]
    assert run("triggers", *command, "--out", tmp_path / "whole").code == 0
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, signal\n"
        "from pyengine.cli import main\n"
        "from pyengine.scale.tasks import TaskFolder\n"
        "finish = TaskFolder.finish\n"
        "def dying(self, task, **facts):\n"
        "    if task == 2 and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    finish(self, task, **facts)\n"
        "TaskFolder.finish = dying\n"
        "main()\n"
    )
    more = ["--tasks", 5, "--out", tmp_path / "ranks"]
    code, _, err = finished(torchrun(2, "--max-restarts", 1, script, "triggers", *command, *more))
    assert code == 0, err
    assert contents(tmp_path / "ranks") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_what_is_wrong_is_said_once(model: Path, corpus: Path, tmp_path: Path) -> None:
    common = ["-m", "pyengine", "triggers", model]
    for bad, words in {
        (tmp_path / "missing.txt",): "missing.txt",
        (corpus, "--k", 0): "k must be from 1 to 1024, got 0",
    }.items():
        code, out, err = finished(torchrun(2, *common, *bad, "--out", tmp_path / "run"))
        assert code == 1 and not out
        assert len(re.findall("^error: ", err, re.MULTILINE)) == 1, err
        assert len(re.findall(f"^error: .*{words}", err, re.MULTILINE)) == 1, err
        assert "pyengine/__main__.py" not in err  # of a traceback; torchrun makes one of its own


@pytest.mark.slow
def test_machines_that_share_no_directory(tmp_path: Path) -> None:
    script = write_script(tmp_path, "ranks", tasks=6)
    lines = script.read_text().replace(
        "import pyengine\n",
        "import os, pyengine\nfrom pyengine.scale import ranks\nranks.VISIBLE_SECONDS = 0.5\n",
        1,
    )
    apart = f"Path({str(tmp_path / 'ranks')!r}) / os.environ['RANK'] / name"
    script.write_text(lines.replace(f"Path({str(tmp_path / 'ranks')!r}) / name", apart))
    code, _, err = finished(torchrun(2, script))
    assert code == 1
    assert "which other machines did elsewhere: give a directory that all of them share" in err
    manifest = json.loads((tmp_path / "ranks" / "0" / "first" / "manifest.json").read_text())
    assert manifest["status"] == "incomplete"


@pytest.mark.gpu
def test_ranks_on_a_gpu(run: Run, model: Path, corpus: Path, tmp_path: Path) -> None:
    command = ["triggers", model, corpus, "--device", "cuda", *COMMANDS["triggers"]]
    check_ranks(run, tmp_path, command, n_ranks=1)
