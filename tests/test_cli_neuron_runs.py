"""`pyengine neurons pararel | compare | plot`, and what the other commands make of fact runs."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command_line import Outcome, Run, assert_one_line

from pyengine.analyses.fact_pass import FactPass
from pyengine.embedded import FACTS
from pyengine.facts import read_facts

BERT = Path(__file__).parent / "models" / "bert"
PARAREL = Path(__file__).parent / "data" / "pararel"
FILES = [f"{name}.parquet" for name in ("facts", "neurons", "effects", "skipped", "relations")]
SMALL = ["--facts", FACTS, "--max-facts", 2, "--block-facts", 2]


def pararel(run: Run, out: Path, *more: object, model: object = BERT) -> Outcome:
    return run("neurons", "pararel", model, "--device", "cpu", "--out", out, *more)


@pytest.fixture
def made(run: Run, tmp_path: Path) -> Path:
    out = tmp_path / "facts"
    done = pararel(run, out, *SMALL)
    assert done.code == 0, done.err
    return out


def test_summary_show_export_verify(run: Run, tmp_path: Path) -> None:
    out, plot = tmp_path / "facts", tmp_path / "facts.png"
    done = pararel(run, out, *SMALL, "--plot", plot)
    assert done.code == 0, done.err
    assert "6 facts, 30 prompts in" in done.err and "prompts/s" in done.err
    assert f"next: pyengine show {out} --fact 0" in " ".join(done.err.split())
    assert plot.read_bytes().startswith(b"\x89PNG")
    for words in ("birthplace", "×0 own", "×2 other", "as Dai et al.", "Layers of the neurons"):
        assert words in done.out

    shown = " ".join(run("show", out).out.split())
    assert f"{FACTS}: 6 of 6 facts, 30 prompts" in shown and "share 0.5" in shown
    fact = run("show", out, "--fact", "instrument-01", "--rows", 2).out
    assert "fact 3 (instrument-01): instrument, Tugur Revas →" in fact
    assert "prompts of 5" in fact and "of another relation, under these neurons" in fact
    assert fact == run("show", out, "--fact", 3, "--rows", 2).out
    assert_one_line(run("show", out, "--fact", "nobody"), 1, "no fact 'nobody'", "0 to 5")
    record = json.loads(run("show", out, "--fact", 3, "--json").out)
    assert len(record["effects"]) == 10 and len(record["neurons"]) == record["n_neurons"] > 0
    first = record["neurons"][0]
    shared = run("show", out, "--layer", first["layer"], "--dim", first["dim"])
    assert "instrument" in shared.out and "Tugur Revas" in shared.out
    assert_one_line(run("show", out, "--layer", 9, "--dim", 0), 1, "layer 9", "0 to 3")
    common = json.loads(run("show", out, "--relation", "birthplace", "--json").out)
    counts = [row["n_facts"] for row in common]
    assert counts == sorted(counts, reverse=True) and 0 < counts[0] <= 3
    assert f"{len(common)} neurons" in run("show", out, "--relation", "birthplace").out
    assert_one_line(run("show", out, "--relation", "P0"), 1, "no relation 'P0'", "birthplace")

    lists = tmp_path / "neurons.json"
    assert run("export", out, "--format", "neurons-json", "--out", lists).code == 0
    pairs = [[row["layer"], row["dim"]] for row in record["neurons"]]
    assert json.loads(lists.read_text())["instrument-01"] == pairs
    assert run("export", out, "--out", tmp_path / "effects.parquet").code == 0
    rows = pq.read_table(tmp_path / "effects.parquet").to_pylist()
    assert len(rows) == 60
    for row in rows:
        assert row["uid"].startswith(row["relation"])
        assert (row["object"] == row["target"]) >= (row["kind"] == "own")
    assert "intact" in run("verify", out).out
    assert_one_line(run("compare", out, out), 1, "holds neurons")


def test_json_is_the_tables(run: Run, made: Path) -> None:
    found = json.loads(run("show", made, "--json").out)
    again = json.loads(pararel(run, made, *SMALL, "--json").out)
    assert again == {"run": str(made), **found}
    assert [row["relation"] for row in found["relations"]] == [
        "birthplace",
        "instrument",
        "language",
        "all",
    ]
    effects = pq.read_table(made / "effects.parquet").to_pylist()
    own = [row for row in effects if row["kind"] == "own"]
    before = sum(row["probability_before"] for row in own)
    change = sum(row["probability_suppressed"] for row in own) / before - 1
    assert found["relations"][-1]["own_suppress_ratio_of_means"] == pytest.approx(change)
    assert change < -0.1
    assert sum(row["share"] for row in found["layers"]) == pytest.approx(1)


def test_shards_and_merge(run: Run, made: Path, tmp_path: Path) -> None:
    for index in (0, 1):
        done = pararel(run, tmp_path / f"part{index}", *SMALL, "--shard", f"{index}/2")
        assert done.code == 0 and "merge with" in done.err
    parts = [tmp_path / f"part{index}" for index in (0, 1)]
    merged = run("merge", *parts, "--out", tmp_path / "merged")
    assert merged.code == 0 and "merged 6 facts" in merged.err
    for name in FILES:
        assert (tmp_path / "merged" / name).read_bytes() == (made / name).read_bytes()


def test_an_interrupted_run_resumes(
    run: Run, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, blocks = FactPass.run, []

    def second_stops(self: FactPass, block: int, *more: Any) -> Any:
        blocks.append(block)
        if len(blocks) == 2:
            raise KeyboardInterrupt
        return whole(self, block, *more)

    monkeypatch.setattr(FactPass, "run", second_stops)
    out = tmp_path / "run"
    assert_one_line(pararel(run, out, *SMALL), 130, "interrupted", "same command again to resume")
    assert pararel(run, out, *SMALL).code == 0
    assert blocks == [0, 1, 1, 2], "the finished block was done again"
    assert all((out / name).read_bytes() == (made / name).read_bytes() for name in FILES)


def test_other_settings_are_refused(run: Run, made: Path) -> None:
    outcome = pararel(run, made, *SMALL, "--share", 0.7)
    assert_one_line(outcome, 1, "question.share", "0.5 != 0.7")


def test_pararel_and_what_a_causal_model_skips(run: Run, tmp_path: Path) -> None:
    cheap = ["--method", "max_activation", "--max-facts", 1, "--block-facts", 1]
    done = pararel(run, tmp_path / "a", "--data", PARAREL, *cheap, model="demo")
    assert done.code == 0, done.err
    assert "P36 capital" in done.out and "P1001 jurisdiction" in done.out
    one = pararel(
        run, tmp_path / "b", "--data", PARAREL, "--relations", "P36", *cheap, model="demo"
    )
    assert one.code == 0 and "P1001" not in one.out
    facts = tmp_path / "facts.jsonl"
    inside = {"relation": "r", "target": " Rome", "prompts": ["[MASK] is a city."], "uid": "u1"}
    after = inside | {"prompts": ["A city is"], "uid": "u2"}
    facts.write_text(f"{json.dumps(inside)}\n{json.dumps(after)}\n")
    skipped = pararel(run, tmp_path / "c", "--facts", facts, *cheap, "--max-facts", 2, model="demo")
    assert skipped.code == 0, skipped.err
    assert "skipped 1 fact u1: no prompt ends in the object" in skipped.err
    assert "skipped 1 fact u1" in run("show", tmp_path / "c").out


def test_counterfact(run: Run, tmp_path: Path) -> None:
    rewrite = {"prompt": "{} was born in", "relation_id": "P19", "target_true": {"str": "Rome"}}
    rewrite |= {"subject": "Vobirk Drovind", "target_new": {"str": "Oslo"}}
    data = tmp_path / "counterfact.json"
    data.write_text(json.dumps([{"case_id": 7, "requested_rewrite": rewrite}]))
    done = pararel(run, tmp_path / "run", "--counterfact", data, "--json", model="demo")
    assert done.code == 0, done.err
    assert json.loads(done.out)["relations"][0]["relation"] == "P19"
    shown = json.loads(run("show", tmp_path / "run", "--fact", "counterfact-7", "--json").out)
    assert shown["effects"][0]["text"] == "Vobirk Drovind was born in [MASK]"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--facts", "nothing.jsonl"], ["nothing.jsonl"]),
        (["--data", "nothing"], ["nothing"]),
        (["--facts", FACTS, "--relations", "P36"], ["'P36'", "birthplace, instrument, language"]),
        ([*SMALL, "--method", "simpson"], ["unknown method 'simpson'"]),
        ([*SMALL, "--share", "1"], ["share must be from 0 to below 1"]),
        ([*SMALL, "--adaptive", "2"], ["adaptive is a share"]),
        ([*SMALL, "--plot", "figure.jpg"], ["figure.jpg", ".png, .svg, .pdf"]),
    ],
)
def test_bad_input_is_one_line(
    run: Run, tmp_path: Path, options: list[object], words: list[str]
) -> None:
    assert_one_line(pararel(run, tmp_path / "run", *options), 1, "error:", *words)
    assert not (tmp_path / "run").exists()


def test_wrong_usage(run: Run, made: Path, tmp_path: Path) -> None:
    for options in ([], ["--data", PARAREL, "--facts", FACTS], [*SMALL, "--max-facts", 0]):
        assert pararel(run, tmp_path / "run", *options).code == 2
    assert run("show", made, "--unit", 0).code == 2
    assert run("show", made, "--fact", 0, "--layer", 1, "--dim", 1).code == 2


def test_compare(run: Run, made: Path, tmp_path: Path) -> None:
    sets: dict[str, Any] = {fact.uid: [] for fact in read_facts(FACTS)} | {
        "birthplace-00": [[3, 1], [0, 2]]
    }
    mine = json.loads(run("show", made, "--fact", "birthplace-00", "--json").out)["neurons"]
    sets["birthplace-00"].append([mine[0]["layer"], mine[0]["dim"]])
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "x_pararel_neurons_0.json").write_text(json.dumps(sets))
    rows = json.loads(run("neurons", "compare", made, folder, "--json").out)
    (row,) = [row for row in rows if (row["relation"], row["layer"]) == ("birthplace", None)]
    other = json.loads(run("show", made, "--fact", "birthplace-01", "--json").out)["neurons"]
    assert (row["n_a"], row["n_b"], row["n_shared"]) == (len(mine) + len(other), 3, 1)
    assert row["jaccard"] == pytest.approx(1 / (len(mine) + len(other) + 2))
    shown = run("neurons", "compare", made, folder)
    assert shown.code == 0 and "birthplace" in shown.out and "layer" in shown.out
    alone = run("neurons", "compare", folder, folder)
    assert "birthplace" not in alone.out and "--data or --facts say" in alone.out
    named = run("neurons", "compare", folder, folder, "--facts", FACTS)
    assert "birthplace" in named.out and "--data" not in named.out
    assert_one_line(run("neurons", "compare", made, tmp_path / "no"), 1, "no does not exist")
    assert_one_line(run("neurons", "compare", made, tmp_path), 1, "neither a run nor a folder")
    assert run("neurons", "compare", made).code == 2


def test_plot(run: Run, made: Path, tmp_path: Path) -> None:
    picture = tmp_path / "p.svg"
    done = run("neurons", "plot", made, "--out", picture, "--kind", "suppress")
    assert done.code == 0 and f"wrote {picture}" in " ".join(done.err.split())
    assert b"Suppressing" not in picture.read_bytes()[:100] and picture.stat().st_size > 10_000
    lists = tmp_path / "neurons.json"
    assert run("export", made, "--format", "neurons-json", "--out", lists).code == 0
    assert run("neurons", "plot", lists, "--out", picture).code == 0
    for options, words in (
        (["--kind", "bars"], ["unknown kind 'bars'", "suppress, enhance, layers"]),
        (["--aggregate", "median"], ["unknown aggregate 'median'"]),
        (["--out", tmp_path / "p.gif"], [".png, .svg, .pdf"]),
    ):
        outcome = run("neurons", "plot", made, "--out", picture, *options)
        assert_one_line(outcome, 1, "error:", *words)
    both = run("neurons", "plot", made, lists, "--out", picture)
    assert_one_line(both, 1, "one picture shows one run")
    none = run("neurons", "plot", lists, "--out", picture, "--kind", "enhance")
    assert_one_line(none, 1, "nothing here shows enhance; it shows layers")


def test_what_is_not_a_fact_run_is_refused(
    run: Run, model: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "triggers"
    assert run("triggers", model, corpus, "--unit", "line", "--k", 2, "--out", out).code == 0
    for command in (["plot", out, "--out", tmp_path / "p.png"], ["compare", out, out]):
        assert_one_line(run("neurons", *command), 1, "holds triggers", "pyengine neurons pararel")
    assert run("show", out, "--fact", 0).code == 2
