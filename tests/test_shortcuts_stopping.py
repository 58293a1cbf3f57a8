"""Passes that really stop, against the rule of early exit, the ledger and the clock."""

import pytest
from random_shortcuts import double_model, random_shortcuts, residual_stream, units_of
from shortcut_exit_cases import SHARP, first_exit, own_maps

from pyengine.shortcuts.early_exit import LAMBDAS
from pyengine.shortcuts.evaluate import evaluate
from pyengine.shortcuts.stopping import Stopping
from pyengine.shortcuts.validation_batches import validation_batches
from pyengine.shortcuts.wall_clock import StoppingPass, wall_clock


@pytest.mark.parametrize(
    ("family", "stack"),
    [("gpt2", "decoder"), ("gpt_neo", "decoder"), ("bert", "encoder"), ("t5", "decoder")],
)
@pytest.mark.parametrize("lam", [0.2, 0.6, 1.112])
def test_passes_stop_where_the_rule_says(family, stack, lam):
    model = double_model(family, SHARP)
    shortcuts = random_shortcuts(model, stack, every=False, sub_modules=False)
    passes = StoppingPass(model, Stopping(model, shortcuts, lam))
    shift = int(model.family.encoder_decoder)
    units = units_of()
    for rows in validation_batches(model, shortcuts, stack, batch_tokens=1):
        tokens = units[int(rows.batch.units[0])]
        position = len(tokens) - 1 + shift
        states = residual_stream(model, model.hf, stack, tokens)[position]
        assert passes.run(rows) == first_exit(model, shortcuts, states, position, lam)


@pytest.mark.parametrize(
    ("family", "stack"), [("gpt2", "decoder"), ("bert", "encoder"), ("t5", "decoder")]
)
def test_the_ledger_says_where_passes_really_stop(family, stack):
    model = double_model(family, SHARP)
    shortcuts = random_shortcuts(model, stack, every=False, sub_modules=False)
    table = evaluate(shortcuts, model, mappings=["mat"], bootstrap=2).exit_samples
    assert table is not None
    said = {
        (row["lambda"], row["unit"]): (row["top_tokens"][0], row["layers"])
        for row in table.to_pylist()
    }
    stopping, units = Stopping(model, shortcuts, 0), shortcuts.validation().table.units
    passes, seen = StoppingPass(model, stopping), set()
    for rows in validation_batches(model, shortcuts, stack, batch_tokens=1):
        for lam in LAMBDAS:
            passes.stopping = stopping.at(lam)
            found = passes.run(rows)
            assert found == said[lam, units[rows.batch.units[0]]]
            seen.add(found[1])
    assert seen == {*range(1, shortcuts.n_layers() + 1)}


def test_states_are_read_through_maps_of_ones_own():
    model = double_model("gpt2", SHARP)
    shortcuts = random_shortcuts(model, "decoder", sub_modules=False)
    rows = next(iter(validation_batches(model, shortcuts, "decoder", batch_tokens=1)))
    for lam in (0.2, 0.6):
        passes = [
            StoppingPass(model, Stopping(model, shortcuts, lam, kind=kind)).run(rows)
            for kind in (own_maps(shortcuts), "affine")
        ]
        assert passes[0] == passes[1]


def test_wall_clock_says_what_was_run():
    model = double_model("gpt2")
    shortcuts = random_shortcuts(model, "decoder", every=False, sub_modules=False)
    told: list[tuple[int, int]] = []
    own = own_maps(shortcuts)
    tuned = wall_clock(model, shortcuts, lambdas=[0.4], kind=own, n_samples=4).to_pylist()
    affine = wall_clock(model, shortcuts, lambdas=[0.4], kind="affine", n_samples=4).to_pylist()
    for name in ("mean_layer", "agreement"):
        assert tuned[0][name] == affine[0][name]
    table = wall_clock(
        model,
        shortcuts,
        lambdas=[-1.112, 0.4, 1.112],
        n_samples=4,
        on_progress=lambda *done: told.append(done),
    ).to_pylist()
    assert [row["lambda"] for row in table] == [-1.112, 0.4, 1.112]
    assert table[0]["mean_layer"] == 1
    assert table[0]["layers_saved"] == pytest.approx(2 / 3)
    assert table[2]["mean_layer"] == 3
    assert table[2]["agreement"] == 1
    for row in table:
        assert row["seconds"] > 0
        assert row["whole_seconds"] == table[0]["whole_seconds"] > 0
        assert row["time_saved"] < 1
    assert told == [(n, 4) for n in (1, 2, 3, 4)]
