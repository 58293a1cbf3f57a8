"""Settings that every test shares."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

# The suite must not touch the user's cache, nor ask a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
# Of the processes that tests start, too; they run beside others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from command_line import WORDS, Outcome, Run
from hypothesis import settings
from tiny_models import tiny_model, word_tokenizer

from pyengine.cli import main

settings.register_profile("pyengine", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("pyengine")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tests run in parallel processes; each takes one thread, so that the bits are the same."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYENGINE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _nothing_mounted() -> Iterator[None]:
    """Undo what importing nnsight does to every object there is: argparse stumbles over it."""
    yield
    if hasattr(object, "save"):
        from nnsight._c import unmount

        unmount("save")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A file goes to one process as a whole (`--dist=loadfile`); those with the most slow tests
    # first, so that in the end no process waits for another.
    n_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -n_slow[item.path])
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["pyengine", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "120")
        capsys.readouterr()  # what fixtures printed
        with pytest.raises(SystemExit) as left:
            main()
        signal.signal(signal.SIGTERM, before)
        text = capsys.readouterr()
        return Outcome(int(left.value.code or 0), text.out, text.err)

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    tiny_model("gpt2").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(WORDS)
    return path
