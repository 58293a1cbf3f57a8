"""What values say and layers predict; which neurons an answer is attributed to."""

from typing import Any

from benchmarks._attribution_common import OWN_NEURONS, PACKAGE, SAME_RULE
from benchmarks._render_common import mib, need, paragraphs, source, table, wrap
from benchmarks._values_common import duration

VALUE_WAYS = {
    "pyengine": "pyengine",
    "torch, 2,048 rows": "torch, blocks of 2,048 rows of logits",
    "torch and numpy, 256 rows": "torch and numpy, 256 rows",
}
TARGETS = {"1 targets": "1 target per value", "50 targets": "50 targets per value"}
RUNNING_TIMES = {
    "trigger examples": "trigger examples, 1,000 sentences",
    "layer mode, validation set": "layer mode, WikiText-103's validation set (8,753 sentences)",
    "value mode, last layer, all values": "value mode, last layer, every value (`--all-values`), "
    "1,000 sentences",
    "value mode, every layer, top 10": "value mode, every layer, top 10, 1,000 sentences",
}
NOT_OFFERED = "value mode, every layer, top 10"


def values() -> str:
    """Time and memory of the projection, beside torch."""
    record = need("cpu-values-agreement")
    found = record.figures["agreement"]

    def row(label: str, cells: list[str]) -> list[str]:
        return [label, f"**{cells[0]}**", *cells[1:]]

    rows = [
        row(label, [duration(found[targets][way]["wall_s"]) for way in VALUE_WAYS])
        for targets, label in TARGETS.items()
    ]
    peaks = [mib(found["50 targets"][way]["peak_bytes"]) for way in VALUE_WAYS]
    rows.append(row("peak memory above inputs and results, 50 targets", peaks))
    floor = (
        f"The product alone takes {found['floor_s']:.1f} s at the machine's own sgemm rate "
        f"({found['sgemm_gflops']:.0f} GFLOP/s)."
    )
    return paragraphs(table(["", *VALUE_WAYS.values()], rows), floor, source(record))


def predictions() -> str:
    """Layer predictions beside ff-layers' procedure, and its table of running times."""
    record = need("cpu-values-predictions")
    found = record.figures["predictions"]
    layer, running = found["layer"], found["running times"]
    ours, original = layer["pyengine"], layer["original as it is"]
    hardest = layer["original values projected once as well"]
    told = wrap(
        f"`--mode layer` on {ours['units']:,} sentences of real text takes "
        f"{ours['seconds']['wall_s']:.1f} s, {ours['one_unit']['wall_s']:.1f} s of it to read the "
        f"values once. ff-layers' procedure, re-implemented in torch on the same machine and "
        f"model, takes {original['wall_s']:.1f} s a sentence (measured on "
        f"{layer['units_of_original']}): {_ratio(original, ours):.0f} × as long. With its values "
        f"projected only once as well it takes {hardest['wall_s'] * 1e3:.0f} ms a sentence: "
        f"{_ratio(hardest, ours):.1f} ×."
    )
    rows = []
    for name, label in RUNNING_TIMES.items():
        row = running[name]
        published = "not offered" if name == NOT_OFFERED else duration(row["original_published_s"])
        rows.append([label, published, duration(row["pyengine_s"]), f"{row['units']:,}"])
    header = [
        "",
        "ff-layers' README (RTX 3090)",
        f"here, {record.machine['cores']} CPU cores",
        "measured on",
    ]
    return paragraphs(told, table(header, rows), source(record))


def _ratio(peer: dict[str, float], ours: dict[str, Any]) -> float:
    """Return how many times as long a sentence takes; the worse of clock and CPU time."""
    clocks = ("wall_s", "cpu_s")
    return min(peer[clock] * ours["units"] / ours["seconds"][clock] for clock in clocks)


def attribution() -> str:
    """Time and memory beside the package knowledge-neurons."""
    record = need("cpu-attribution")
    speed, memory = record.figures["speed"], record.figures["memory"]
    rows = []
    for name, used in memory.items():
        found = speed[name]
        adaptive = found.get(OWN_NEURONS, found["adaptive"])
        times = [duration(found[PACKAGE]["cpu_s"])]
        times += [
            f"{duration(each['cpu_s'])} ({each['cpu_ratio']:.1f} ×)"
            for each in (found[SAME_RULE], adaptive)
        ]
        peaks = [mib(used[way]) for way in (PACKAGE, SAME_RULE, "adaptive")]
        rows.append([name, *times, *peaks])
    header = ["model, prompt", "package", "same rule", "adaptive"]
    header += ["peak memory above the model: package", "same rule", "adaptive"]
    return paragraphs(table(header, rows), _accuracy(record.figures), source(record))


def _accuracy(figures: dict[str, Any]) -> str:
    accuracy, batch = figures["accuracy"].values(), figures["batches"]["GPT-2 small"]
    speed = [figures["speed"][name] for name in figures["memory"]]
    flop = {name: figures["speed"][f"{name}, FLOP"] for name in ("BERT-base", "GPT-2 small")}
    same = max(found[SAME_RULE]["difference"] for found in speed)
    few = sorted(found["adaptive"]["nodes"] for found in speed)
    pre = [found["adaptive"]["cpu_ratio"] for found in speed if OWN_NEURONS in found]
    gflop = ", ".join(
        f"{name} {found[SAME_RULE] / 1e9:,.0f} (the package {found[PACKAGE] / 1e9:,.0f})"
        for name, found in flop.items()
    )

    def span(way: str, key: str, form: str) -> str:
        each = sorted(found[way][key] for found in accuracy)
        return f"{each[0]:{form}} to {each[-1]:{form}}"

    return wrap(
        f"*Same rule* gives the package's numbers to {same:.0e} of the largest score. GFLOP at 12 "
        f"tokens: {gflop}. For GPT-2 *adaptive* reads coefficients, our default; on the package's "
        f"pre-activations it is {' and '.join(f'{ratio:.1f}' for ratio in pre)} ×. Random weights "
        f"are nearly linear: {few[0]:.0f} to {few[-1]:.0f} nodes a layer suffice. On the trained "
        f"test models, which are sure of their facts, `adaptive` takes "
        f"{span('adaptive', 'nodes', '.0f')} nodes a layer "
        f"and is {span('adaptive', 'cpu_ratio', '.1f')} × as fast as the package, with a median "
        f"error of {span('adaptive', 'median_error', '.0e')} where the package's 20 steps have "
        f"{span(PACKAGE, 'median_error', '.2f')} ({next(iter(accuracy))['facts']} facts each, "
        f"against 64 Gauss-Legendre nodes). {batch['prompts']} prompts in one call are "
        f"{batch['cpu_ratio']:.1f} × as fast as {batch['prompts']} calls (GPT-2 small)."
    )
