"""The published table of docs/accuracy.md: our numbers are Hugging Face's, bit for bit.

`pytest -m identity` runs every row: family, padding, precision, attention implementation. The
reference is transformers alone, hooked by hand and given position ids made from the mask.
"""

import json

import pytest

from benchmarks._accuracy_cells import Cell
from benchmarks._machine import RESULTS
from benchmarks.accuracy import DOCUMENT, MODELS, cells, overlap, render, top_sets, variants
from pyengine.loading import load
from pyengine.sites import sites_of

pytestmark = pytest.mark.identity

ROWS = [(family, dtype, attention) for family in MODELS for dtype, attention in variants(family)]
# Largest |difference| of logits between a row alone and in a batch, over the largest.
ALONE = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 3e-3}
OVERLAP = {"fp32": 0.999, "bf16": 0.95, "fp16": 0.99}


@pytest.mark.parametrize(("family", "dtype", "attention"), ROWS)
def test_every_site_is_bit_equal_to_plain_hugging_face(
    family: str, dtype: str, attention: str
) -> None:
    for padding, found in cells(family, dtype, attention).items():
        different = {name: delta for name, delta in found.sites.items() if delta}
        assert not different, f"{padding}: {different}"
        assert found.batch <= ALONE[dtype] * found.scale, padding
        check_coverage(family, attention, found)


def check_coverage(family: str, attention: str, found: Cell) -> None:
    """Check that nothing is left out but what Hugging Face does not compute as a tensor."""
    model = load(MODELS[family], attn_implementation=attention)
    ours = set(sites_of(model))
    derived = {n for n in ours if n.endswith((".hook_scale", ".hook_normalized", "attn_scores"))}
    maps = {name for name in ours if name.endswith("hook_pattern") and attention != "eager"}
    assert ours - derived - maps == set(found.sites)


@pytest.mark.slow
@pytest.mark.parametrize("family", MODELS)
def test_top_50_overlap_with_fp32(family: str) -> None:
    reference = top_sets(family, "fp32", "eager")
    for dtype, attention in variants(family):
        share = overlap(top_sets(family, dtype, attention), reference)
        assert share >= OVERLAP[dtype], (dtype, attention)


def test_the_document_is_what_the_results_file_says() -> None:
    result = json.loads((RESULTS / "cpu-accuracy.json").read_text())
    assert DOCUMENT.read_text() == render(result)
    assert {(r["family"], r["dtype"], r["attention"]) for r in result["figures"]["rows"]} == set(
        ROWS
    )
