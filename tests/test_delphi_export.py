"""The export for delphi, read back as its loader does; its hookpoints in the models themselves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from brute_force import apart, unit_inputs
from published_schemas import read_delphi
from tiny_models import D_FF, FAMILIES
from tool_export_cases import BAND, search, units

import pyengine
from pyengine import PyengineError
from pyengine.export import export
from pyengine.export.delphi import SMALLEST, hookpoint
from pyengine.units import UnitTable


def folders(found: pyengine.TriggerExamples) -> list[str]:
    return [hookpoint(found, layer) for layer in found.layers]


@pytest.mark.parametrize("sign", ["max", "min", "both"])
@pytest.mark.parametrize("family", FAMILIES)
def test_delphi_stores_what_was_kept(family: str, sign: str, tmp_path: Path) -> None:
    _, found = search(family, sign=sign, dims=[0, 7, 36], k=20)  # more than there are units
    export(found, "delphi", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(folders(found))
    for layer, name in zip(found.layers, folders(found), strict=True):
        read = read_delphi(tmp_path / "out" / name)
        assert [file.name for file in (tmp_path / "out" / name).glob("*.safe*")] == [
            f"0_{D_FF[family] - 1}.safetensors"
        ]
        for row, (unit, length) in enumerate(
            zip(read.more["units"].tolist(), read.more["lengths"].tolist(), strict=True)
        ):
            assert read.tokens[row, :length].tolist() == units()[unit]
            assert not read.tokens[row, length:].any()
        assert read.tokens.shape[1] % 32 == 0
        for dim in found.dims:
            sides = [side.examples(layer, dim) for side in found.sides().values()]
            wanted = {(e.unit, e.position): e.score for side in sides for e in side}
            wanted = {at: score for at, score in wanted.items() if abs(score) > SMALLEST}
            places = [(int(read.more["units"][s]), p) for s, p in read.locations.get(dim, [])]
            assert places == list(wanted)
            assert read.activations.get(dim, []) == [
                float(np.float16(score)) for score in wanted.values()
            ]


@pytest.mark.parametrize("value", ["post", "pre"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_hookpoint_is_the_module_whose_output_the_run_holds(family: str, value: str) -> None:
    model, found = search(family, value=value)
    if value == "pre" and model.family.encoder_decoder:
        with pytest.raises(PyengineError, match="use a run with value=post"):
            hookpoint(found, 0)
        return
    apart(model.hf)
    for layer, name in zip(found.layers, folders(found), strict=True):
        seen: list[torch.Tensor] = []
        handle = model.body.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, out, seen=seen: seen.append(out)
        )
        example = found.examples(layer, 5)[0]
        with handle, torch.no_grad():
            model.hf(**unit_inputs(model.hf, units()[example.unit], [], []))
        shift = int(found.manifest["model"]["stacks"][layer] == "decoder" and family[:2] == "t5")
        found_here = float(seen[0][0, example.position + shift, 5])
        assert abs(found_here - example.score) <= BAND * abs(example.score) + 1e-6


def test_delphi_widens_its_locations(tmp_path: Path) -> None:
    _, found = search(layers=[0], dims=[2], k=1)
    n = 70_000
    many = np.arange(n)
    table = UnitTable(many, many, np.arange(n + 1), np.ones(n, np.int32))
    last = replace(found, table=table, units=found.units * 0 + n - 1, positions=found.positions * 0)
    export(last, "delphi", tmp_path / "out")
    assert read_delphi(tmp_path / "out" / "h.0.mlp.act").locations == {2: [(n - 1, 0)]}


def test_delphi_refuses_what_float16_cannot_hold(tmp_path: Path) -> None:
    _, found = search(layers=[0])
    with pytest.raises(PyengineError, match="delphi stores float16, which cannot hold 1e\\+06"):
        export(replace(found, scores=found.scores * 0 + 1e6), "delphi", tmp_path / "out")
    assert not (tmp_path / "out").exists()
