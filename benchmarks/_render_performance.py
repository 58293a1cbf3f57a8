"""The rendered sections of docs/performance.md."""

from benchmarks._render_common import need, paragraphs, source, table

SHORT = {"gpt2": "GPT-2", "bert": "BERT", "t5": "T5"}


def attention() -> str:
    """CPU time of sdpa over that of eager, by family and length."""
    record = need("cpu-attention")
    found: dict[int, dict[str, float]] = {}
    for key, ways in record.figures.items():
        family, length = key.removesuffix(" tokens").split(", ")
        ratio = ways["sdpa"]["median_s"] / ways["eager"]["median_s"]
        found.setdefault(int(length), {})[family] = ratio
    rows = [
        [str(length), *(f"{ratios[family]:.2f}" for family in SHORT)]
        for length, ratios in sorted(found.items())
    ]
    return paragraphs(table(["tokens of a unit", *SHORT.values()], rows), source(record))


def launches() -> str:
    """Kernels of a batch, and below how many tokens launching them is the limit."""
    record = need("launches")
    header = ["model", "kernels, own modules", "kernels, search", "float32", "tf32", "bfloat16"]
    rows = []
    for name, found in record.figures.items():
        below = [f"{found['launch_bound_below'][dtype]:,}" for dtype in header[3:]]
        kernels = [str(found["kernels"][which]) for which in ("model", "search")]
        rows.append([name, *kernels, *below])
    return paragraphs(table(header, rows), source(record))
