"""The table of results: appended to by many, the same bytes in any order; and what it answers."""

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from heads_results_helpers import (
    N_HEADS,
    N_LAYERS,
    concat_rows,
    head_rows,
    layer_rows,
    results_folder,
    row,
    table,
)
from patience import in_processes

from pyengine.errors import PyengineError
from pyengine.heads.bests import bests
from pyengine.heads.results import HeadResults
from pyengine.heads.results_table import CONCATS, PROBES, append, read
from pyengine.heads.summary import missing, n_best

N_WRITERS, N_ROWS = 3, 4


def opened(folder: Path, rows: list[dict]) -> HeadResults:
    append(folder, table(rows))
    return HeadResults.open(folder)


def test_any_order_of_appending_gives_the_same_bytes(tmp_path: Path) -> None:
    rows = head_rows() + layer_rows()
    for name, order in (("a", range(len(rows))), ("b", reversed(range(len(rows))))):
        for i in order:
            append(tmp_path / name, table([rows[i]]))
    append(tmp_path / "c", table(rows))
    files = {(tmp_path / name / PROBES.name).read_bytes() for name in "abc"}
    assert len(files) == 1 and read(tmp_path / "a").num_rows == len(rows)
    layers = read(tmp_path / "a").slice(0, N_LAYERS)["location"].to_pylist()
    assert layers == ["block"] * N_LAYERS


def test_of_rows_with_one_key_the_newest_stays(tmp_path: Path) -> None:
    append(tmp_path, table([row(test=1.0), row(head=1)]))
    append(tmp_path, table([row(test=2.0)]))
    assert read(tmp_path)["test"].to_pylist() == [2.0, 48.0]


def test_a_control_score_gives_way_to_another_only(tmp_path: Path) -> None:
    append(tmp_path, table([row(control=20.0, test=1.0)]))
    append(tmp_path, table([row(test=2.0)]))
    assert read(tmp_path)["control"].to_pylist() == [20.0]
    append(tmp_path, table([row(control=30.0, test=3.0)]))
    assert read(tmp_path)["control"].to_pylist() == [30.0]


def test_threads_lose_no_row(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        for i in range(N_ROWS):
            append(tmp_path, table([row(layer=writer, head=i)]))

    writers = [threading.Thread(target=write, args=(i,)) for i in range(N_WRITERS)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert read(tmp_path).num_rows == N_WRITERS * N_ROWS


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_lose_no_row(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        for i in range(N_ROWS):
            append(tmp_path, table([row(layer=writer, head=i)]))

    in_processes(write, N_WRITERS)
    assert read(tmp_path).num_rows == N_WRITERS * N_ROWS


def test_a_table_that_is_replaced_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers take no lock: they read all of the file that they have opened."""
    append(tmp_path, table([row(layer=0, head=0)]))
    read_parquet = pq.read_table

    def meanwhile(source: object) -> pa.Table:
        monkeypatch.setattr(pq, "read_table", read_parquet)
        append(tmp_path, table([row(layer=1, head=0)]))
        return read_parquet(source)

    monkeypatch.setattr(pq, "read_table", meanwhile)
    assert [read(tmp_path).num_rows for _ in range(2)] == [1, 2]


def test_a_write_that_fails_leaves_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(tmp_path, table([row()]))
    before = (tmp_path / PROBES.name).read_bytes()

    def full(*given: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(PyengineError, match="No space left"):
        append(tmp_path, table([row(head=1)]))
    assert (tmp_path / PROBES.name).read_bytes() == before


def test_what_is_no_table_of_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PyengineError, match=r"holds no results.*pyengine heads probe"):
        HeadResults.open(tmp_path)
    (tmp_path / PROBES.name).write_bytes(b"PAR1 not")
    with pytest.raises(PyengineError, match="damaged"):
        HeadResults.open(tmp_path)
    pq.write_table(pa.table({"model": ["x"]}), tmp_path / PROBES.name)
    with pytest.raises(PyengineError, match="another version"):
        append(tmp_path, table([row()]))
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(PyengineError, match="is a run"):
        HeadResults.open(tmp_path)


def test_scores_are_a_matrix_with_nan_where_there_is_none(tmp_path: Path) -> None:
    rows = [row(layer=layer, head=head) for layer, head in ((0, 0), (0, 2), (3, 1))]
    found = opened(tmp_path, [*rows, row(layer=3, head=-1, dev=99.0)]).scores("TREC")
    assert found.shape == (4, 3)
    assert np.isfinite(found).nonzero()[0].tolist() == [0, 0, 3]


def test_scores_are_means_over_seeds(tmp_path: Path) -> None:
    rows = [row(seed=seed, test=float(seed)) for seed in (1, 2, 6)]
    assert opened(tmp_path, rows).scores("TREC", part="test").tolist() == [[3.0]]


def test_ranks_are_by_dev_and_ties_by_layer_and_head(tmp_path: Path) -> None:
    devs = {(0, 1): 50.0, (0, 0): 40.0, (1, 1): 60.0, (1, 0): 50.0}
    rows = [row(layer=at[0], head=at[1], dev=dev, test=-dev) for at, dev in devs.items()]
    found = opened(tmp_path, rows)
    assert found.ranked("TREC") == [(1, 1), (0, 1), (1, 0), (0, 0)]
    assert found.ranked("TREC", 1) == [(1, 1)]
    with pytest.raises(PyengineError, match="from 1 to 4"):
        found.ranked("TREC", 5)


def test_without_a_dev_set_ranks_are_by_test(tmp_path: Path) -> None:
    rows = [
        row(task="STS12", head=head, dev=np.nan, test=test, metric=metric, majority=np.nan)
        for head, test in enumerate((0.2, 0.4, 0.3))
        for metric in ("pearson", "spearman", "weighted_pearson")
    ]
    rows = [one | {"test": -one["test"]} if one["metric"] != "pearson" else one for one in rows]
    found = opened(tmp_path, rows)
    assert found.ranked("STS12") == [(0, 1), (0, 2), (0, 0)]
    assert found.metric("STS12") == "pearson"
    assert found.summary()["chosen_on"].to_pylist() == ["test"]
    assert bests(found, ["STS12"])[0]["dev"] is None


def test_the_best_layer_is_chosen_on_dev(tmp_path: Path) -> None:
    found = HeadResults.open(results_folder(tmp_path))
    best, last = found.best_layer("TREC"), found.last_layer("TREC")
    assert best == ("block", 1, 61.0, 60.0)
    assert last == ("block", 2, 60.0, 61.0)


def test_layers_are_all_heads_together_where_no_block_was_probed(tmp_path: Path) -> None:
    rows = head_rows(("TREC",)) + layer_rows(("TREC",), location="head")
    assert opened(tmp_path, rows).last_layer("TREC").location == "head"
    with pytest.raises(PyengineError, match=r"not probed as a whole.*--whole"):
        opened(tmp_path / "x", head_rows(("TREC",))).best_layer("TREC")


def test_results_not_made_alike_are_never_mixed(tmp_path: Path) -> None:
    found = opened(tmp_path, [row(), row(probe="ridge", dev=70.0)])
    with pytest.raises(PyengineError, match=r"several probes: logistic, ridge; .*--where probe="):
        found.scores("TREC")
    assert found.where(probe="ridge").scores("TREC").tolist() == [[70.0]]
    assert found.summary()["probe"].to_pylist() == ["logistic", "ridge"]
    assert found.tasks == ["TREC"] and found.models == ["tiny"]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    found = opened(tmp_path, [row()])
    with pytest.raises(PyengineError, match=r"no results with task 'SST2'.*there are: TREC"):
        found.scores("SST2")
    with pytest.raises(PyengineError, match="no column 'colour'"):
        found.where(colour="red")
    assert not found.only(task="SST2").table.num_rows


def test_the_summary_is_the_papers_table(tmp_path: Path) -> None:
    found = HeadResults.open(results_folder(tmp_path))
    summary = {one["task"]: one for one in found.summary().to_pylist()}
    dev, test = found.scores("TREC"), found.scores("TREC", part="test")
    best = np.unravel_index(dev.argmax(), dev.shape)
    one = summary["TREC"]
    assert (one["head_layer"], one["head"]) == best
    assert (one["head_dev"], one["head_test"]) == (dev.max(), test[best])
    assert one["mean_test"] == pytest.approx(test.mean())
    assert (one["last_test"], one["best_layer"], one["best_layer_test"]) == (61.0, 1, 60.0)
    assert (one["n"], one["n_best_dev"], one["n_best_test"]) == (N_HEADS, 74.0, 73.0)
    assert (one["n_heads"], one["n_collapsed"]) == (N_LAYERS * N_HEADS, 0)
    assert missing([*summary.values()], tmp_path) == []


def test_n_heads_are_as_wide_as_the_model(tmp_path: Path) -> None:
    heads = head_rows(("TREC",), 1, 8)  # 8 heads of 2 where the model has 4: T5-3b's shape
    assert n_best(table(heads)) == 8
    assert n_best(table([*heads, row(location="block", head=-1, width=4)])) == 2
    assert n_best(table(layer_rows())) is None


def test_what_is_missing_is_named_with_its_command(tmp_path: Path) -> None:
    found = opened(tmp_path, head_rows() + layer_rows(("SICK-E",), probe="ridge"))
    lines = missing(found.summary().to_pylist(), "R")
    assert lines == [
        "no layers of SST2, TREC: pyengine heads probe BANK --out R --location block "
        "--task SST2 --task TREC",
        "no 4 best heads together of SST2, TREC: pyengine heads concat BANK R --n 4 --task SST2, "
        "and so for each",
        "no heads of SICK-E: pyengine heads probe BANK --out R --probe ridge --location head "
        "--task SICK-E",
    ]


def test_concatenations_have_a_table_of_their_own(tmp_path: Path) -> None:
    append(tmp_path, table(head_rows()))
    append(tmp_path, table(concat_rows(ns=(4, 1)), CONCATS), CONCATS)
    found = HeadResults.open(tmp_path).where(task="TREC", location="head")
    assert found.concats["n"].to_pylist() == [1, 4]
    assert found.concats["heads"][0].as_py() == [{"layer": 0, "head": 0}]


def test_bests_stand_in_the_order_of_locations(tmp_path: Path) -> None:
    rows = head_rows(("TREC",)) + layer_rows(("TREC",)) + layer_rows(("TREC",), location="head")
    rows[0] |= {"collapsed": True, "control": 40.0, "selectivity": 8.0}
    found = bests(opened(tmp_path, rows), ["TREC"])
    assert [(one["location"], one["whole"]) for one in found] == [
        ("head", False),
        ("head", True),
        ("block", True),
    ]
    assert (found[0]["n"], found[0]["n_collapsed"]) == (N_LAYERS * N_HEADS, 1)
    assert (found[2]["layer"], found[2]["head"], found[2]["dev"]) == (1, None, 61.0)
    assert found[2]["selectivity"] is None
