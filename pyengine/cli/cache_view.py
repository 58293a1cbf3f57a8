"""How activations, and the sites of a model, are shown in the terminal."""

import json
import math
from typing import Any

import torch
from rich.columns import Columns
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text
from torch import Tensor

from pyengine.activation_cache import ActivationCache
from pyengine.analyses.cached_activations_result import CachedActivations
from pyengine.analyses.cached_activations_settings import size_text
from pyengine.cli.display import columns, head, one_line, out
from pyengine.hooked import run_with_cache
from pyengine.model_inputs import ModelInputs
from pyengine.models import Model
from pyengine.site_names import resolve
from pyengine.sites import Site, sites_of
from pyengine.token_text import TokenText

MOST_TOKENS = 100
LEGEND = "B rows, T positions, S positions attended to"


def print_sites(model: Model, names: list[str] | None, as_json: bool) -> None:
    """Print the sites of a model, or those that names stand for, with their shapes."""
    sites = [*sites_of(model).values()] if names is None else resolve(model, names)
    computed = resolve(model, names)
    one = {"input_ids": [[0]], "attention_mask": [[1]]}
    _, cache = run_with_cache(model, one, [site.name for site in computed], return_type=None)
    rows: list[dict[str, Any]] = [
        {"name": site.name, "shape": _shape(site, cache, model), "eager": site.needs_eager}
        for site in sites
    ]
    if as_json:
        print(json.dumps(rows))
        return
    table = columns("site", "shape", "", left=("site", "shape", ""))
    for row in rows:
        needs = "" if row["name"] in cache else "with --attention eager"
        table.add_row(Text(row["name"]), Text(row["shape"]), Text(needs, style="dim"))
    _print_whole(table)
    out.print(LEGEND, style="dim")


def _shape(site: Site, cache: ActivationCache, model: Model) -> str:
    """Write `[B, T, 768]`; the letters stand for what depends on the input."""
    sizes = cache[site.name].shape if site.name in cache else ()
    heads = model.config.num_attention_heads
    kinds = {"BHTS": ["B", heads, "T", "S"], "TSH": ["T", "S", heads]}
    return f"[{', '.join(map(str, kinds.get(site.shape, ['B', 'T', *sizes[2:]])))}]"


def print_tokens(model: Model, read: ModelInputs) -> None:
    """Print the tokens that the model read with their positions, padding left out."""
    text = TokenText.of(model.tokenizer)
    cut = len(set(read.rows)) < len(read.rows)
    for side, what in (("", ""), ("decoder_", ", decoder")):
        ids = read.kwargs.get(f"{side}input_ids")
        mask = read.kwargs.get(f"{side}attention_mask")
        for row, tokens in enumerate([] if ids is None else ids.tolist()):
            real = range(len(tokens)) if mask is None else mask[row].nonzero().flatten().tolist()
            name = f"row {row}, of text {read.rows[row]}" if cut else f"text {row}"
            padding = f", {len(tokens) - len(real)} of padding" if len(real) < len(tokens) else ""
            out.print(Text(f"{name}{what}: {len(real)} tokens{padding}", style="bold"))
            items = [Text.assemble((f"{i} ", "dim"), repr(text.token(tokens[i]))) for i in real]
            more = [Text("…", style="dim")] if len(items) > MOST_TOKENS else []
            out.print(Columns([*items[:MOST_TOKENS], *more], padding=(0, 2)))


def print_values(cache: ActivationCache, read: ModelInputs) -> None:
    """Print a row per site: shape, dtype, and the range of its values."""
    names = ("site", "shape", "dtype", "min", "max", "mean")
    table = columns(*names, left=("site", "shape", "dtype"))
    for name, value in cache.items():
        found = site_values(value)
        numbers = [_number(found[what]) for what in ("min", "max", "mean")]
        table.add_row(Text(name), Text(str(found["shape"])), found["dtype"], *numbers)
    _print_whole(table)
    if any(name.endswith("attention_mask") for name in read.kwargs):
        out.print("min, max and mean include the values at padding", style="dim")


def site_values(value: Tensor) -> dict[str, Any]:
    """Describe a value; None where a number is not finite."""
    wide = value.double()
    found = {"min": wide.min(), "max": wide.max(), "mean": wide.mean()}
    numbers = {name: float(number) for name, number in found.items()}
    return {
        "shape": list(value.shape),
        "dtype": _dtype(value.dtype),
        **{name: n if math.isfinite(n) else None for name, n in numbers.items()},
    }


def print_kept(found: CachedActivations) -> None:
    """Print a row per site that a run keeps."""
    table = columns("site", "per token", "dtype", "bytes", left=("site", "per token", "dtype"))
    for site in run_summary(found)["sites"]:
        shape = " × ".join(map(str, site["shape"]))
        table.add_row(Text(site["name"]), shape, site["dtype"], size_text(site["bytes"]))
    _print_whole(table)


def run_summary(found: CachedActivations) -> dict[str, Any]:
    """Return what `--json` prints of a run."""
    question, n = found.manifest["question"], found.record["n_tokens"]
    parts = zip(question["sites"], question["shapes"], question["dtypes"], strict=True)
    sites = [
        {
            "name": name,
            "shape": shape,
            "dtype": dtype,
            "bytes": n * math.prod(shape) * getattr(torch, dtype).itemsize,
        }
        for name, shape, dtype in parts
    ]
    counters = ("n_units", "n_tokens", "n_overflow", "exact")
    return {name: found.record[name] for name in counters} | {"sites": sites}


def show_activations(found: CachedActivations, unit: int | None, as_json: bool) -> None:
    """Show a run as a whole, or the values of one unit."""
    if unit is None:
        print(json.dumps(found.manifest, indent=2)) if as_json else print_kept(found)
        return
    values = {name: site_values(value) for name, value in found.unit(unit).items()}
    tokens = found.tokens(unit)
    if as_json:
        print(json.dumps({"unit": unit, "tokens": tokens, "sites": values}))
        return
    text = head(one_line(found.text.decode(tokens)), out.width - 24)
    table = columns("site", "shape", "min", "max", "mean", left=("site", "shape"))
    table.title, table.title_justify = f"unit {unit}: {text}", "left"
    for name, row in values.items():
        numbers = [_number(row[what]) for what in ("min", "max", "mean")]
        table.add_row(Text(name), Text(str(row["shape"])), *numbers)
    _print_whole(table)


def _print_whole(table: Table) -> None:
    """Print a table uncut: names of sites are there to be copied, or found by `grep`."""
    widest = Measurement.get(out, out.options.update(max_width=1 << 12), table).maximum
    Console(width=max(out.width, widest), highlight=False).print(table)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
