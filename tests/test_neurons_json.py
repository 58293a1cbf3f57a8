"""Neurons in the layout that the knowledge-neurons package publishes."""

import json
from pathlib import Path

import pytest
from fact_helpers import cheap as cheap
from fact_helpers import find

from pyengine import PyengineError
from pyengine.export import export
from pyengine.published_neurons import (
    read_published_neurons,
)


def test_exported_neurons_are_those_found_in_the_packages_layout(
    cheap: None, tmp_path: Path
) -> None:
    found = find()
    export(found, "neurons-json", tmp_path / "neurons.json")
    data = json.loads((tmp_path / "neurons.json").read_text())
    assert [*data] == found.facts["uid"].to_pylist()
    columns = (found.neurons[name].to_pylist() for name in ("fact", "layer", "dim"))
    rows = list(zip(*columns, strict=True))
    for row in found.facts.to_pylist():
        assert data[row["uid"]] == [
            [layer, dim] for fact, layer, dim in rows if fact == row["fact"]
        ]
    assert any(neurons != sorted(neurons) for neurons in data.values())
    assert read_published_neurons(tmp_path / "neurons.json") == found.by_uid()
    text = (tmp_path / "neurons.json").read_text()
    assert text.startswith('{\n    "fact-0": [\n        [\n            ')
    with pytest.raises(PyengineError, match="unknown format 'csv'; known are: neurons-json"):
        export(found, "csv", tmp_path / "neurons.csv")
