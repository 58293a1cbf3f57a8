"""How an extraction is shown: one line per site and reducer."""

import json
from collections.abc import Iterator
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from pyengine.cli.display import out
from pyengine.extraction.result import Extraction


def show_extraction(found: Extraction, as_json: bool) -> None:
    """Show a run as a whole."""
    if as_json:
        print(json.dumps(found.manifest, indent=2))
        return
    table = Table("site", "reducer", "keys", "found", box=None, pad_edge=False)
    for key, results in found.items():
        name = key if isinstance(key, str) else f"{key[0]} … {key[-1]} ({len(key)} sites)"
        for result in results:
            for reducer, keys, what in _lines(result):
                table.add_row(Text(name), reducer, keys, what)
    out.print(table)
    out.print(f"{found.record['n_tokens']:,} tokens")


def _lines(result: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(result, dict) and all(hasattr(side, "scores") for side in result.values()):
        for direction, side in result.items():
            yield _topk_line(side, f"top-k ({direction})")
    elif hasattr(result, "scores"):
        yield _topk_line(result, "top-k")
    elif hasattr(result, "mean"):
        spread = (
            f"means {_span(result.mean)}, values {_span(torch.stack([result.min, result.max]))}"
        )
        yield "moments", f"{len(result.mean):,}", spread
    else:
        names = ", ".join(result) if isinstance(result, dict) else type(result).__name__
        yield "your own", "", names


def _topk_line(side: Any, name: str) -> tuple[str, str, str]:
    n_keys, k = side.scores.shape
    return name, f"{n_keys:,}", f"{k} each, scores {_span(side.scores)}"


def _span(values: torch.Tensor) -> str:
    finite = values[values.isfinite()]
    return f"{finite.min():.4g} to {finite.max():.4g}" if len(finite) else "none finite"
