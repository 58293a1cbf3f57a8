"""Linear shortcuts: solving, scoring and holding them, on the CPU and on a GPU."""

from typing import Any

from benchmarks._gpu_shortcuts import DOUBLE, FIT, GRAM, ROWS, SCORES, SINGLE
from benchmarks._render_common import (
    NOT_YET,
    Record,
    gpu_records,
    load,
    mib,
    paragraphs,
    source,
    table,
    wrap,
)
from benchmarks._render_gpu import MILLION, cells, floor_s
from benchmarks._shortcuts_common import Scale
from benchmarks._shortcuts_evaluate import LIMIT as PASSES
from benchmarks._shortcuts_evaluate import evaluate_flops
from benchmarks._shortcuts_memory import BARE, SOLVERS
from benchmarks._shortcuts_memory import LIMIT as STATES
from benchmarks._shortcuts_solve import TARGET
from benchmarks._values_common import duration, verdict


def shortcuts() -> str:
    """What maps cost beside LAPACK, what scoring them costs beside the model, and their memory."""
    record = load("cpu-shortcuts")
    if record is None:
        return f"Linear shortcuts of GPT-2 small: {NOT_YET}."
    parts = {"solve": _solve, "evaluate": _evaluate, "memory": _memory}
    rows = [row for part, tell in parts.items() for row in tell(record.figures[part])]
    header = ["", "measured", "beside", "ratio", "target"]
    return paragraphs(table(header, rows), _told(record), source(record))


def gpu_shortcuts() -> str:
    """The same on a GPU: products, a fit over all tokens, scores."""
    records = gpu_records()
    d, n_layers, vocab = 768, 12, Scale().vocab
    sums_s = 2 * MILLION * d**2 * 2 * n_layers / DOUBLE  # of a fit's two products per layer
    rows = [
        [
            f"{GRAM}, {ROWS:,} rows",
            f"{sums_s * ROWS / MILLION * 1e3:.1f} ms",
            cells(records, "shortcuts", GRAM, lambda at: f"{at['s'] * 1e3:.1f} ms"),
        ],
        [
            f"{FIT}, a million",
            duration(sums_s + floor_s("gpt2", "float32", MILLION, to_last_activation=False)),
            cells(records, "shortcuts", FIT, _fitted),
        ],
        [
            f"{SCORES}, a million tokens",
            duration(evaluate_flops(int(MILLION), n_layers, d, vocab) / SINGLE),
            cells(records, "shortcuts", FIT, _scored),
        ],
    ]
    header = ["GPT-2 small", "floor, H100", "measured"]
    return paragraphs(table(header, rows), source(*records))


def _solve(found: dict[str, Any]) -> list[list[str]]:
    peer, n = found["gelsd"], found["maps"]
    double = found["gelsd float64"]
    rows = [
        [f"{n} maps, LAPACK's gelsd one by one, float32", duration(peer["wall_s"]), "", "", ""],
        ["the same in float64", duration(double["wall_s"]), "", "", ""],
    ]
    for solver in SOLVERS:
        ours = found[solver]
        times = ours["ratio"]
        rows.append(
            [
                f"{n} maps, **{solver}**, float64",
                duration(ours["wall_s"]),
                f"floor {duration(ours['floor_s'])}",
                f"{times:.1f} ×, of float64 {ours['ratio_float64']:.1f} ×",
                f"≥ {TARGET} ×: {verdict(times >= TARGET)}",
            ]
        )
    return rows


def _evaluate(found: dict[str, Any]) -> list[list[str]]:
    scored, fit, modes = found["evaluate"], found["fit"], found["substitution"]
    passes, each = scored["passes"], modes["passes_per_mode"]
    names = ", ".join(modes["modes"])
    once = f"pass {duration(found['pass']['wall_s'])}"
    floor = f"floor {duration(found['evaluate_floor_s'])}"
    target = f"≤ {PASSES}: {verdict(passes <= PASSES)}"
    return [
        ["fit", duration(fit["wall_s"]), once, f"{fit['passes']:.2f} passes", ""],
        [SCORES, duration(scored["wall_s"]), floor, f"{passes:.2f} passes", target],
        [f"substitution, one of {names}", "", "", f"{each:.2f} passes", ""],
    ]


def _memory(found: dict[str, Any]) -> list[list[str]]:
    rows = []
    for solver in SOLVERS:
        used = found[solver]
        times = used["ratio"]
        rows.append(
            [
                f"peak memory of a fit by {solver}",
                mib(used["peak_bytes"]),
                f"states {mib(used['state_bytes'])}, bare pass {mib(found[BARE])}",
                f"{times:.2f} × above the pass",
                f"≤ {STATES:g} ×: {verdict(times <= STATES)}",
            ]
        )
    return rows


def _told(record: Record) -> str:
    solve, scored = record.figures["solve"], record.figures["evaluate"]
    errors = ", ".join(f"{solver} {solve[solver]['error']:.0e}" for solver in SOLVERS)
    return wrap(
        f"{solve['n_rows']:,} training rows; LAPACK's time is extrapolated from "
        f"{solve['gelsd']['pairs_timed']} pairs. It solves in float32: A has an error of "
        f"{solve['gelsd']['error']:.0e} (ours: {errors}). A pass is the body without its head over "
        f"the {scored['sentences']:,} sentences of the fit, {scored['tokens']:,} tokens; in passes "
        f"over those for validation alone the scores take "
        f"{scored['evaluate']['validation_passes']:.2f}. Substitution is in passes over the "
        f"{scored['substitution']['sentences']:,} sentences it was timed on."
    )


def _fitted(at: dict[str, Any]) -> str:
    return _of_million(at["fit_s"], at["tokens"])


def _scored(at: dict[str, Any]) -> str:
    return _of_million(at["evaluate_s"], at["scored_tokens"])


def _of_million(seconds: float, tokens: int) -> str:
    measured = f"{duration(seconds)} for {tokens / 1e3:,.0f}k"
    return f"{duration(seconds * MILLION / tokens)}, extrapolated ({measured})"
