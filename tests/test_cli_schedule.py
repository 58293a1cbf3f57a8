"""The options that say who carries out a command; what ranks print; the example for SLURM."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import Run
from rank_helpers import contents, one_rank, write_corpus

from pyengine import estimates
from pyengine.cli import app, display, main
from pyengine.cli import schedule as cli_schedule
from pyengine.embedded import FACTS
from pyengine.scale import ranks
from pyengine.scale.work import Work

ROOT = Path(__file__).parent.parent
BERT = ROOT / "tests" / "models" / "bert"
SMALL = ["--unit", "line", "--block-tokens", 20, "--batch-tokens", 40]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.txt")


def commands(model: Path, corpus: Path) -> dict[str, list[object]]:
    """Return the four commands that take these options."""
    facts = ["--facts", FACTS, "--max-facts", 1, "--method", "max_activation"]
    return {
        "triggers": ["triggers", model, corpus, "--k", 3, *SMALL],
        "predictions": ["predictions", model, corpus, *SMALL],
        "cache": ["cache", model, corpus, "--names", "blocks.0.mlp.hook_post", *SMALL],
        "pararel": ["neurons", "pararel", BERT, *facts],
    }


@pytest.mark.parametrize("name", ["triggers", "predictions", "cache", "pararel"])
def test_one_rank_prints_what_one_process_prints(
    run: Run,
    model: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    command = commands(model, corpus)[name]
    alone = run(*command, "--out", tmp_path / "run")
    assert alone.code == 0, alone.err
    expected = contents(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    one_rank(monkeypatch)
    found = run(*command, "--out", tmp_path / "run", "--tasks", 3)
    assert (found.code, found.out) == (0, alone.out)
    assert contents(tmp_path / "run") == expected
    timeless = [re.sub(r"in [\d.]+ s \(.*?/s\)", "", text) for text in (alone.err, found.err)]
    timeless = [re.sub(r"\S+ \S+ free", "", text) for text in timeless]
    assert found.err.startswith("memory: model")
    assert timeless[0] == timeless[1]
    assert " free" in found.err or name != "cache"

    again = run(*command, "--out", tmp_path / "run", "--json")
    assert json.loads(again.out)["run"] == str(tmp_path / "run")
    assert re.search(r" in [\d.]+ s \(.*?/s\)", found.err)
    assert re.search(r" in [\d.]+ s →", again.err)  # nothing was done: there is no rate


@pytest.mark.parametrize("name", ["triggers", "predictions", "cache", "pararel"])
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--tasks", 3], "leave tasks out"),
        (["--ray", "auto", "--shard", "0/2"], "leave the shard out"),
        (["--ray", "auto", "--tasks", 1], "tasks must be at least 2"),
        (["--allow-mixed"], "leave allow-mixed out"),
        (["--dry-run", "--shard", "0/2"], "leave the shard out"),
    ],
)
def test_options_that_exclude_each_other(
    run: Run, model: Path, corpus: Path, tmp_path: Path, name: str, more: list[object], words: str
) -> None:
    outcome = run(*commands(model, corpus)[name], "--out", tmp_path / "run", *more)
    assert outcome.code == 2
    assert words in " ".join(outcome.err.split())
    assert not (tmp_path / "run").exists()


def test_shards_and_ray_are_refused_in_ranks(
    run: Run, model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_rank(monkeypatch)
    command = [*commands(model, corpus)["triggers"], "--out", tmp_path / "run"]
    assert "leave the shard out" in run(*command, "--shard", "0/2").err
    assert "start without torchrun" in " ".join(run(*command, "--ray", "auto").err.split())


@pytest.mark.parametrize("name", ["triggers", "predictions", "cache", "pararel"])
def test_a_dry_run_leaves_nothing(
    run: Run,
    model: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setattr(estimates, "SAMPLE_SECONDS", 0.01)
    command = [*commands(model, corpus)[name], "--out", tmp_path / "run", "--dry-run"]
    found = run(*command, "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["seconds"]["value"] > 0
    assert not (tmp_path / "run").exists()
    one_rank(monkeypatch)
    monkeypatch.setenv("RANK", "1")
    other = run(*command, "--json")
    assert (other.code, other.out, other.err) == (0, "", "")


def test_options_of_a_corpus_are_not_of_texts(run: Run, model: Path) -> None:
    outcome = run("cache", model, "--text", "w1", "--names", "hook_embed", "--ray", "auto")
    assert outcome.code == 2 and "--ray is for a corpus" in outcome.err


def test_other_ranks_say_nothing(
    run: Run, model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def took_part(work: Work, out: Path, **more: Any) -> None:
        display.err.print("a warning of some rank")
        calls.append(more)

    monkeypatch.setattr(ranks, "run_on_ranks", took_part)
    monkeypatch.setattr(cli_schedule.err, "quiet", False)  # put back afterwards
    monkeypatch.setattr(cli_schedule.out, "quiet", False)
    one_rank(monkeypatch)
    monkeypatch.setenv("RANK", "1")
    done = run(*commands(model, corpus)["predictions"], "--out", tmp_path / "run", "--json")
    assert (done.code, done.out, done.err) == (0, "", "")
    (call,) = calls
    assert call["everywhere"] is False and call["on_progress"] is None


@pytest.mark.parametrize(
    ("bad", "code"), [(["missing.txt"], 1), (["corpus.txt", "--shard", "0/2"], 2)]
)
def test_what_every_rank_finds_the_first_of_a_machine_says(
    model: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    bad: list[str],
    code: int,
) -> None:
    one_rank(monkeypatch)
    name, *more = bad
    command = ["pyengine", "triggers", model, tmp_path / name, "--out", tmp_path / "run", *more]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    monkeypatch.setattr(cli_schedule.err, "quiet", False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for local in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", local)
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
        assert bool(capfd.readouterr().err) == (local == "0")


def test_only_what_a_call_does_counts(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").touch()
    for run, share in ((tmp_path, 0.25), (tmp_path / "fresh", 1.0)):
        shares = cli_schedule._Shares(run)
        assert shares.done_here == 0
        for done in (75, 80, 100):
            shares.at(done, 100)
        assert shares.done_here == share
    assert cli_schedule.Took(2.0, 0.25).text(4000, "tokens") == "in 2.0 s (500 tokens/s)"
    assert cli_schedule.Took(2.0, 0.0).text(4000, "tokens") == "in 2.0 s"


@pytest.mark.parametrize(
    ("given", "address"),
    [(["--ray", "head:6379", "--tasks", 9], "head:6379"), (["--tasks", 9, "--ray"], "any")],
)
def test_ray_is_given_the_work(
    run: Run,
    model: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[object],
    address: str,
) -> None:
    pytest.importorskip("ray")
    from pyengine.scale import on_ray

    def refused(work: Work, out: Path, **more: Any) -> None:
        assert (work.model, out) == (str(model), tmp_path / "run")
        assert (more["address"], more["n_tasks"], more["allow_mixed"]) == (address, 9, True)
        raise KeyboardInterrupt

    monkeypatch.setattr(on_ray, "run_on_ray", refused)
    command = [*commands(model, corpus)["triggers"], "--out", tmp_path / "run"]
    done = run(*command, *given, "--allow-mixed")
    assert done.code == 130 and "run the same command again" in done.err


def test_the_options_in_the_docs_exist() -> None:
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    parameters = group.commands["triggers"].params  # type: ignore[attr-defined]
    calls = re.findall(r"pyengine triggers (.*)", text)
    found = re.findall(r"(?<!\S)--[\w-]+", " ".join(calls)) + re.findall(r"`(--[\w-]+)", text)
    assert len(calls) > 4 and len(found) > 12
    others = {"--max-restarts", "--requeue"}  # of torchrun and sbatch
    assert set(found) - others <= {name for parameter in parameters for name in parameter.opts}


SBATCH = """#!/usr/bin/env bash
# Runs what is wrapped at once: of an array every job, one after the other.
printf '%s\\n' "$*" >> "$QUEUE"
last=0
for word in "$@"; do
    case "$word" in
        --array=0-*) last=${word#--array=0-} ;;
        --wrap=*) line=${word#--wrap=} ;;
        --output=*) output=${word#--output=} ;;
    esac
done
export SLURM_ARRAY_TASK_COUNT=$((last + 1))
for job in $(seq 0 "$last"); do
    SLURM_ARRAY_TASK_ID=$job bash -c "$line" > "${output/[%]a/$job}" 2>&1 || exit 1
done
echo '17;cluster'
"""


@pytest.mark.slow
def test_the_example_for_slurm(run: Run, model: Path, corpus: Path, tmp_path: Path) -> None:
    script, tools = ROOT / "examples" / "slurm_array.sh", tmp_path / "tools"
    subprocess.run(["bash", "-n", script], check=True)
    tools.mkdir()
    (tools / "sbatch").write_text(SBATCH)
    (tools / "pyengine").write_text(f'#!/bin/sh\nexec {sys.executable} -m pyengine "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    spaced = tmp_path / "a corpus.txt"
    corpus.rename(spaced)
    command = [model, spaced, tmp_path / "run", "--k", 3, *SMALL]
    done = subprocess.run(
        [script, *map(str, command)],
        env={
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "QUEUE": str(tmp_path / "queue"),
            "N_JOBS": "2",
            "CPUS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    array, merge = (tmp_path / "queue").read_text().splitlines()
    assert "--array=0-1" in array and "--dependency=afterok:17 " in merge
    whole = run("triggers", model, spaced, "--out", tmp_path / "whole", "--k", 3, *SMALL)
    assert whole.code == 0, whole.err
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    usage = subprocess.run([script, "gpt2"], capture_output=True, text=True, check=False)
    assert usage.returncode == 2 and "usage:" in usage.stderr
