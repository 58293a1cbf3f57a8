"""Probing heads: its time, that of extraction, its memory, on the CPU and on a GPU."""

from typing import Any

from benchmarks._gpu_heads import FULL, PROBE, SINGLE
from benchmarks._heads_extract import LIMIT as PASSES
from benchmarks._heads_extract import MEMORY_LIMIT as BLOCKS
from benchmarks._heads_memory import LIMIT as MEMORY
from benchmarks._heads_probe import TARGET
from benchmarks._heads_real import AGAIN, SIGMAS, TASKS
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
from benchmarks._render_gpu import cells
from benchmarks._values_common import duration, verdict

EPOCHS = 14  # of a probe of the drawn vectors, about


def heads() -> str:
    """What probes cost beside SentEval's procedure, and what they hold; what trained heads know."""
    return paragraphs(_costs(), _real())


def _costs() -> str:
    record = load("cpu-heads")
    if record is None:
        return f"What heads know, GPT-2 small: {NOT_YET}."
    parts = {"probe": _probe, "extract": _extract, "memory": _memory}
    rows = [row for part, tell in parts.items() for row in tell(record.figures[part])]
    header = ["", "measured", "beside", "ratio", "target"]
    return paragraphs(table(header, rows), _told(record), source(record))


def _real() -> str:
    """What the heads of the trained small models know of TREC and SST-2."""
    record = load("cpu-heads-real")
    if record is None:
        return f"Heads of trained models on TREC and SST-2: {NOT_YET}."
    models = record.figures["real"]
    rows = [
        _trained(f"{model}, {task}", found[task])
        for model, found in models.items()
        for task in TASKS
    ]
    header = ["", "heads", "majority", "lowest on test", "best head", "n best", "all"]
    repeated = all(found["repeated"] for found in models.values())
    told = wrap(
        "Accuracies in percent, dev / test; n: heads that are together as wide as the model. "
        "Lowest: of the heads that have not collapsed, in standard deviations of the majority's "
        f"accuracy; target ≥ −{SIGMAS}. Target of the n best: dev no less than the best head's. "
        f"Probed once more by the same seed, {AGAIN} gave {'the same' if repeated else 'other'} "
        "bytes."
    )
    return paragraphs(table(header, rows), told, source(record))


def _trained(name: str, found: dict[str, Any]) -> list[str]:
    best, (some, every) = found["best"], found["together"]
    lowest = found["deviations"]
    return [
        name,
        f"{found['heads']}, {found['collapsed']} collapsed",
        f"{found['majority']:.2f}",
        f"{lowest:+.1f}: {verdict(lowest >= -SIGMAS)}",
        _scores(best),
        f"{_scores(some)}: {verdict(some['dev'] >= best['dev'])}",
        _scores(every),
    ]


def _scores(found: dict[str, float]) -> str:
    return f"{found['dev']:.2f} / {found['test']:.2f}"


def gpu_heads() -> str:
    """The probes on a GPU."""
    records = gpu_records()
    n_fits = FULL.heads * len(FULL.settings.regularisers)
    flops = 4 * FULL.width * FULL.n_classes * EPOCHS * FULL.n_train * n_fits
    row = [
        f"{PROBE}, {FULL.n_train:,} sentences",
        duration(flops / SINGLE),
        cells(records, "heads", PROBE, lambda at: duration(at["s"])),
    ]
    header = ["GPT-2 small", f"floor, H100, {EPOCHS} epochs", "measured"]
    return paragraphs(table(header, [row]), source(*records))


def _probe(found: dict[str, Any]) -> list[list[str]]:
    peer, ours, times = found["procedure"], found["pyengine"], found["ratio"]
    return [
        [f"{found['fits']} fits, SentEval's procedure", duration(peer["cpu_s"]), "", "", ""],
        [
            f"{found['fits']} fits **at once**",
            duration(ours["cpu_s"]),
            f"floor {duration(found['floor_s'])}",
            f"{times:.1f} ×",
            f"≥ {TARGET} ×: {verdict(times >= TARGET)}",
        ],
    ]


def _extract(found: dict[str, Any]) -> list[list[str]]:
    ours, held = found["head"], found["memory"]
    passes, blocks = ours["passes"], held["blocks"]
    return [
        [
            f"vectors of every head, {found['sentences']:,} sentences",
            duration(ours["cpu_s"]),
            f"headless pass {duration(found['pass']['cpu_s'])}",
            f"{passes:.3f} passes",
            f"≤ {PASSES} passes: {verdict(passes <= PASSES)}",
        ],
        [
            "peak memory of that",
            mib(held["head"]),
            f"pass {mib(held['pass'])}, block {mib(held['block_bytes'])}",
            f"{blocks:.2f} × above the pass",
            f"≤ {BLOCKS:g} ×: {verdict(blocks <= BLOCKS)}",
        ],
    ]


def _memory(found: dict[str, Any]) -> list[list[str]]:
    times = found["ratio"]
    return [
        [
            f"peak memory of the probes, above {mib(found['vector_bytes'])} of vectors",
            mib(found["peak_bytes"]),
            f"formula {mib(found['formula_bytes'])}",
            f"{times:.2f} ×",
            f"≤ {MEMORY:g} ×: {verdict(times <= MEMORY)}",
        ]
    ]


def _told(record: Record) -> str:
    probe = record.figures["probe"]
    return wrap(
        f"CPU time; the procedure's is extrapolated from {probe['heads_timed']} heads, of which "
        f"{probe['agreeing']} have the same regulariser, dev and test accuracy in both."
    )
