"""`kill -9` at any moment costs only the work since the last checkpoint, and no bits."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = 20

# The child searches a random model; it is slowed down a little so that kills land everywhere.
CHILD = """
import sys, time
import numpy as np
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import pyengine
from tiny_models import VOCAB, tiny_model
rng = np.random.default_rng(0)
units = [rng.integers(1, VOCAB, rng.integers(1, 14)).tolist() for _ in range(240)]
pyengine.trigger_examples(
    pyengine.load((tiny_model("gpt2"), None)),
    pyengine.Corpus.from_token_ids(units),
    k=6, batch_tokens=48, block_tokens=60, checkpoint_blocks=1, out=sys.argv[1],
    on_segment=lambda *_: time.sleep(float(sys.argv[2])),
)
"""


def start(out: Path, pause: float) -> subprocess.Popen[bytes]:
    code = CHILD.format(tests=str(Path(__file__).parent))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code, str(out), str(pause)], env=environment)


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    assert start(tmp_path / "whole", 0.0).wait() == 0
    rng = random.Random(0)
    kills = resumed = 0
    run = tmp_path / "run"
    while kills < KILLS:
        child = start(run, 0.05)
        shards = run / "shards"
        # Kill at a random moment after the child has begun to write.
        before = _stamp(shards)
        while child.poll() is None and _stamp(shards) == before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        if child.poll() is not None:
            assert child.returncode == 0
            _forget(run)  # it finished first: begin again
            continue
        child.send_signal(signal.SIGKILL)
        child.wait()
        kills += 1
        resumed += before is not None
    assert resumed > KILLS // 4
    assert start(run, 0.0).wait() == 0
    name = "triggers.safetensors"
    digests = {
        hashlib.sha256((r / name).read_bytes()).hexdigest() for r in (run, tmp_path / "whole")
    }
    assert len(digests) == 1


def _stamp(shards: Path) -> int | None:
    try:
        return max(file.stat().st_mtime_ns for file in shards.glob("*.safetensors"))
    except (ValueError, FileNotFoundError):
        return None


def _forget(run: Path) -> None:
    for file in sorted(run.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    run.rmdir()


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_and_says_how_to_resume(tmp_path: Path, which: signal.Signals) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("a line of words that is not short at all\n" * 20_000)
    command = [sys.executable, "-m", "pyengine", "triggers", "demo", str(corpus)]
    command += ["--unit", "line", "--out", str(tmp_path / "run"), "--checkpoint-blocks", "1"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    shards = tmp_path / "run" / "shards"
    deadline = time.monotonic() + 120
    while not list(shards.glob("*.lock")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2)
    child.send_signal(which)
    message = child.communicate(timeout=60)[1]
    assert child.returncode == 130, message
    assert message.strip().splitlines()[-1].endswith("run the same command again to resume")
    assert list(shards.glob("*.safetensors"))
