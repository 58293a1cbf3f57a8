"""The n best heads side by side: ranked on dev, probed for every n, kept in concats.parquet."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from heads_helpers import bank_of, extracted, sentences_of, split_task
from heads_results_helpers import concat_rows, row, table

from pyengine import HeadResults, PyengineError
from pyengine.heads import concat as module
from pyengine.heads.bank import HeadBank
from pyengine.heads.concat import concat_heads
from pyengine.heads.concat_table import best, check_heads, curve
from pyengine.heads.probe.protocols import probe_classes
from pyengine.heads.probe_heads import probe_heads
from pyengine.heads.probe_settings import ProbeSettings
from pyengine.heads.results_table import CONCATS, PROBES, append
from pyengine.heads.task import SIMILARITY, UNSUPERVISED, Examples, Task

N_LAYERS, N_HEADS, D = 2, 3, 4
QUICK = ProbeSettings(regularisers=(1e-5, 1e-2), batch_size=16, max_epochs=8)
SEEDS = (1, 2)


def informed_bank() -> HeadBank:
    """Heads that know the class of a sentence more or less well; two of them alike."""
    task = split_task("T", (60, 30, 30), n_classes=3, longest=20)
    rng, texts = np.random.default_rng(0), sentences_of([task])
    label = {
        text: y
        for part in task.parts.values()
        for text, y in zip(part.first, part.targets, strict=True)
    }
    signal = np.eye(D)[[label[text] for text in texts]]
    arrays = {}
    for layer in range(N_LAYERS):
        heads = [rng.normal(size=(len(texts), D)) for _ in range(N_HEADS)]
        for head in range(N_HEADS):
            heads[head] += 0.4 * (1 + layer + head) * signal
        arrays["head", layer] = np.stack(heads, axis=1)
    arrays["head", 1][:, 2] = arrays["head", 1][:, 1]  # a tie
    return bank_of(arrays, [task])


def probed(bank: HeadBank, out: Path, **more: Any) -> HeadResults:
    return probe_heads(bank, out=out, seeds=SEEDS, settings=QUICK, **more)


def joined(bank: HeadBank, results: HeadResults, ns: Any = "all", **more: Any) -> pa.Table:
    how: dict[str, Any] = {"seeds": SEEDS, "settings": QUICK, "device": "cpu"}
    return concat_heads(bank, results, "T", ns, **how | more)


def heads_of(found: pa.Table) -> dict[int, list[tuple[int, int]]]:
    return {
        row["n"]: [(one["layer"], one["head"]) for one in row["heads"]] for row in found.to_pylist()
    }


def test_prefixes_of_the_ranking_are_probed(tmp_path: Path) -> None:
    bank = informed_bank()
    results = probed(bank, tmp_path)
    found = joined(bank, results)
    ranked = results.ranked("T")
    # Equal heads come in their own order, and nothing of dev is left to chance.
    assert ranked.index((1, 1)) + 1 == ranked.index((1, 2))
    assert heads_of(found) == {n: ranked[:n] for n in range(1, N_LAYERS * N_HEADS + 1)}
    assert found["n"].to_pylist() == [n for n in range(1, 7) for _ in SEEDS]
    assert found["width"].to_pylist() == [D * n for n in found["n"].to_pylist()]
    assert set(found["layer"].to_pylist()) == set(found["head"].to_pylist()) == {-1}
    assert HeadResults.open(tmp_path).concats.num_rows == found.num_rows


def test_the_best_one_alone_is_its_own_probe(tmp_path: Path) -> None:
    bank = informed_bank()
    results = probed(bank, tmp_path)
    (layer, head), *_ = results.ranked("T")
    names = ("seed", "dev", "test", "regulariser", "epochs", "majority", "collapsed", "settings")
    own = [
        row
        for row in results.table.select([*names, "layer", "head"]).to_pylist()
        if (row["layer"], row["head"]) == (layer, head)
    ]
    alone = joined(bank, results, [1]).select([*names]).to_pylist()
    assert alone == [{name: row[name] for name in names} for row in own]
    best_dev = max(point.dev for point in curve(HeadResults.open(tmp_path).concats, "T"))
    assert best_dev >= results.scores("T").max()


def test_each_n_is_an_ordinary_probe_of_the_wide_vector(tmp_path: Path) -> None:
    bank = informed_bank()
    results = probed(bank, tmp_path)
    found = joined(bank, results, [4], seeds=(2,)).to_pylist()[0]
    x = np.concatenate(
        [bank.vectors("head", layer)[:, [head]] for layer, head in results.ranked("T", 4)], axis=2
    )
    parts = {name: (part.rows, part.targets) for name, part in bank.task("T").parts.items()}
    settings = ProbeSettings(**{**QUICK.__dict__, "seed": 2})
    alone = probe_classes(x, parts, 3, "split", settings)
    assert (found["dev"], found["test"]) == (alone.dev[0], alone.test[0])
    assert (found["regulariser"], found["epochs"]) == (alone.regulariser[0], alone.epochs[0])


def test_what_is_there_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = informed_bank()
    results = probed(bank, tmp_path / "a")
    whole = joined(bank, results, [1, 2, 5])
    bytes_of = (tmp_path / "a" / CONCATS.name).read_bytes()
    joined(bank, results, [5], out=tmp_path / "b")
    joined(bank, results, [1, 2, 5], out=tmp_path / "b")
    assert (tmp_path / "b" / CONCATS.name).read_bytes() == bytes_of
    monkeypatch.setattr(module, "run_job", lambda *_: pytest.fail("probed again"))
    done = list[tuple[int, int]]()
    again = joined(bank, results, [5, 2, 1], on_progress=lambda *n: done.append(n))
    assert str(again.to_pylist()) == str(whole.to_pylist())  # NaN among them
    assert done == [(i, 6) for i in range(1, 7)]
    with pytest.raises(pytest.fail.Exception):
        joined(bank, results, [3])


def test_another_ranking_is_probed_anew(tmp_path: Path) -> None:
    bank = informed_bank()
    results = probed(bank, tmp_path)
    first = joined(bank, results, [2], seeds=(1,))
    scores = results.table.to_pylist()
    for one in scores:
        one["dev"] = 100.0 - one["dev"]
    append(tmp_path, pa.Table.from_pylist(scores, PROBES.schema))
    turned = HeadResults.open(tmp_path)
    second = joined(bank, turned, [2], seeds=(1,))
    assert heads_of(first) == {2: results.ranked("T", 2)}
    assert heads_of(second) == {2: turned.ranked("T", 2)} != heads_of(first)
    assert HeadResults.open(tmp_path).concats.num_rows == 1


def test_a_fast_probe_may_rank(tmp_path: Path) -> None:
    bank = informed_bank()
    results = probe_heads(bank, out=tmp_path, probe="ridge", device="cpu")
    with pytest.raises(PyengineError, match="logistic"):
        joined(bank, results, [2])
    found = joined(bank, results, [2], seeds=(1,), ranked_by="ridge").to_pylist()
    assert [row["probe"] for row in found] == ["logistic"]


def test_without_training_cosines_of_the_wide_vectors_are_scored(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = (tuple(f"{side}{i}" for i in range(12)) for side in "ab")
    part = Examples(first, second, rng.uniform(0, 5, 12))
    task = Task("T", SIMILARITY, UNSUPERVISED, (), {"set": part})
    x = rng.normal(size=(24, 2, 3))
    bank = bank_of({("head", 0): x}, [task])
    results = probe_heads(bank, out=tmp_path, device="cpu")
    found = joined(bank, results, [2]).filter(
        pa.compute.equal(joined(bank, results, [2])["metric"], "pearson")
    )
    at = {text: i for i, text in enumerate(sentences_of([task]))}
    u, v = (x[[at[text] for text in side]].reshape(12, -1) for side in (first, second))
    cosines = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    (only,) = found.to_pylist()
    assert only["test"] == pytest.approx(np.corrcoef(cosines, part.targets)[0, 1], abs=1e-5)
    assert (only["probe"], only["seed"]) == ("cosine", 0)


def test_stacks_are_joined_whatever_their_poolings(tmp_path: Path) -> None:
    bank = extracted(tmp_path / "bank", "t5")
    results = probe_heads(
        bank, ["A"], out=tmp_path / "r", locations=["head"], settings=QUICK, device="cpu"
    )
    n = len(results.ranked("A"))
    assert n == 5 * 3  # two layers of an encoder, three of a decoder
    found = concat_heads(bank, results, "A", [n], settings=QUICK, device="cpu").to_pylist()[0]
    assert (found["pooling"], found["width"]) == ("last+mean", 15 * 6)


@pytest.mark.parametrize("ns", [[], [0, 1], [7], "some"])
def test_numbers_of_heads_that_cannot_be_are_refused(ns: Any, tmp_path: Path) -> None:
    bank = informed_bank()
    with pytest.raises(PyengineError, match=r"^n (must be from 1 to 6|is 'all')"):
        joined(bank, probed(bank, tmp_path), ns)


def test_results_of_another_bank_are_refused(tmp_path: Path) -> None:
    append(tmp_path, table([row(task="T")]))
    with pytest.raises(PyengineError, match="are not of the bank"):
        joined(informed_bank(), HeadResults.open(tmp_path))


def test_the_curve_is_of_means_over_seeds() -> None:
    rows = [
        *concat_rows(("T",), (1, 2), seed=1),
        *concat_rows(("T",), (1, 2, 3), seed=2),
        *concat_rows(("T",), (1,), metric="spearman", seed=2),
    ]
    rows[0]["dev"], rows[1]["dev"] = 60.0, 74.0
    points = curve(table(rows, CONCATS), "T")
    assert [(point.n, point.dev, point.test) for point in points] == [
        (1, 65.5, 70.0),
        (2, 73.0, 71.0),
        (3, 73.0, 72.0),
    ]
    assert best(points).n == 2  # of equals the smaller
    with pytest.raises(PyengineError, match="no heads were concatenated for U"):
        curve(table(rows, CONCATS), "U")


def test_without_dev_the_best_is_that_of_test() -> None:
    rows = [one | {"dev": np.nan} for one in concat_rows(("T",), (1, 2))]
    assert best(curve(table(rows, CONCATS), "T")).n == 2


def test_what_was_not_made_alike_is_no_curve() -> None:
    rows = [*concat_rows(("T",)), *concat_rows(("T",), probe="ridge")]
    with pytest.raises(PyengineError, match=r"several probes: \['logistic', 'ridge'\]"):
        curve(table(rows, CONCATS), "T")


def test_heads_of_two_rankings_are_not_averaged() -> None:
    rows = [*concat_rows(("T",), (2,), seed=1), *concat_rows(("T",), (2,), seed=2)]
    rows[1]["heads"] = [*reversed(rows[0]["heads"])]
    with pytest.raises(PyengineError, match=r"T: the 2 best heads .* seeds \[1, 2\].*again"):
        curve(table(rows, CONCATS), "T")
    with pytest.raises(PyengineError, match="ranked anew"):
        check_heads(rows)
