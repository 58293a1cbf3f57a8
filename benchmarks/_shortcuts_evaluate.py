"""Scoring the maps, in headless passes of the model over the sentences of the fit."""

from typing import Any

import numpy as np

import pyengine
from benchmarks._shortcuts_common import Scale, headless, shape, share
from benchmarks._values_common import Found, Line, cost, duration, verdict
from pyengine.peaks import measured_peak
from pyengine.shortcuts.evaluate import evaluate
from pyengine.shortcuts.fit import fit_shortcuts
from pyengine.shortcuts.sample import VALIDATION, Draw, Sample
from pyengine.shortcuts.substitution import substituted_states
from pyengine.store import TokenStore

LIMIT = 1.3
MAPPINGS = ("id", "mat", "affine")


def measure(scale: Scale) -> Found:
    """Time a fit, its evaluation and its substitution modes."""
    model = scale.model()
    store = scale.store(scale.n_train + scale.n_validation)
    sample = sample_of(scale, store)
    every = headless(model, sample.store)
    held = headless(model, part(sample, VALIDATION))
    fit, shortcuts = cost(lambda: fit_shortcuts(model, store, **scale.drawn()))
    scored, _ = cost(lambda: evaluate(shortcuts, model, mappings=MAPPINGS))
    n_layers, d = shape(model)
    flops = evaluate_flops(scale.n_validation, n_layers, d, scale.vocab)
    floor = flops / measured_peak(model.device, "float32").flops
    passes, of_held = share(scored, every), share(scored, held)
    n_tokens, n_units = sample.store.n_tokens, sample.store.n_units
    lines = [
        Line(f"headless pass, {n_units:,} sentences up to their token", duration(every.wall_s)),
        Line(f"  of the {scale.n_validation:,} for validation alone", duration(held.wall_s)),
        Line(
            "  fit to the last layer", duration(fit.wall_s), "", f"{share(fit, every):.2f} passes"
        ),
        Line(
            f"  evaluate {', '.join(MAPPINGS)}, early exit",
            duration(scored.wall_s),
            f"floor {duration(floor)}",
            f"{passes:.2f} passes",
            f"<= {LIMIT}",
            verdict(passes <= LIMIT),
        ),
        Line("  the same, in passes of validation alone", "", "", f"{of_held:.2f} passes"),
    ]
    figures: dict[str, Any] = {
        "sentences": n_units,
        "tokens": n_tokens,
        "pass": every._asdict(),
        "validation_pass": held._asdict(),
        "fit": fit._asdict() | {"passes": share(fit, every)},
        "evaluate": scored._asdict() | {"passes": passes, "validation_passes": of_held},
        "evaluate_flops": flops,
        "evaluate_floor_s": floor,
    }
    more, figures["substitution"] = _substitution(model, scale)
    return [*lines, *more], figures


def evaluate_flops(n: int, n_layers: int, d: int, vocab: int) -> float:
    """Count the products: each mapping and layer a map and the head; the final one twice."""
    heads = 2 * n * d * vocab * (len(MAPPINGS) * n_layers + 2)
    return heads + 2 * n * d**2 * (len(MAPPINGS) - 1) * n_layers


def sample_of(scale: Scale, store: TokenStore) -> Sample:
    """Draw what a fit draws."""
    draw = Draw(n_train=scale.n_train, n_validation=scale.n_validation)
    return Sample.of(store, draw, {"decoder": (0, 0)}, causal=True)


def part(sample: Sample, role: int) -> TokenStore:
    """Return the units of one role."""
    chosen = np.flatnonzero(sample.roles == role)
    units = [sample.store.unit_tokens(int(unit)) for unit in chosen]
    offsets = np.concatenate([[0], np.cumsum([len(unit) for unit in units])])
    tokens = np.concatenate(units)
    return TokenStore.in_memory(tokens, offsets, sample.store.report, sample.store.adds_special)


def _substitution(model: pyengine.Model, scale: Scale) -> Found:
    """Every mode runs L (L + 1) / 2 blocks of each row, less what it replaces."""
    n_layers, _ = shape(model)
    store = scale.store(scale.sub_train + scale.sub_validation)
    sizes = {"n_train": scale.sub_train, "n_validation": scale.sub_validation}
    shortcuts = fit_shortcuts(model, store, sub_modules=True, **scale.drawn() | sizes)
    validation = shortcuts.validation()
    held = TokenStore.in_memory(
        validation.table.tokens, validation.table.offsets, store.report, store.adds_special
    )
    once = headless(model, held)
    seconds, modes = cost(lambda: substituted_states(model, shortcuts))
    passes = share(seconds, once) / len(modes)
    line = Line(
        f"substitution, a mode of {', '.join(modes)}, {len(validation):,} sentences",
        duration(seconds.wall_s / len(modes)),
        f"{(n_layers + 1) / 2:.1f} passes of blocks",
        f"{passes:.2f} passes",
    )
    figures = {"modes": [*modes], "sentences": len(validation), "passes_per_mode": passes}
    return [line], figures | {"pass": once._asdict(), "all_modes": seconds._asdict()}
