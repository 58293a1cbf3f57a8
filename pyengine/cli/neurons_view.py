"""How the knowledge neurons of many facts are shown in the terminal."""

import re
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pyengine.cli.display import bar, columns, head, number, out, percent, signed_percent
from pyengine.relation_names import relation_name
from pyengine.stacks import split_by_stack

if TYPE_CHECKING:
    from pyengine.analyses.fact_neuron_result import FactNeurons

BAR = 20
# A relation's name gets what the numbers beside it leave of the line.
NUMBERS, SHORTEST_NAME, LONGEST_NAME = 59, 20, 24
AGGREGATES = {
    "ratio_of_means": "Change of the mean probability of the correct answer (as Dai et al.)",
    "mean_of_ratios": "Mean of the prompts' own changes (as the knowledge-neurons package)",
}
STATES = ("before", "suppressed", "enhanced")

# What differs between two reasons of the same kind: texts and lists of tokens.
_QUOTED = re.compile(r"\[.*?\]|'[^']*'|\"[^\"]*\"")


def summary(found: "FactNeurons") -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "n_facts": found.facts.num_rows,
        "relations": found.relations.to_pylist(),
        "layers": found.layers.to_pylist(),
        "skipped": found.skipped.to_pylist(),
    }


def print_summary(found: "FactNeurons") -> None:
    """Print the changes by relation, in both ways, and the layers of the neurons."""
    for aggregate, title in AGGREGATES.items():
        out.print(f"{title}:")
        out.print(_relations(found, aggregate))
        out.print()
    factor = factor_of(found)
    out.print(
        f"×0: the fact's neurons suppressed; {factor}: enhanced. own: on the fact's prompts; "
        "other: on those of a fact of another relation. neurons: mean per fact",
        style="dim",
    )
    out.print()
    out.print(_correct(found))
    out.print("\nLayers of the neurons:")
    out.print(_layers(found))


def _relations(found: "FactNeurons", aggregate: str) -> Table:
    factor = factor_of(found)
    names = [f"{mode} {whose}" for mode in ("×0", factor) for whose in ("own", "other")]
    table = columns("relation", "facts", "neurons", *names, left=("relation",))
    *rows, whole = found.relations.to_pylist()
    for row in (*rows, whole):
        if row is whole:
            table.add_section()
        table.add_row(
            relation_cell(row),
            number(row["n_facts"]),
            number(row["n_neurons"], 1),
            *(
                signed_percent(row[f"{kind}_{mode}_{aggregate}"])
                for mode in ("suppress", "enhance")
                for kind in ("own", "unrelated")
            ),
        )
    return table


def _correct(found: "FactNeurons") -> Table:
    whole = found.relations.slice(found.relations.num_rows - 1).to_pylist()[0]
    table = columns(
        "correct answers to", "before", "×0", factor_of(found), left=("correct answers to",)
    )
    for kind, whose in (("own", "the fact's prompts"), ("unrelated", "prompts of other relations")):
        table.add_row(whose, *(percent(whole[f"{kind}_correct_{state}"]) for state in STATES))
    return table


def print_skipped(found: "FactNeurons", console: Console) -> None:
    """Say how many facts the model could not be asked, and why: one example for each reason."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in found.skipped.to_pylist():
        groups.setdefault(_QUOTED.sub("…", row["reason"]), []).append(row)
    for rows in groups.values():
        several = "" if len(rows) == 1 else "s, as"
        example = f"skipped {number(len(rows))} fact{several} {rows[0]['uid']}: {rows[0]['reason']}"
        console.print(example, style="dim", markup=False)


def _layers(found: "FactNeurons") -> Table:
    rows = found.layers.to_pylist()
    stacks = split_by_stack(found.manifest, [row["layer"] for row in rows])
    table = columns("layer", "", "share", "neurons", left=("layer", ""))
    most = max((row["share"] or 0 for row in rows), default=0)
    for row in rows:
        stack = next(name for name, layers in stacks.items() if row["layer"] in layers)
        layer = f"{row['layer']:>5}" + (f" {stack}" if len(stacks) > 1 else "")
        shown = bar(row["share"], most, BAR), percent(row["share"]), number(row["n_neurons"])
        table.add_row(layer, *shown)
    return table


def relation_cell(row: dict[str, Any]) -> Text:
    width = max(SHORTEST_NAME, min(out.width - NUMBERS, LONGEST_NAME))
    return Text(head(relation_name(row["relation"]), width))


def factor_of(found: "FactNeurons") -> str:
    return f"×{found.manifest['question']['factor']:g}"
