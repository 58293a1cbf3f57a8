"""The search beside the forward pass and beside others, its growth, its memory, its merge."""

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import _corpus_scale, _merge_files
from benchmarks._growth_axes import AXES
from benchmarks._peers_common import NAMES
from benchmarks._peers_rounds import (
    BODY,
    FF_LAYERS,
    FUSED,
    MODEL,
    NNSIGHT,
    ONE_LAYER,
    STOPPED,
    STORE_ALL,
    TOPK,
    TRANSFORMER_LENS,
)
from benchmarks._peers_targets import standing
from benchmarks._render_common import (
    NOT_YET,
    WIKITEXT_103,
    disk,
    load,
    mib,
    need,
    paragraphs,
    source,
    table,
    wrap,
)
from benchmarks.growth import TOLERANCE, steepest_verdict

TRIGGERS = {"gpt2": "GPT-2 small", "bert": "BERT-base"}
WAYS = {
    "forward": "bare headless Hugging Face forward",
    "pyengine": "pyengine, whole search",
    "hooks + topk": "hooks + `torch.topk`",
    "arrival order": "forward, arrival order",
}
PEERS = {
    BODY: "bare body forward",
    "lm": "with the output head",
    "hooks store": "forward hooks, storing",
    TOPK: "forward hooks, `torch.topk`",
    TRANSFORMER_LENS: "TransformerLens {transformer-lens}, `torch.topk`",
    NNSIGHT: "nnsight {nnsight}, `torch.topk`",
    FF_LAYERS: "ff-layers' search: a sentence at a time, heaps in Python",
    STORE_ALL: "delphi's way: store all above 0, rank the files",
    "StreamingTopK in hooks": "forward hooks, our `StreamingTopK`",
    MODEL: "**`trigger_examples`**, the model's activations",
    FUSED: "**`trigger_examples`**, fused activations",
    STOPPED: "one layer: a hook that raises",
    ONE_LAYER: "one layer: **`run_with_cache`**",
}


def triggers() -> str:
    """Tokens per second of the search, and the ratio to the forward pass."""
    records = [need(f"cpu-triggers-{family}") for family in TRIGGERS]
    rows = []
    for (family, name), record in zip(TRIGGERS.items(), records, strict=True):
        found, n_units = record.figures[family], record.figures["n_units"]
        cells = [_rate(found.get(way), way == "pyengine") for way in WAYS]
        rows.append([f"{name}, {n_units:,} sentences", *cells])
    return paragraphs(table(["tokens/s", *WAYS.values()], rows), source(*records))


def _rate(found: dict[str, Any] | None, bold: bool) -> str:
    if found is None:
        return ""
    cell = f"{found['tokens_per_s']:,.0f} ({found['ratio']:.2f} ×)"
    return f"**{cell}**" if bold else cell


def peers() -> str:
    """What every way costs in that of the bare body; of GPT-2, what WikiText-103 would."""
    record = need("cpu-peers")
    versions = record.figures["versions"]
    cases = {family: record.figures[family]["cases"] for family in NAMES}
    rows = []
    for case, label in PEERS.items():
        found = [cases[family].get(case) for family in NAMES]
        cells = [NOT_YET if each is None else f"{each['of_body']:.2f}" for each in found]
        rows.append([label.format(**versions), *cells, *_price(found[0])])
    header = ["CPU time, in that of the bare body", *NAMES.values()]
    header += ["GPT-2 small, 1M tokens", "118M tokens", "on disk"]
    worst = max(case.get("difference", 0) for each in cases.values() for case in each.values())
    spreads = [case["of_body_spread"] for each in cases.values() for case in each.values()]
    apart = max(high / low - 1 for low, high in spreads)
    told = f"The scores of all ways agree to {worst:.0e}. The rounds of a row lie up to "
    told += f"{apart:.0%} apart: smaller differences say nothing."
    return paragraphs(table(header, rows), wrap(told), source(record))


def _price(case: dict[str, Any] | None) -> list[str]:
    """Scale a case's CPU time and files to a million tokens and to WikiText-103."""
    if case is None or "tokens" not in case:
        return [NOT_YET, "", ""]
    per_token = case["cpu_s"] / case["tokens"]
    stored = case.get("stored_bytes", 0) / case["tokens"] * WIKITEXT_103
    hours = per_token * WIKITEXT_103 / 3600
    return [f"{per_token * 1e6 / 60:,.0f} min", f"{hours:,.0f} h", disk(stored) if stored else ""]


def peer_targets() -> str:
    """Hold the rounds of every family's ratios against their limits."""
    record = need("cpu-peers")
    rows: dict[str, list[str]] = {}
    for family in NAMES:
        cases = record.figures[family]["cases"]
        for what, target in record.figures[family]["targets"].items():
            case, peer = what.split(" / ")
            faster = peer != BODY
            sign, of = ("≥", f"× as fast as {peer}") if faster else ("≤", "of the body")
            pair = [cases[name]["cpu_s_rounds"] for name in (case, peer)]
            over, under = reversed(pair) if faster else pair
            rounds = [a / b for a, b in zip(over, under, strict=True)]
            judged = standing(rounds, target["limit"], faster)
            cell = f"{target['ratio']:.3g} ({min(rounds):.3g} to {max(rounds):.3g}) "
            cell += f"{sign} {target['limit']:.3g}: {judged}"
            rows.setdefault(f"`{case}`, {of}", [""] * len(NAMES))[[*NAMES].index(family)] = cell
    told = "Medians, and in brackets the least and the greatest of the rounds; a limit between "
    told += "these two is undecided: the machine was not quiet enough to say."
    lines = [[what, *cells] for what, cells in rows.items()]
    return paragraphs(table(["", *NAMES.values()], lines), wrap(told))


def growth_picture() -> str:
    """The picture, and the slopes in a line."""
    record = load("cpu-growth")
    if record is None:
        return f"**Growth** with the corpus, k, the width and the number of sites: {NOT_YET}."
    slopes = [
        f"{line['slope']:.2f} with {axis} ({name}; steepest {line['steepest']:.2f})"
        for axis in AXES
        for name, line in record.figures[axis]["lines"].items()
        if "verdict" in line
    ]
    told = f"**Growth.** The slope of log time in log size is {', '.join(slopes)}; 1 is linear, "
    told += "2 with the width. The steepest is that between two neighbouring sizes."
    return paragraphs(wrap(told), "![Time against size, in four panels](docs/growth.svg)")


def growth() -> str:
    """The slopes of time in size; the picture stands beside."""
    record = load("cpu-growth")
    if record is None:
        return f"Growth of time with corpus, k, width and sites: {NOT_YET}."
    rows = []
    for axis, known in AXES.items():
        found = record.figures[axis]
        for name, line in found["lines"].items():
            sizes = f"{found['x'][0]:,} → {found['x'][-1]:,}"
            times = f"{line['cpu_s'][0]:.2f} → {line['cpu_s'][-1]:.2f} s"
            judged = ["", ""]
            if "verdict" in line:
                step = steepest_verdict(found["x"], line["cpu_s_rounds"], found["limit"])
                judged = [f" ≤ {found['limit']}: {each}" for each in (line["verdict"], step)]
            slopes = [f"{line[key]:.2f}" for key in ("slope", "steepest")]
            cells = [a + b for a, b in zip(slopes, judged, strict=True)]
            rows.append([known.label, sizes, name, times, *cells, found["why"]])
    header = ["", "sizes", "what", "CPU time", "slope", "steepest step", "because"]
    told = f"Limits within {TOLERANCE:.0%}. A step is undecided where the limit lies between the "
    told += "least and the greatest of its rounds."
    return paragraphs(table(header, rows), wrap(told), source(record))


def memory() -> str:
    """Peak memory of a search as the corpus grows."""
    record = need("cpu-memory")
    sizes = {int(n): n_bytes for n, n_bytes in record.figures.items()}
    peaks = [f"{n:,} units: {mib(sizes[n])}" for n in sorted(sizes)]
    return paragraphs(f"Peak memory of a whole search, {', '.join(peaks)}.", source(record))


def heap_merge() -> str:
    """The merge of a few shards in memory, and of a thousand from files."""
    record = need("cpu-heap-merge")
    found = record.figures
    took = ", ".join(f"{name} {value:.0f} ms" for name, value in found["cpu_ms"].items())
    what = f"{found['shards']} shards of {found['keys']:,} keys, k = {found['k']}, in CPU time"
    many = _told("1,000 shards of that size from files", "cpu-heap-merge-1000", _merge_files.lines)
    return paragraphs(f"{what}: {took}.", source(record), many)


def corpus() -> str:
    """The host's side: from text to padded batches, as much as WikiText-103."""
    return _told("A corpus of WikiText-103's size", "cpu-corpus", _corpus_scale.lines)


def _told(what: str, name: str, lines: Callable[[dict[str, Any]], Iterable[str]]) -> str:
    """Give the lines that a benchmark has printed."""
    record = load(name)
    if record is None:
        return f"{what}: {NOT_YET}."
    told = "\n".join(f"- {line.strip()}" for line in lines(record.figures))
    return paragraphs(f"{what}:", told, source(record))
