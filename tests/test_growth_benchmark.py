"""The growth benchmark and the baseline of pytest-benchmark. No time is judged here."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _machine, compare, growth
from benchmarks._growth_axes import AXES, FORWARD
from benchmarks.growth import TOY


def test_slopes() -> None:
    linear = growth.growth([1, 10, 100], [2.0, 20.0, 200.0])
    assert linear["slope"] == pytest.approx(1) and linear["steepest"] == pytest.approx(1)
    bent = growth.growth([1, 2, 4], [1.0, 1.0, 4.0])
    assert bent["slope"] == pytest.approx(1) and bent["steepest"] == pytest.approx(2)


@pytest.mark.parametrize(
    ("last", "told"),
    [([8.0, 8.0], "missed"), ([4.0, 9.0], "undecided"), ([3.0, 4.0], "met")],
)
def test_the_steepest_step_is_judged_by_its_rounds(last: list[float], told: str) -> None:
    rounds = [[1.0, 1.0], [1.0, 1.0], last]  # sizes 1, 2, 4: the last step
    assert growth.steepest_verdict([1, 2, 4], rounds, 2) == told


@pytest.mark.slow
def test_every_axis_is_measured_saved_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_machine, "RESULTS", tmp_path)
    monkeypatch.setattr(growth, "FULL", TOY)
    growth.main(["--rounds", "1", "--save", "toy", "--plot", str(tmp_path / "toy.svg")])
    assert "slope" in capsys.readouterr().out
    figures = json.loads((tmp_path / "toy.json").read_text())["figures"]
    assert figures.keys() == AXES.keys()
    for name, found in figures.items():
        assert found["x"] == [*getattr(TOY, {"width": "widths"}.get(name, name))]
        assert len(found["lines"]) == 2
        for line, each in found["lines"].items():
            assert len(each["cpu_s"]) == 3 and min(each["cpu_s"]) > 0
            assert ("verdict" in each) == ("steepest_verdict" in each) == (line != FORWARD)
    assert (tmp_path / "toy.svg").read_text().startswith("<?xml")


def test_the_picture_of_some_axes_in_any_number(tmp_path: Path) -> None:
    line = {"cpu_s": [0.1, 0.4], "slope": 1.0}
    found: dict[str, Any] = {"x": [10, 100], "limit": 1, "label": "tokens", "why": "so"}
    found["lines"] = {"search": line, FORWARD: line}
    for number in (1, 3):
        growth.plot(dict.fromkeys([*AXES][:number], found), tmp_path / "toy.png")
        assert (tmp_path / "toy.png").stat().st_size > 1000


def test_sizes_reach_what_is_promised() -> None:
    full = growth.FULL
    assert (full.corpus[0], full.corpus[-1], full.k[0], full.k[-1]) == (10_000, 1_000_000, 1, 1000)
    assert all(len(axis) >= 5 for axis in (full.corpus, full.k, full.widths, full.sites))
    assert full.sites[-1] == full.models[2][1]  # all layers


def test_the_baseline_holds_every_stem() -> None:
    files = {file.stem for file in compare.BASELINE.parent.glob("[!_]*.py")}
    assert files - {*compare.stems()} == {"compare", "launches", "render"}  # no times of their own
    baseline = json.loads(compare.BASELINE.read_text())
    timed = {name.split("::")[0].removeprefix("benchmarks/") for name in baseline["median_s"]}
    assert timed == {f"{stem}.py" for stem in compare.stems()}
    assert all(seconds > 0 for seconds in baseline["median_s"].values())
    assert baseline["machine"]["versions"].keys() >= {"torch", "transformers"}


def test_comparing_shows_ratios_new_functions_and_another_machine(
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine = {"cpu": "A", "commit": "abc", "date": "2026-01-02", "versions": {"torch": "2"}}
    now = {"machine": machine | {"cpu": "B"}, "median_s": {"benchmarks/x.py::a": 3e-3, "b": 2.0}}
    compare.show(now, {"machine": machine, "median_s": {"benchmarks/x.py::a": 2e-3}})
    out = " ".join(capsys.readouterr().out.split())
    assert "1.50" in out and "new" in out and "NOT the same machine" in out
    compare.show(now | {"machine": machine}, {"machine": machine, "median_s": {}})
    assert "NOT the same" not in capsys.readouterr().out


@pytest.mark.slow
def test_medians_are_taken_from_pytest_benchmark() -> None:
    found = compare.run(["heap_merge"], "-k", "merge_heaps")
    assert [*found] == ["benchmarks/heap_merge.py::test_merge[merge_heaps]"]
    assert all(seconds > 0 for seconds in found.values())


def test_unknown_stems_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["nothing"], ["triggers", "--save"]):
        with pytest.raises(SystemExit):
            compare.main(arguments)
    err = capsys.readouterr().err
    assert "no benchmarks in nothing" in err and "a baseline holds every stem" in err
