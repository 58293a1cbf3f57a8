"""`kill -9` at any moment costs only the work since the last checkpoint, and no bits."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE, kill_often, wait_for
from tiny_models import VOCAB, tiny_model

import pyengine

KILLS = 20


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    search(whole, 0.0)
    kill_often(lambda: search(run, 0.02), run, "shards/*.safetensors", KILLS)
    search(run, 0.0)
    results = [(folder / "triggers.safetensors").read_bytes() for folder in (run, whole)]
    assert results[0] == results[1]


def _hear_interrupts() -> None:
    """Undo that what a shell starts in the background ignores them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_and_says_how_to_resume(tmp_path: Path, which: signal.Signals) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("a line of words that is not short at all\n" * 20_000)
    command = [sys.executable, "-m", "pyengine", "triggers", "demo", str(corpus), "--k", "5"]
    command += ["--unit", "line", "--out", str(tmp_path / "run")]
    command += ["--block-tokens", "200", "--checkpoint-blocks", "100"]
    child = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=_hear_interrupts
    )
    file = tmp_path / "run" / "shards" / "00000-of-00001.safetensors"
    wait_for(lambda: file.exists() or child.poll() is not None)
    before = file.stat().st_mtime_ns
    child.send_signal(which)
    message = child.communicate(timeout=PATIENCE)[1]
    assert child.returncode == 130, message
    assert message.strip().splitlines()[-1].endswith("run the same command again to resume")
    assert file.stat().st_mtime_ns > before
