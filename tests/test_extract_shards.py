"""Extractions cut into shards, interrupted, resumed and merged: always the same bits."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from extract_cases import Largest, UnitSums, extracted, random_units, same_bits

from pyengine.batches import Batch, plan_blocks
from pyengine.capture import Capture
from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.extraction.partials import PARTIALS, partial_of, shard_of_partials
from pyengine.extraction.result import RESULT, Extraction
from pyengine.merge_runs import merge_runs
from pyengine.reducers.moments import Moments
from pyengine.reducers.topk import StreamingTopK
from pyengine.run import open_run
from pyengine.shards import load_shard
from pyengine.store import tokenize

SITE, STREAM = "blocks.1.mlp.hook_post", "blocks.2.hook_resid_mid"


def ours() -> dict[Any, Any]:
    return {
        SITE: [
            StreamingTopK(5, 37, sign="both"),
            Moments(37, bins=4, range=(-1.0, 1.0)),
            StreamingTopK(3, 37, per="prefix", exclude=(4,)),
        ],
        (STREAM, "blocks.0.mlp.hook_pre"): [Moments(57, skip_first=1)],
    }


def own() -> list[Any]:
    return [UnitSums(60, 20), Largest(20)]


def mixed() -> dict[Any, Any]:
    return {**ours(), STREAM: own()}


def merged(folders: list[Path], out: Path) -> Extraction:
    found = merge_runs([*folders], out, reducers=own())
    assert isinstance(found, Extraction)
    return found


def test_the_corpus_has_more_blocks_than_partials() -> None:
    store = tokenize(Corpus.from_token_ids(random_units()), max_tokens=32)
    n_units = len(plan_blocks(store.offsets, 1)) - 1
    assert n_units == 60, "small blocks hold one unit"


def test_every_block_lies_in_one_partial_and_one_shard() -> None:
    for n_blocks in (0, 1, 5, 16, 17, 100):
        partials = [partial_of(block, n_blocks) for block in range(n_blocks)]
        assert partials == sorted(partials)
        assert set(partials) <= set(range(PARTIALS))
        for n_shards in (1, 2, 3, 16, 20):
            owned = [shard_of_partials(n_blocks, i, n_shards) for i in range(n_shards)]
            assert [block for blocks in owned for block in blocks] == [*range(n_blocks)]
            for one, other in itertools.combinations(owned, 2):
                assert not {partials[b] for b in one} & {partials[b] for b in other}


@pytest.mark.parametrize("n_shards", [2, 3, 16, 20])
@pytest.mark.parametrize("block_tokens", [1, 40])
def test_any_number_of_shards_gives_the_same_bytes(
    tmp_path: Path, n_shards: int, block_tokens: int
) -> None:
    whole = extracted(mixed(), out=tmp_path / "whole", block_tokens=block_tokens)
    parts = [tmp_path / f"part{i}" for i in range(n_shards)]
    for index, part in enumerate(parts):
        extracted(mixed(), out=part, shard=(index, n_shards), block_tokens=block_tokens)
    for number, order in enumerate((parts, parts[::-1], parts[1:] + parts[:1])):
        found = merged(order, tmp_path / f"merged{number}")
        assert (tmp_path / f"merged{number}" / RESULT).read_bytes() == (
            tmp_path / "whole" / RESULT
        ).read_bytes()
        assert same_bits(found, whole)
    in_memory = extracted(mixed(), block_tokens=block_tokens)
    assert same_bits(in_memory, whole)


def test_sharded_like_triggers_where_everything_is_exact(tmp_path: Path) -> None:
    exact = {SITE: [StreamingTopK(5, 37)], STREAM: [Largest(20)]}
    whole = extracted(exact)
    for index in range(7):
        extracted(exact, out=tmp_path / "run", shard=(index, 7))
    found = merge_runs([tmp_path / "run"], tmp_path / "run", reducers=[Largest(20)])
    assert same_bits(found, whole)


def test_shards_of_ours_are_merged_without_their_reducers(tmp_path: Path) -> None:
    whole = extracted(ours())
    for index in (1, 0):
        extracted(ours(), out=tmp_path / "run", shard=(index, 2))
    with pytest.raises(PyengineError, match="incomplete"):
        open_run(tmp_path / "run")
    found = merge_runs([tmp_path / "run"], tmp_path / "run")
    assert same_bits(found, whole)
    assert found[SITE][1].mean.equal(whole[SITE][1].mean)


class _Stop(BaseException):
    pass


def interrupted(out: Path, stop_after: int, **more: Any) -> bool:
    """Run until so many segments are done; return whether that stopped it."""
    seen = itertools.count(1)

    def stop(*_: Any) -> None:
        if next(seen) == stop_after:
            raise _Stop

    try:
        extracted(mixed(), out=out, on_progress=stop, **more)
    except _Stop:
        return True
    return False


def test_interrupted_at_every_segment_it_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    whole = extracted(mixed())
    for stop_after in itertools.count(1):
        run = tmp_path / f"run{stop_after}"
        if not interrupted(run, stop_after):
            break
        done = load_shard(next((run / "shards").glob("*.safetensors"))).record
        assert not done["complete"]
        segments: list[int] = []
        again = extracted(mixed(), out=run, on_progress=lambda now, _, to=segments: to.append(now))
        assert not segments or segments[0] > done["n_tokens"]
        assert same_bits(again, whole)
        assert again.record == whole.record
    assert stop_after > 10


def test_interrupted_again_and_again(tmp_path: Path) -> None:
    stops = 0
    while interrupted(tmp_path / "run", 2):
        stops += 1
    assert stops > 5
    assert same_bits(extracted(mixed(), out=tmp_path / "run"), extracted(mixed()))


@pytest.mark.parametrize("n_batches", [1, 4, 9])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_what_stops_inside_a_batch_is_not_counted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_batches: int, error: type[BaseException]
) -> None:
    run, batches = Capture.run, itertools.count(1)

    def failing(self: Capture, *pair: Any) -> None:
        run(self, *pair)
        if next(batches) == n_batches:
            raise error("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(Capture, "run", failing)
        with pytest.raises(error, match="in the middle"):
            extracted(mixed(), out=tmp_path / "run")
    assert same_bits(extracted(mixed(), out=tmp_path / "run"), extracted(mixed()))


def test_lack_of_memory_replays_sums_from_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = extracted(mixed())
    run = Capture.run

    def limited(self: Capture, batch: Batch, decoder: Batch | None = None) -> None:
        run(self, batch, decoder)
        if len(batch.units) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Capture, "run", limited)
    found = extracted(mixed())
    assert (found.record["exact"], whole.record["exact"]) == (False, True)
    assert found.record["n_tokens"] == whole.record["n_tokens"]
    mine, theirs = found[SITE][1], whole[SITE][1]
    assert mine.count.equal(theirs.count)
    torch.testing.assert_close(mine.mean, theirs.mean, rtol=1e-5, atol=1e-5)
    sums = (found[STREAM][0].sums, whole[STREAM][0].sums)
    torch.testing.assert_close(*sums, rtol=1e-4, atol=1e-4)


def test_an_overflow_replays_sums_from_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = extracted(mixed())
    take = StreamingTopK.take_overflow
    asked = itertools.count()

    def sometimes(self: StreamingTopK) -> bool:
        return take(self) or next(asked) % 3 == 0

    monkeypatch.setattr(StreamingTopK, "take_overflow", sometimes)
    assert same_bits(extracted(mixed()), whole)
    assert next(asked) > 10


def test_a_complete_run_is_opened_with_its_reducers_and_not_repeated(tmp_path: Path) -> None:
    first = extracted(mixed(), out=tmp_path / "run")
    touched: list[int] = []
    again = extracted(mixed(), out=tmp_path / "run", on_progress=lambda *_: touched.append(1))
    assert not touched
    assert same_bits(first, again)
    assert isinstance(again[STREAM][1], Largest)
    opened = open_run(tmp_path / "run")
    assert same_bits(first, opened)
    assert opened.record == first.record
    assert [*opened] == [*first]
    assert opened[STREAM][1]["largest"].equal(first[STREAM][1].largest)
    assert opened[SITE][0]["min"].scores.equal(first[SITE][0]["min"].scores)
    first.save(tmp_path / "saved")
    assert same_bits(open_run(tmp_path / "saved"), first)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({SITE: [StreamingTopK(6, 37)]}, r"reducers\.0\.settings\.k: 5 != 6"),
        ({SITE: [StreamingTopK(5, 37, exclude=(1,))]}, r"reducers\.0\.settings\.exclude"),
        ({SITE: [Moments(37)]}, r"reducers\.0\.reducer"),
        ({"blocks.2.mlp.hook_post": [StreamingTopK(5, 37)]}, r"reducers\.0\.sites"),
        ({SITE: [StreamingTopK(5, 37), Moments(37)]}, r"reducers\.1"),
    ],
)
def test_a_changed_reducer_is_refused_by_name(
    tmp_path: Path, change: dict[Any, Any], named: str
) -> None:
    extracted({SITE: [StreamingTopK(5, 37)]}, out=tmp_path / "run")
    with pytest.raises(PyengineError, match=named):
        extracted(change, out=tmp_path / "run")


def test_merging_own_reducers_needs_fresh_ones_of_the_same_class(tmp_path: Path) -> None:
    for index in range(2):
        extracted(mixed(), out=tmp_path / "run", shard=(index, 2))
    with pytest.raises(PyengineError, match=r"reducers of your own .*UnitSums.*reducers="):
        merge_runs([tmp_path / "run"], tmp_path / "run")
    with pytest.raises(PyengineError, match="own reducers are"):
        merge_runs([tmp_path / "run"], tmp_path / "run", reducers=[Largest(20)])
    assert same_bits(merged([tmp_path / "run"], tmp_path / "run"), extracted(mixed()))
