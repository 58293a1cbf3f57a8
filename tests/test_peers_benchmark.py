"""The peers benchmark on tiny models: every way finds what is there. No time is judged here."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import _machine, peers
from benchmarks._peers_common import NAMES, Answer, Run, Scale, Setting
from benchmarks._peers_huggingface import fraction_run
from benchmarks._peers_rounds import (
    BODY,
    CASES,
    FUSED,
    MODEL,
    ONE_LAYER,
    STOPPED,
    STORE_ALL,
    TOPK,
    Case,
    compare,
    with_peers,
    wrong,
)
from benchmarks._peers_targets import TARGETS, Target, judge, measure
from benchmarks._values_common import Cost
from benchmarks.peers import TOY

# Not imported here, for all the session: see `_peers_tools`.
if absent := [name for name in ("transformer_lens", "nnsight") if find_spec(name) is None]:
    pytest.skip(f"{absent[0]} is not installed", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[1]
RANKING = [name for name, case in CASES.items() if TOPK in (name, case.same_as)]


def activations(setting: Setting) -> list[Tensor]:
    """Return every layer's coefficients [sequences * length, d_ff], in one batch."""
    whole = replace(setting.scale, batch=setting.scale.sequences)
    (batch,) = replace(setting, scale=whole).batches(setting.ids)
    inputs: list[Tensor] = []
    handles = [
        setting.body.get_submodule(path).register_forward_pre_hook(
            lambda _module, args: inputs.append(args[0])
        )
        for path in setting.down_projections(setting.body)
    ]
    with torch.no_grad():
        setting.body(**batch.inputs)
    for handle in handles:
        handle.remove()
    return [setting.content(acts).flatten(0, 1) for acts in inputs]


@pytest.mark.parametrize("family", NAMES)
def test_every_way_finds_the_best_tokens_where_they_are(family: str) -> None:
    setting = Setting.of(family, TOY)
    layers = activations(setting)
    assert len(layers) == len(setting.hook_names) == setting.model.n_layers
    acts = torch.cat(layers, dim=1)
    best = acts.topk(TOY.k, dim=0).values.T
    assert best.max() > 1e-2  # far above the tolerance
    for name in RANKING:
        answer = CASES[name].prepare(setting)(setting.ids)
        assert answer is not None and answer.ids is not None, name
        torch.testing.assert_close(answer.values, best, atol=1e-5, rtol=1e-5, msg=name)
        there = acts.T.gather(1, answer.ids)
        torch.testing.assert_close(there, answer.values, atol=1e-5, rtol=1e-5, msg=name)
        assert all(len(set(row)) == TOY.k for row in answer.ids.tolist()), name
    # TransformerLens and nnsight change what they get.
    assert setting.hf.config._attn_implementation == "sdpa"
    assert not any("forward" in vars(module) for module in setting.hf.modules())
    assert not any(module._forward_pre_hooks for module in setting.body.modules())
    assert not hasattr(object, "save")


@pytest.mark.parametrize("family", NAMES)
def test_one_layer_is_that_of_the_whole_pass(family: str) -> None:
    setting = Setting.of(family, TOY)
    layer = activations(setting)[setting.middle]
    for name in (STOPPED, ONE_LAYER):
        answer = CASES[name].prepare(setting)(setting.ids)
        assert answer is not None
        found = setting.content(answer.values).flatten(0, 1)
        torch.testing.assert_close(found, layer[-len(found) :], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", NAMES)
def test_all_cases_take_turns_and_agree(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines, result = measure(family, replace(TOY, rounds=2), CASES)
    assert [*result["cases"]] == [*CASES]
    order = [
        line.split(": ")[1].rpartition(",")[0] for line in capsys.readouterr().err.splitlines()
    ]
    assert order == [*CASES] * 3
    for name, case in result["cases"].items():
        assert len(case["cpu_s_rounds"]) == len(case["wall_s_rounds"]) == 2
        checked = CASES[name].same_as is not None or CASES[name].slow is not None
        assert ("difference" in case) == checked
        assert not wrong(case)
        if name in RANKING and name != TOPK:
            assert case["same_ids"] > 0.95  # else: equal scores, as of dead units
    assert result["cases"][BODY]["of_body_spread"] == [1, 1]
    assert result["cases"][BODY]["tokens"] == 6 * 12
    assert result["cases"][ONE_LAYER]["difference"] == 0
    assert result["cases"][MODEL]["difference"] == 0
    judged = [target for target in TARGETS if family in target.families]
    assert len(result["targets"]) == len(judged) == (5 if family == "gpt2" else 4)
    told = [line.verdict for line in lines[-len(judged) :]]
    assert {*told} <= {"met", "missed", "undecided"}
    assert told == [target["verdict"] for target in result["targets"].values()]


def test_the_fraction_is_that_of_the_blocks_begun() -> None:
    assert fraction_run(Setting.of("gpt2", TOY)) == pytest.approx(2 / 3, rel=1e-12)


def test_targets_are_held_against_the_median_of_rounds() -> None:
    setting = Setting.of("gpt2", TOY)
    costs = {
        BODY: [Cost(1.0, 2.0), Cost(1.0, 4.0), Cost(1.0, 2.0)],
        FUSED: [Cost(9.0, 1.0), Cost(9.0, 3.0), Cost(9.0, 4.0)],
    }
    rounds = {"ratio": 0.75, "spread": [0.5, 2.0]}
    line, result = judge(setting, Target(FUSED, BODY, 0.8), costs, 0.5)
    assert result == rounds | {"limit": 0.8, "verdict": "undecided"}
    assert (line.ratio, line.verdict) == ("0.750 x (0.500 to 2.000)", "undecided")
    line, result = judge(setting, Target(FUSED, BODY, None), costs, 0.4)
    assert result == rounds | {"limit": 0.4, "verdict": "missed"} and line.verdict == "missed"
    _, result = judge(setting, Target(FUSED, BODY, None), costs, 2.0)
    assert result["verdict"] == "met"
    _, result = judge(setting, Target(FUSED, BODY, 1.3, faster=True), costs, 0.5)
    assert result["ratio"] == pytest.approx(4 / 3) and result["verdict"] == "undecided"
    _, result = judge(setting, Target(FUSED, BODY, 0.5, faster=True), costs, 0.5)
    assert result["verdict"] == "met"


def test_what_is_stored_is_every_activation_above_0() -> None:
    setting = Setting.of("gpt2", TOY)
    answer = CASES[STORE_ALL].prepare(setting)(setting.ids)
    assert answer is not None
    above = sum(int((layer > 0).sum()) for layer in activations(setting))
    files = 3 * len(setting.hook_names)
    # three uint16 and a float32 each, and the head of every file
    assert 10 * above < answer.stored_bytes < 10 * above + 512 * files


def test_answers_are_compared_whatever_the_order_of_the_ids() -> None:
    expected = Answer(torch.tensor([[3.0, 2.0]]), torch.tensor([[7, 9]]))
    assert compare(expected._replace(ids=torch.tensor([[9, 7]])), expected) == {
        "difference": 0,
        "same_ids": 1,
    }
    found = compare(Answer(torch.tensor([[3.0, 1.5]]), torch.tensor([[8, 9]])), expected)
    assert found == {"difference": 0.5, "same_ids": 0.5} and wrong(found)
    assert wrong(compare(Answer(torch.tensor([[3.0, torch.nan]]), None), expected))


def test_cases_bring_those_that_they_are_compared_with() -> None:
    assert with_peers([ONE_LAYER]) == [BODY, STOPPED, ONE_LAYER]
    assert with_peers([MODEL]) == [BODY, TOPK, MODEL]


def test_a_wrong_answer_is_reported_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(_machine, "RESULTS", tmp_path)
    arguments = ["--families", "bert", "--only", MODEL, "--tiny", "--save", "toy", "-k", "3"]
    arguments += ["--sequences", "4", "--length", "8", "--batch", "2", "--rounds", "1"]
    assert run(arguments) == 0
    record = json.loads((tmp_path / "toy.json").read_text())
    assert record["command"] == " ".join(["python -m benchmarks peers", *arguments])
    assert record["figures"].keys() == {"bert", "versions"}
    assert [*record["figures"]["bert"]["cases"]] == [BODY, TOPK, MODEL]

    def off(setting: Setting) -> Run:
        return lambda ids: CASES[TOPK].prepare(setting)(ids)._replace(values=torch.zeros(1))  # type: ignore[union-attr]

    monkeypatch.setitem(CASES, MODEL, Case(off, TOPK))
    assert run(arguments) == 1
    assert "WRONG" in capsys.readouterr().out


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        peers.main(arguments)
    return int(left.value.code or 0)


def test_too_few_tokens_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--sequences", "2", "--length", "8", "-k", "20"]) == 2
    assert "k = 20 is more than the 4 x 2 sentences" in capsys.readouterr().err


def test_the_defaults_are_the_benchmark() -> None:
    assert Scale() == Scale(sequences=64, length=128, batch=8, k=50, rounds=3, tiny=False)


@pytest.mark.slow
def test_pytest_benchmarks_run() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["--benchmark-disable", "benchmarks/peers.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(NAMES) * len(CASES)} passed" in done.stdout
