"""Prediction runs: the same bytes for any shards, order or interruption; nothing is lost."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from patience import kill_often
from prediction_helpers import MODES, result_hashes, search
from prediction_helpers import run_units as units
from tiny_models import VOCAB, tiny_model

from pyengine import Corpus, PyengineError, open_run


class _Stop(Exception):
    pass


@pytest.mark.parametrize("error", [_Stop, KeyboardInterrupt])
@pytest.mark.parametrize("stop_after", [1, 3, 8, 12])
def test_an_interrupted_run_resumes_to_the_same_bytes(
    tmp_path: Path, stop_after: int, error: type[BaseException]
) -> None:
    search(tmp_path / "whole", **MODES["layer"])
    calls: list[int] = []

    def stop(done: int, _total: int) -> None:
        calls.append(done)
        if len(calls) == stop_after:
            raise error

    with pytest.raises(error):
        search(tmp_path / "run", on_progress=stop, **MODES["layer"])
    finished = [
        json.loads(file.read_text()) for file in (tmp_path / "run" / "parts").glob("*.json")
    ]
    seen: list[tuple[int, int]] = []
    search(tmp_path / "run", on_progress=lambda *at: seen.append(at), **MODES["layer"])
    assert seen[0][0] == sum(part["record"]["n_tokens"] for part in finished)
    assert seen[-1][0] == seen[-1][1] == sum(map(len, units()))
    assert result_hashes(tmp_path / "run") == result_hashes(tmp_path / "whole")


def test_a_complete_run_is_opened_and_not_repeated(tmp_path: Path) -> None:
    first = search(tmp_path / "run")
    touched: list[int] = []
    second = search(tmp_path / "run", on_progress=lambda *_: touched.append(1))
    assert not touched
    assert first.table.equals(second.table)


@pytest.mark.parametrize("mode", MODES)
def test_save_and_open_round_trip(tmp_path: Path, mode: str) -> None:
    how = MODES[mode] | {"output_dist": False}
    found = search(None, **how)
    search(tmp_path / "run", **how)
    found.save(tmp_path / "saved")
    opened = open_run(tmp_path / "saved")
    assert opened.mode == mode
    assert opened.table.equals(found.table)
    assert opened.table.schema.equals(found.table.schema)
    assert opened.examples.equals(found.examples)
    assert opened.summary().equals(found.summary())
    opened.save(tmp_path / "again")
    hashes = [result_hashes(tmp_path / name) for name in ("run", "saved", "again")]
    assert hashes[0] == hashes[1] == hashes[2]


@pytest.mark.parametrize(("family", "position"), [("gpt2", "all"), ("t5", "random")])
def test_output_distributions_are_the_models_own(
    tmp_path: Path, family: str, position: str
) -> None:
    found = search(tmp_path / "run", family, output_dist=True, position=position)
    dist = open_run(tmp_path / "run").output_dist
    assert isinstance(dist, np.memmap)
    assert (dist.dtype, dist.shape) == (np.float32, (found.examples.num_rows, VOCAB))
    hf = tiny_model(family)
    for row, example in zip(dist, found.examples.to_pylist(), strict=True):
        unit = units()[example["unit"]]
        inputs, at = {"input_ids": torch.tensor([unit])}, example["position"]
        if family == "t5":
            inputs["decoder_input_ids"] = torch.tensor([[0, *unit]])
            at += 1
        with torch.no_grad():
            own = hf(**inputs).logits[0, at].softmax(0)
        np.testing.assert_allclose(row, own, rtol=1e-3, atol=1e-6)
    assert search(tmp_path / "other", family).output_dist is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mode": "value"}, "question.mode: .*layer.* != .*value"),
        ({"position": "last"}, "question.position"),
        ({"position": "random"}, "question.seed: null != 0"),
        ({"final_norm": "off"}, "question.final_norm: .*on.* != .*off"),
        ({"head": "embedding"}, "question.head"),
        ({"layers": [0]}, "question.layers"),
        ({"output_dist": True}, "question.output_dist: false != true"),
        ({"batch_tokens": 64}, "numerics.batch_tokens: 48 != 64"),
        ({"activation": "model"}, "numerics.activation"),
        ({"seed": 1}, r"model\.sha256"),
        ({"corpus": Corpus.from_token_ids(units(59))}, r"corpus\.sha256"),
    ],
)
def test_a_changed_setting_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    search(tmp_path / "run")
    before = result_hashes(tmp_path / "run")
    with pytest.raises(PyengineError, match=named):
        search(tmp_path / "run", **change)
    assert result_hashes(tmp_path / "run") == before


@pytest.mark.parametrize("kind", ["predictions.parquet", "examples.parquet", "json"])
def test_a_damaged_part_is_refused(tmp_path: Path, kind: str) -> None:
    search(tmp_path / "run", shard=(0, 2))
    file = tmp_path / "run" / "parts" / f"000001.{kind}"
    file.write_bytes(file.read_bytes()[:-9])
    for shard in ((0, 2), (0, 1)):
        with pytest.raises(PyengineError, match=f"{file.name} is damaged") as caught:
            search(tmp_path / "run", shard=shard)
        assert "\n" not in str(caught.value)
    file.unlink()
    search(tmp_path / "run")
    search(tmp_path / "whole")
    assert result_hashes(tmp_path / "run") == result_hashes(tmp_path / "whole")


@pytest.mark.parametrize("name", ["predictions.parquet", "examples.parquet", "output_dist.npy"])
def test_a_damaged_result_is_refused(tmp_path: Path, name: str) -> None:
    search(tmp_path / "run", output_dist=True)
    data = bytearray((tmp_path / "run" / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "run" / name).write_bytes(data)
    with pytest.raises(PyengineError, match=f"{name} is damaged"):
        open_run(tmp_path / "run")


def test_manifest_tells_what_was_run(tmp_path: Path) -> None:
    search(tmp_path / "run", mode="value", n=4)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["analysis"] == "predictions"
    assert manifest["question"] == {
        "mode": "value",
        "position": "all",
        "seed": None,
        "layers": [0, 1, 2],
        "final_norm": "off",
        "head": "embedding",
        "n": 4,
        "all_values": False,
        "output_dist": False,
        "bos": False,
    }
    numerics = manifest["numerics"]
    assert (numerics["activation"], numerics["batch_tokens"]) == ("fused", 48)
    n_tokens = sum(map(len, units()))
    wanted = {"n_examples": n_tokens, "n_tokens": n_tokens, "n_nan": [0, 0, 0], "exact": True}
    assert manifest["result"] == wanted


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_random_moments_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    how: dict[str, Any] = MODES["layer"] | {"block_tokens": 20}
    search(tmp_path / "whole", **how)
    run = tmp_path / "run"
    slow: dict[str, Any] = {"on_progress": lambda *_: time.sleep(0.02)}
    kill_often(lambda: search(run, **how, **slow), run, "parts/*.json", kills=8)
    search(run, **how)
    assert result_hashes(run) == result_hashes(tmp_path / "whole")
