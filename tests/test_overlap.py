"""Tokenising beside computing: the same bits, and nothing left behind."""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from overlap_helpers import SMALL, Together, assert_no_thread_is_left, corpus, model, search, texts
from tiny_models import word_tokenizer

import pyengine
from pyengine import tokenizing
from pyengine.extraction import head_start
from pyengine.extraction.extract import extract
from pyengine.reducers.moments import Moments
from pyengine.reducers.topk import StreamingTopK
from pyengine.store import TokenStore

SITE = "blocks.1.mlp.hook_post"


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    yield
    assert_no_thread_is_left()


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Together]:
    return partial(Together, monkeypatch)


def extraction(exact: bool = True, **more: Any) -> Any:
    reducers = [StreamingTopK(5, 37), StreamingTopK(3, 37, per="token", exclude=(9, 12))]
    asked: dict[str, Any] = {SITE: reducers} if exact else {SITE: [*reducers, Moments(37)]}
    return extract(model(), corpus(), asked, **SMALL, **more)


def files(run: Path) -> dict[str, bytes]:
    """All files of a run; of the provenance only what it tells."""
    found = {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    names = sorted(json.loads(found.pop("provenance.json")))
    return {**found, "provenance": json.dumps(names).encode()}


CALLS: dict[str, Callable[..., Any]] = {
    "per unit": search,
    "per token": lambda **more: search(per="token", **more),
    "some dims of BERT": lambda **more: search("bert", dims=[3, 30], **more),
    "T5": lambda **more: search("t5", **more),
    "BOS, the model's activation": lambda **more: search(bos=True, activation="model", **more),
    "extract": extraction,
}


@pytest.mark.parametrize("what", CALLS)
def test_every_file_has_the_same_bits(
    what: str, together: Callable[..., Together], tmp_path: Path
) -> None:
    CALLS[what](out=tmp_path / "plain", cache_dir=tmp_path / "a")
    watched = together()
    CALLS[what](out=tmp_path / "beside", cache_dir=tmp_path / "b")
    assert watched.early
    assert files(tmp_path / "beside") == files(tmp_path / "plain")
    cached = [sorted((tmp_path / name / "tokens").rglob("*.*")) for name in "ab"]
    assert [path.read_bytes() for path in cached[0]] == [path.read_bytes() for path in cached[1]]
    assert len(cached[0]) == 3


@pytest.mark.parametrize("what", CALLS)
def test_in_memory_too(what: str, together: Callable[..., Together], tmp_path: Path) -> None:
    plain = CALLS[what](cache_dir=tmp_path / "a")
    watched = together()
    beside = CALLS[what](cache_dir=tmp_path / "b")
    assert watched.early
    mine, theirs = plain.tensors(), beside.tensors()
    assert all(np.array_equal(mine[name], theirs[name], equal_nan=True) for name in mine)
    assert beside.record == plain.record and beside.manifest == plain.manifest


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["gpt2", "bert", "gpt_neo", "t5"])
def test_on_cuda_too(
    family: str,
    together: Callable[..., Together],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(head_start, "OVERLAP", {"cuda": False})
    search(family, "cuda", out=tmp_path / "plain", cache_dir=tmp_path / "a")
    watched = together()
    search(family, "cuda", out=tmp_path / "beside", cache_dir=tmp_path / "b")
    assert watched.early
    assert files(tmp_path / "beside") == files(tmp_path / "plain")


@pytest.mark.parametrize(
    "call",
    [
        lambda **more: search(per="prefix", **more),
        lambda **more: search(shard=(0, 2), **more),
        lambda **more: extraction(exact=False, **more),
    ],
    ids=["prefixes", "a shard of several", "sums"],
)
def test_what_asks_for_the_whole_corpus_waits_for_it(
    call: Callable[..., Any], together: Callable[..., Together]
) -> None:
    watched = together(after=10**9)
    call()
    assert watched.early == 0


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("this is not the ordinary way")


def test_a_cached_corpus_goes_the_ordinary_way(
    together: Callable[..., Together], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search()
    together()
    monkeypatch.setattr(tokenizing, "newest", never)
    again = search()
    assert again.record == whole.record and np.array_equal(again.scores, whole.scores)


def test_a_run_that_is_taken_up_goes_the_ordinary_way(
    together: Callable[..., Together], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    search(out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        search(out=tmp_path / "run", on_progress=stop)
    together(after=10**9)
    monkeypatch.setattr(head_start, "tokenized_ahead", never)
    search(out=tmp_path / "run", cache_dir=tmp_path / "cleared")
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_it_is_saved_once_the_corpus_is_tokenised_and_resumes(
    together: Callable[..., Together], tmp_path: Path
) -> None:
    plain, run = tmp_path / "plain", tmp_path / "run"
    search(out=plain, cache_dir=tmp_path / "a")
    watched, seen = together(after=12), []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(out=run, cache_dir=tmp_path / "b", on_progress=stop)
    [(done, total)] = seen
    assert watched.early and total > done > SMALL["block_tokens"]
    [shard] = (run / "shards").glob("*.safetensors")
    assert pyengine.shards.load_shard(shard).record["n_tokens"] == done
    search(out=run, cache_dir=tmp_path / "b")
    assert files(run) == files(plain)


def test_progress_is_told_once_the_total_is_known(
    together: Callable[..., Together], tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    watched = together()
    found = search(
        on_tokenized=lambda *now: told.append(("tokenised", *now)),
        on_progress=lambda *now: told.append(("computed", *now)),
    )
    assert watched.early
    stages = [stage for stage, _, _ in told]
    assert stages == sorted(stages, reverse=True)
    computed = [now for stage, *now in told if stage == "computed"]
    n_tokens = found.record["n_tokens"]
    assert computed[-1] == [n_tokens, n_tokens] and {total for _, total in computed} == {n_tokens}


def test_a_store_so_far_is_a_beginning_of_the_whole(tmp_path: Path) -> None:
    stores = list(
        tokenizing.build(
            corpus(), word_tokenizer(), max_tokens=9, cache_dir=tmp_path, progress=None
        )
    )
    *parts, whole = stores
    assert whole.complete and not any(part.complete for part in parts)
    assert [part.n_units for part in parts] == sorted({part.n_units for part in parts})
    for part in parts:
        assert np.array_equal(part.tokens, whole.tokens[: part.n_tokens])
        assert np.array_equal(part.offsets, whole.offsets[: part.n_units + 1])
    shutil.rmtree(tmp_path / "tokens")
    assert isinstance(whole, TokenStore) and whole.report.units == whole.n_units


def test_the_command_says_what_it_will_hold_before_both(
    together: Callable[..., Together], run: Any, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(texts()))
    watched = together()
    options = ("--batch-tokens", 48, "--block-tokens", 60, "--k", 3)
    outcome = run("triggers", model, path, "--out", tmp_path / "run", *options)
    assert outcome.code == 0 and watched.early, outcome.err
    assert outcome.err.startswith("memory: ") and outcome.err.count("memory: ") == 1
