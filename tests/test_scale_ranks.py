"""torchrun's ranks give the bytes of one process, whoever dies and however many there are."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Run
from rank_helpers import contents, finished, torchrun, write_corpus

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
    check_ranks(run, tmp_path, [name, model, corpus, *COMMANDS[name]], n_ranks=3)


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
    alone = write_script(tmp_path, "alone")
    subprocess.run([sys.executable, str(alone)], check=True)
    for name in ("first", "second"):
        assert contents(tmp_path / "ranks" / name) == contents(tmp_path / "alone" / name)


def demo_command(tmp_path: Path, out: str) -> list[object]:
    excerpt = tmp_path / "long.txt"
    if not excerpt.exists():
        text = EXCERPT.read_text(encoding="utf-8")
        excerpt.write_text("\n".join(line for line in text.splitlines() if line.strip()))
    small = ["--unit", "line", "--block-tokens", 500, "--batch-tokens", 256]
    return [
        "triggers",
        "demo",
        excerpt,
        "--k",
        5,
        "--checkpoint-blocks",
        1,
        *small,
        "--out",
        tmp_path / out,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_rank_costs_no_bits(run: Run, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    assert run(*demo_command(tmp_path, "whole")).code == 0
    command = ["-m", "pyengine", *demo_command(tmp_path, "ranks"), "--tasks", 12]
    process = torchrun(2, *command)
    done = wait_for(process, lambda: (tmp_path / "ranks" / "tasks").exists())
    time.sleep(chance.uniform(0, 0.5))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(chance.choice(children)), signal.SIGKILL)
    code, _, err = finished(process)
    assert done and code != 0, err
    assert not (tmp_path / "ranks" / "triggers.safetensors").exists()
    kept = TaskFolder(tmp_path / "ranks", 12).done()
    assert 0 < len(kept) < 12
    code, _, err = finished(torchrun(1 + 2 * seed, *command))
    assert code == 0, err
    assert contents(tmp_path / "ranks") == contents(tmp_path / "whole")


def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool]) -> bool:
    while process.poll() is None and not ready():
        time.sleep(0.005)
    return ready()


@pytest.mark.slow
def test_terminated_ranks_say_how_to_resume(tmp_path: Path) -> None:
    command = ["-m", "pyengine", *demo_command(tmp_path, "ranks"), "--tasks", 12]
    process = torchrun(2, *command)
    assert wait_for(process, lambda: (tmp_path / "ranks" / "tasks").exists())
    process.send_signal(signal.SIGTERM)
    code, out, err = finished(process)
    assert code != 0 and not out
    assert err.count("run the same command again to resume") == 1, err
    code, _, err = finished(torchrun(2, *command))
    assert code == 0, err


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
        (corpus, "--device", "cuda:0"): "device 'cuda:0' names one GPU",
    }.items():
        code, out, err = finished(torchrun(2, *common, *bad, "--out", tmp_path / "run"))
        assert code == 1 and not out
        assert len(re.findall("^error: ", err, re.MULTILINE)) == 1, err
        assert len(re.findall(f"^error: .*{words}", err, re.MULTILINE)) == 1, err
        assert "pyengine/__main__.py" not in err  # of a traceback; torchrun makes one of its own
    code, _, err = finished(torchrun(2, *common, corpus, "--out", tmp_path / "run", "--k", "x"))
    assert code == 1 and err.count("Usage:") == 1, err


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
