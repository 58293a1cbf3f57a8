"""How a bank of sentence vectors is shown in the terminal."""

import json
from typing import TYPE_CHECKING, Any

from pyengine.cli.display import columns, facts, out

if TYPE_CHECKING:
    from pyengine.heads.bank import HeadBank
    from pyengine.heads.bank_tasks import BankTask

# Bytes of a number, by the dtype it is kept in.
SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}


def bank_summary(bank: "HeadBank") -> dict[str, Any]:
    """Return what `--json` prints of a bank."""
    found = summary(bank.tasks, bank.manifest["corpus"], bank.manifest["question"])
    counters = ("n_overflow", "n_nan", "exact")
    return found | {name: bank.record[name] for name in counters}


def summary(
    tasks: dict[str, "BankTask"], corpus: dict[str, Any], question: dict[str, Any]
) -> dict[str, Any]:
    """Describe a bank, written or not: what is read, and what is kept of it."""
    names = ("location", "stack", "n_parts", "width", "pooling")
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for place in question["places"]:
        kinds.setdefault(tuple(place[name] for name in names), []).append(place["layer"])
    size = corpus["n_units"] * SIZES[question["save_dtype"]]
    return {
        "tasks": [
            {
                "name": task.name,
                "kind": task.kind,
                "protocol": task.protocol,
                "classes": task.n_classes,
                "paired": task.paired,
                "parts": {name: len(part) for name, part in task.parts.items()},
            }
            for task in tasks.values()
        ],
        "sentences": corpus["n_units"],
        "duplicates": corpus["n_duplicates"],
        "truncated": corpus["n_truncated"],
        "tokens": corpus["n_tokens"],
        "places": [dict(zip(names, kind, strict=True), layers=at) for kind, at in kinds.items()],
        "save_dtype": question["save_dtype"],
        "bytes": size * sum(place["width"] for place in question["places"]),
    }


def print_bank(found: dict[str, Any]) -> None:
    """Print the tasks, and what is kept."""
    from pyengine.analyses.cached_activations_settings import size_text

    table = columns("task", "kind", "classes", "examples", left=("task", "kind", "examples"))
    for task in found["tasks"]:
        kind = task["kind"] + (" of pairs" if task["paired"] else "")
        parts = ", ".join(f"{name} {n:,}" for name, n in task["parts"].items())
        table.add_row(task["name"], kind, f"{task['classes'] or '–'}", parts)
    out.print(table)
    table = columns(
        *("location", "layers", "parts × width", "pooling"), left=("location", "layers", "pooling")
    )
    for place in found["places"]:
        first, last = place["layers"][0], place["layers"][-1]
        table.add_row(
            f"{place['location']} ({place['stack']})",
            f"{first}–{last}" if last > first else f"{first}",
            f"{place['n_parts']} × {place['width'] // place['n_parts']}",
            place["pooling"],
        )
    out.print(table)
    rows = {
        "sentences": f"{found['sentences']:,} distinct, {found['duplicates']:,} duplicates left "
        f"out, {found['truncated']:,} truncated",
        "tokens": f"{found['tokens']:,}",
        "vectors": f"{size_text(found['bytes'])} of {found['save_dtype']}",
    }
    out.print(facts(rows))


def show_bank(bank: "HeadBank", as_json: bool) -> None:
    """Show a bank as a whole."""
    if as_json:
        print(json.dumps(bank.manifest, indent=2))
    else:
        print_bank(bank_summary(bank))
