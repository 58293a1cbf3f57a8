"""Layer and value predictions beside ff-layers' procedure, and its running-time table with ours.

Ours is timed on many units and on one: what one costs is mostly the fixed part (the top tokens of
all values). Any other number of units is reached by the fixed part and a straight line.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

import pyengine
from benchmarks._ff_layers_procedure import Procedure, Record, padded
from benchmarks._values_common import Cost, Found, Line, Scale, cost, duration, verdict
from benchmarks.triggers import random_model, sentences
from pyengine.store import Report, TokenStore

TARGET = 20
# WikiText-103's validation set, cut into sentences by our rule; ff-layers cuts with spaCy.
VALIDATION_UNITS = 8_753
# ff-layers' README: 16 layers of 4,096, a vocabulary of 267,744, one RTX 3090; seconds.
PUBLISHED = {"triggers": 0.75 * 3600, "layer": 35_362.4, "value": 15_052.6}
# fp32 sums in another order: neighbours in rank may swap, and GELU's sign at zero may flip.
PROBS, RANKS, RANK_SHARE, COUNTS, TOKENS = 1e-3, 5, 0.01, 3, 0.9


class Scaled(NamedTuple):
    """What `n` units cost, and what one does."""

    n: int
    many: Cost
    one: Cost

    def at(self, n: int) -> float:
        """Return the seconds of `n` units on the clock, as measured or along a straight line."""
        slope = (self.many.wall_s - self.one.wall_s) / max(1, self.n - 1)
        # On a handful of units the slope drowns in noise; it is never negative.
        return self.many.wall_s + (n - self.n) * max(slope, 0.0)

    def figures(self) -> dict[str, Any]:
        """Return what goes into the results file."""
        return {"units": self.n, "seconds": self.many._asdict(), "one_unit": self.one._asdict()}


class Bench:
    """A random GPT-2 small, real sentences, and what has been timed on them."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.store = sentences(scale.units, scale.corpus)
        vocab = int(self.store.tokens.max()) + 1 if scale.tiny else scale.vocab
        self.model = random_model("gpt2", vocab, tiny=scale.tiny)
        _ = self.model.fingerprint  # once per model, and every run's manifest holds it
        lengths = self.store.lengths
        self.chosen = np.argsort(np.abs(lengths - lengths.mean()), kind="stable")
        self.chosen = np.sort(self.chosen[: scale.original_units])

    def ours(self, n: int, **question: Any) -> tuple[Scaled, Any]:
        """Time our predictions on the first units, and on one."""
        run = partial(pyengine.ffn_predictions, self.model, **question)
        one, _ = cost(partial(run, first_units(self.store, 1)))
        store = first_units(self.store, n)
        many, found = cost(partial(run, store))
        return Scaled(store.n_units, many, one), found

    def triggers(self, n: int) -> Scaled:
        """Time the trigger search likewise."""
        run = partial(pyengine.trigger_examples, self.model)
        one, _ = cost(partial(run, first_units(self.store, 1)))
        store = first_units(self.store, n)
        return Scaled(store.n_units, cost(partial(run, store))[0], one)

    def original(self, positions: Sequence[int]) -> tuple[dict[str, Cost], list[Record]]:
        """Time the original's procedure, per unit, and its milder variants; return the records."""
        units = [self.store.unit_tokens(int(unit)) for unit in self.chosen]
        table = Procedure(self.model.hf).values_once()
        variants = {
            "as it is": Procedure(self.model.hf),
            "without its waste": Procedure(self.model.hf, waste=False),
            "values projected once as well": Procedure(
                self.model.hf, waste=False, top_tokens=table
            ),
        }
        costs, records = {}, []
        for name, procedure in variants.items():
            spent, found = cost(partial(procedure.layers, units, positions))
            costs[name] = Cost(*(seconds / len(units) for seconds in spent))
            records += found
        return costs, records

    def original_dims(self, unit: int, position: int) -> tuple[Cost, Record]:
        """Time the original's value mode, per memory of the last layer, on some of them."""
        procedure = Procedure(self.model.hf)
        passed = procedure.forward(padded([self.store.unit_tokens(unit)]))
        dims = range(min(self.scale.dims, self.model.d_ff))
        spent, record = cost(partial(procedure.dims, passed, position, dims))
        return Cost(*(seconds / len(dims) for seconds in spent)), record


def first_units(store: TokenStore, n: int) -> TokenStore:
    """Cut a store off after `n` units."""
    offsets = store.offsets[: min(n, store.n_units) + 1]
    tokens = store.tokens[: offsets[-1]]
    report = Report(units=len(offsets) - 1, tokens=len(tokens))
    return TokenStore.in_memory(tokens, offsets, report, store.adds_special)


def measure(scale: Scale) -> Found:
    """Time everything, check that both sides say the same, and return lines and figures."""
    bench = Bench(scale)
    layer, found = bench.ours(scale.units, mode="layer")
    where = {row["unit"]: row["position"] for row in found.examples.to_pylist()}
    positions = [int(where[int(unit)]) for unit in bench.chosen]
    costs, records = bench.original(positions)
    for number, record in enumerate(records):
        compare_layers(found.table, int(bench.chosen[number % len(positions)]), record)
    lines = _layer_lines(layer, costs, len(positions))
    figures = {"layer": {"pyengine": layer.figures(), "tokens": bench.store.n_tokens}}
    figures["layer"] |= {"units_of_original": len(positions)}
    figures["layer"] |= {f"original {name}": spent._asdict() for name, spent in costs.items()}
    more, figures["running times"] = _running_times(bench, layer, costs["as it is"])
    return lines + more, figures


def compare_layers(table: pa.Table, unit: int, record: Record) -> None:
    """Compare a unit's rows of our table with what the original's procedure found.

    Raises:
        RuntimeError: where they differ by more than float32 explains.
    """
    rows = [row for row in table.to_pylist() if row["unit"] == unit]
    for name, theirs in record.items():
        if name not in rows[0]:
            continue  # lists that ours does not keep
        ours = np.array([row[name] for row in rows], float)
        difference = np.abs(ours - np.array(theirs, float))
        if name.endswith(("_prob", "_norm")):
            same = bool((difference <= PROBS * np.abs(ours)).all())
        elif name.endswith("_rank"):
            same = bool((difference <= RANKS).all())
        elif name.startswith("n_"):
            same = bool((difference <= COUNTS).all())
        else:
            same = bool((difference == 0).all())
        if not same:
            raise RuntimeError(f"unit {unit}, {name}: ours {ours.tolist()}, theirs {theirs}")


def compare_values(row: dict[str, Any], record: Record, vocab: int) -> None:
    """Compare a row of ours, with all values, with what the original found of the first ones.

    Only active memories: the original has a ReLU, and takes the others for zero. It ranks rounded
    probabilities, of which a small memory gives the same to many tokens.

    Raises:
        RuntimeError: where they differ by more than that explains.
    """
    theirs = {name: np.array(values) for name, values in record.items()}
    active = theirs["coefficients"] > 0
    for name, values in theirs.items():
        ours = np.array(row[f"all_{name}"])[: len(active)][active]
        difference = np.abs(ours - values[active])
        if name == "tokens":
            same = (difference == 0).mean() >= TOKENS
        elif name.endswith("ranks"):
            same = (difference <= max(1.0, RANK_SHARE * vocab)).all()
        else:
            same = (difference <= PROBS * np.abs(ours) + 1e-7).all()
        if not same:
            raise RuntimeError(f"{name}: ours {ours.tolist()}, theirs {values[active].tolist()}")


def _layer_lines(layer: Scaled, costs: dict[str, Cost], n: int) -> list[Line]:
    each = Cost(*(seconds / layer.n for seconds in layer.many))
    fixed = f"of which {duration(layer.one.wall_s)} for the first"
    lines = [
        Line(
            f"layer predictions, {layer.n:,} sentences: pyengine",
            f"{duration(layer.many.wall_s)}, CPU {duration(layer.many.cpu_s)}",
            f"{duration(each.wall_s)} a sentence, {fixed}",
        )
    ]
    for name, spent in costs.items():
        speed = min(theirs / own for theirs, own in zip(spent, each, strict=True))
        judged = name == "as it is"
        lines.append(
            Line(
                f"  the original's procedure {name}",
                f"{duration(spent.wall_s)} a sentence, CPU {duration(spent.cpu_s)}",
                f"{duration(spent.wall_s * layer.n)}, extrapolated from {n}",
                f"{speed:,.1f} x",
                f"≥ {TARGET} x" if judged else "",
                verdict(speed >= TARGET) if judged else "",
            )
        )
    return lines


def _running_times(
    bench: Bench, layer: Scaled, original: Cost
) -> tuple[list[Line], dict[str, Any]]:
    """Make ff-layers' running-time table: published, its procedure here, ours here."""
    scale, last = bench.scale, bench.model.n_layers - 1
    everything, found = bench.ours(
        scale.all_value_units, mode="value", layers=[last], all_values=True
    )
    row = found.table.to_pylist()[-1]
    per_dim, record = bench.original_dims(row["unit"], row["position"])
    compare_values(row, record, bench.model.vocab_size)
    top, _ = bench.ours(scale.value_units, mode="value")
    per_value_unit = original.wall_s + bench.model.d_ff * per_dim.wall_s
    searched = bench.triggers(scale.trigger_units)
    rows = [
        ("triggers", "trigger examples", 1_000, original.wall_s, searched),
        ("layer", "layer mode, validation set", VALIDATION_UNITS, original.wall_s, layer),
        ("value", "value mode, last layer, all values", 1_000, per_value_unit, everything),
        ("value", "value mode, every layer, top 10", 1_000, per_value_unit, top),
    ]
    lines, figures = [], {"original_per_value": per_dim._asdict()}
    for key, name, n, each, ours in rows:
        seconds = ours.at(n)
        basis = "measured" if ours.n == n else f"from {ours.n:,}"
        lines.append(
            Line(
                f"{name}: {n:,} sentences",
                f"{duration(seconds)}, {basis}",
                f"procedure here {duration(each * n)}, extrapolated; "
                f"published {duration(PUBLISHED[key])}, RTX 3090",
                f"{each * n / seconds:,.0f} x",
            )
        )
        figures[name] = ours.figures() | {
            "at_units": n,
            "pyengine_s": seconds,
            "original_here_s": each * n,
            "original_published_s": PUBLISHED[key],
        }
    return lines, figures
