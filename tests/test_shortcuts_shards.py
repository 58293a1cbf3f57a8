"""Fits cut into shards, merged in any order, interrupted, killed and resumed: the same bytes."""

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import kill_often
from rank_helpers import one_rank
from shortcut_fit_cases import fitted, loaded, texts, weight

import pyengine
from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.merge_runs import merge_runs
from pyengine.run import open_run, verify
from pyengine.shards import load_shard
from pyengine.shortcuts.fit import fit_shortcuts

KILLS = 10
# Rows that are kept, and sums in float64 and as triangular factors.
HOW: dict[str, dict[str, Any]] = {
    "rows": {"family": "bert", "solver": "rows"},
    "gram": {"solver": "gram", "tokens": "all", "sub_modules": True},
    "t5": {"family": "t5", "solver": "gram", "tokens": "all"},
    "exact": {"solver": "exact", "tokens": "all", "pairs": "all", "skip_first": 1},
}


def fit(how: str, out: Path | None, **more: Any) -> Any:
    return fitted(out=out, **{"dtype": torch.float32, **HOW[how], **more})


def files(run: Path) -> dict[str, str]:
    """Return the checksums of a run's files."""
    found: dict[str, str] = verify(run)["files"]
    return found


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("n_shards", "block_tokens"), [(2, 1), (3, 40), (20, 40)])
def test_any_number_of_shards_gives_the_same_bytes(
    tmp_path: Path, how: str, n_shards: int, block_tokens: int
) -> None:
    whole = fit(how, tmp_path / "whole", block_tokens=block_tokens)
    assert set(whole.record["solver"].values()) == {"gram" if how == "t5" else how}
    parts = [tmp_path / f"part{i}" for i in range(n_shards)]
    for index, part in enumerate(parts):
        fit(how, part, shard=(index, n_shards), block_tokens=block_tokens)
    for number, order in enumerate((parts, parts[::-1], parts[1:] + parts[:1])):
        out = tmp_path / f"merged{number}"
        merged = merge_runs([*order], out)
        assert files(out) == files(tmp_path / "whole")
        assert merged.record["n_rows"] == whole.record["n_rows"]
        assert merged.validation().table.units.tolist() == whole.validation().table.units.tolist()


@pytest.mark.parametrize("how", HOW)
def test_threads_of_who_merges_change_no_bits(tmp_path: Path, how: str) -> None:
    fit(how, tmp_path / "whole")
    for index in range(2):
        fit(how, tmp_path / "run", shard=(index, 2))
    torch.set_num_threads(2)
    try:
        merge_runs([tmp_path / "run"], tmp_path / "run")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_a_shard_is_missing_or_given_twice(tmp_path: Path) -> None:
    fit("gram", tmp_path / "run", shard=(0, 2))
    with pytest.raises(PyengineError, match=r"a shard is missing: no shard holds units 2\d to 59"):
        merge_runs([tmp_path / "run"], tmp_path / "out")
    with pytest.raises(PyengineError, match="incomplete; run its command again"):
        open_run(tmp_path / "run")


class _Stop(BaseException):
    pass


def interrupted(how: str, out: Path, stop_after: int) -> bool:
    """Run until so many segments are done; return whether that stopped it."""
    seen = itertools.count(1)

    def stop(*_: Any) -> None:
        if next(seen) == stop_after:
            raise _Stop

    try:
        fit(how, out, on_progress=stop)
    except _Stop:
        return True
    return False


@pytest.mark.parametrize("how", HOW)
def test_interrupted_at_any_segment_it_resumes_to_the_same_bytes(tmp_path: Path, how: str) -> None:
    fit(how, tmp_path / "whole")
    for stop_after in itertools.count(1, 3):
        run = tmp_path / f"run{stop_after}"
        if not interrupted(how, run, stop_after):
            break
        done = load_shard(next((run / "shards").glob("*.safetensors"))).record
        assert not done["complete"]
        segments: list[int] = []
        fit(how, run, on_progress=lambda now, _, to=segments: to.append(now))
        assert not segments or segments[0] > done["n_tokens"]
        assert files(run) == files(tmp_path / "whole")
    assert stop_after > 6


@pytest.mark.parametrize("how", HOW)
def test_in_memory_as_in_files(tmp_path: Path, how: str) -> None:
    held, solved = fit(how, None), []
    fit(how, tmp_path / "run", on_solved=lambda *done: solved.append(done))
    held.save(tmp_path / "saved")
    assert files(tmp_path / "saved") == files(tmp_path / "run")
    n_sources = len({(fit["stack"], fit["source"]) for fit in held.fits.to_pylist()})
    assert solved == [(done, n_sources) for done in range(1, n_sources + 1)]


def test_lack_of_memory_takes_no_row_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyengine.capture import Capture

    whole, run = fit("gram", None), Capture.run

    def limited(self: Capture, batch: Any, decoder: Any = None) -> None:
        run(self, batch, decoder)
        if len(batch.units) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Capture, "run", limited)
    found = fit("gram", None)
    assert (found.record["exact"], whole.record["exact"]) == (False, True)
    assert found.record["n_rows"] == whole.record["n_rows"]
    pair = weight(found.map(0)), weight(whole.map(0))
    torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-3)


def work(out: Path, pause: float) -> None:
    """Fit, slowed down a little so that kills land everywhere."""
    fit("gram", out, checkpoint_blocks=1, on_progress=lambda *_: time.sleep(pause))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    work(tmp_path / "whole", 0.0)
    run = tmp_path / "run"
    kill_often(lambda: work(run, 0.02), run, "shards/*.safetensors", KILLS)
    work(run, 0.0)
    assert files(run) == files(tmp_path / "whole")


def test_scaled_out_in_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit("gram", tmp_path / "whole")
    how = {name: value for name, value in HOW["gram"].items() if name != "family"}
    one_rank(monkeypatch)
    seen: list[tuple[int, int]] = []
    found = pyengine.scale_out(
        fit_shortcuts,
        loaded("gpt2", torch.float32),
        Corpus.from_texts(texts()),
        out=tmp_path / "run",
        tasks=5,
        on_progress=lambda *done: seen.append(done),
        batch_tokens=64,
        block_tokens=40,
        **how,
    )
    assert found.stacks == ("decoder",)
    assert files(tmp_path / "run") == files(tmp_path / "whole")
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
