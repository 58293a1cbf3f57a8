"""The peers of the value benchmark: they take the memory they should, and say what ours says."""

from dataclasses import replace

import pytest

import pyengine
from benchmarks._ff_layers_procedure import Procedure, padded
from benchmarks._values_agreement import peak_memory, ways
from benchmarks._values_common import Cost
from benchmarks._values_predictions import Scaled, compare_layers, compare_values
from benchmarks.triggers import sentences
from benchmarks.values import TOY


@pytest.mark.slow
def test_memory_is_that_of_the_blocks() -> None:
    sizes = replace(TOY, rows=512, vocab=50_257, blocks=(256, 64))
    _, plain, lean = ways(sizes)
    row = 50_257 * 4  # bytes of logits
    # logits, probabilities
    assert 1.9 * 256 * row < peak_memory(plain, sizes, 1) < 2.5 * 256 * row
    # logits, probabilities, a comparison
    assert 2.1 * 64 * row < peak_memory(lean, sizes, 1) < 3 * 64 * row


@pytest.mark.slow
def test_the_original_says_what_ours_says() -> None:
    """On a trained model, where memories do agree with their layer."""
    demo, store = pyengine.load("demo"), sentences(12)
    found = pyengine.ffn_predictions(demo, store)
    tops = Procedure(demo.hf).values_once()
    units = [store.unit_tokens(unit) for unit in range(store.n_units)]
    positions = found.examples["position"].to_pylist()
    for procedure in (
        Procedure(demo.hf),
        Procedure(demo.hf, waste=False),
        Procedure(demo.hf, waste=False, top_tokens=tops),
    ):
        records = procedure.layers(units, positions)
        for unit, record in enumerate(records):
            compare_layers(found.table, unit, record)
        assert any(sum(record["n_matching_layer"]) for record in records)
    records[0]["ffn_final_prob"][0] *= 1.1
    with pytest.raises(RuntimeError, match="ffn_final_prob"):
        compare_layers(found.table, 0, records[0])


@pytest.mark.slow
def test_the_original_says_of_single_memories_what_ours_says() -> None:
    demo, store = pyengine.load("demo"), sentences(2)
    last = demo.n_layers - 1
    found = pyengine.ffn_predictions(demo, store, mode="value", layers=[last], all_values=True)
    row = found.table.to_pylist()[-1]
    procedure = Procedure(demo.hf)
    passed = procedure.forward(padded([store.unit_tokens(row["unit"])]))
    record = procedure.dims(passed, row["position"], range(40))
    compare_values(row, record, demo.vocab_size)
    record["ffn_probs"] = [1.1 * prob for prob in record["ffn_probs"]]
    with pytest.raises(RuntimeError, match="ffn_probs"):
        compare_values(row, record, demo.vocab_size)


def test_times_of_more_units_lie_on_a_line() -> None:
    scaled = Scaled(11, many=Cost(7.0, 9.0), one=Cost(2.0, 3.0))
    assert scaled.at(1) == pytest.approx(2.0)
    assert scaled.at(11) == 7.0
    assert scaled.at(101) == pytest.approx(52.0)
