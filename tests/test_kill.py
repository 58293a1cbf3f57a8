"""`kill -9` at any moment costs only the work since the last checkpoint, and no bits."""

import hashlib
import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from tiny_models import VOCAB, tiny_model

import pyengine

KILLS = 25


def search(out: Path, pause: float) -> None:
    """Search a random model, slowed down a little so that kills land everywhere."""
    rng = np.random.default_rng(0)
    units = [rng.integers(1, VOCAB, rng.integers(1, 14)).tolist() for _ in range(240)]
    pyengine.trigger_examples(
        pyengine.load((tiny_model("gpt2"), None)),
        pyengine.Corpus.from_token_ids(units),
        k=6,
        batch_tokens=48,
        block_tokens=60,
        checkpoint_blocks=1,
        out=out,
        on_progress=lambda *_: time.sleep(pause),
    )


def start(out: Path, pause: float) -> BaseProcess:
    # Forked, because importing torch anew for every kill would take most of the time.
    child = multiprocessing.get_context("fork").Process(target=search, args=(out, pause))
    child.start()
    return child


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    search(tmp_path / "whole", 0.0)
    rng = random.Random(0)
    run, kills, resumed = tmp_path / "run", 0, 0
    while kills < KILLS:
        before = _stamp(run / "shards")
        child = start(run, 0.02)
        # Kill at a random moment after the child has begun to write.
        while child.is_alive() and _stamp(run / "shards") == before:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        child.kill()
        child.join()
        if child.exitcode == 0:  # it finished first: begin again
            shutil.rmtree(run)
            continue
        assert child.exitcode == -signal.SIGKILL
        kills += 1
        resumed += before is not None
    assert resumed > KILLS // 4
    search(run, 0.0)
    results = [
        (folder / "triggers.safetensors").read_bytes() for folder in (run, tmp_path / "whole")
    ]
    assert len({hashlib.sha256(result).hexdigest() for result in results}) == 1


def _stamp(shards: Path) -> int | None:
    try:
        return max(file.stat().st_mtime_ns for file in shards.glob("*.safetensors"))
    except (ValueError, FileNotFoundError):
        return None


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
