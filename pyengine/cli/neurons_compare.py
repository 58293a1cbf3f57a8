"""`pyengine neurons compare` and `pyengine neurons plot`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from pyengine.cli import corpus_options as given
from pyengine.cli import fact_options as source
from pyengine.cli.display import bar, columns, err, head, number, out, percent
from pyengine.cli.neurons_sources import read_drawable, read_neurons
from pyengine.relation_names import relation_name

if TYPE_CHECKING:
    import pyarrow as pa

BAR = 10
NAME = 24

SourceHelp = "A fact run, a published neuron file (.json), or a folder of such files."


def compare(
    a: Annotated[Path, typer.Argument(help=SourceHelp)],
    b: Annotated[Path, typer.Argument(help="Another one, with some of the same facts.")],
    data: source.DataOption = None,
    facts: source.FactsOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with every relation's layers.")
    ] = False,
) -> None:
    """Compare the neurons that two sources name for the same facts, by relation and layer.

    Published files do not say which relation a fact belongs to; --data or --facts does.

    Example: pyengine neurons compare runs/facts bert_base_uncased_neurons
    """
    from pyengine.published_neurons import compare_neurons

    relations = None
    if data is not None or facts is not None:
        _, known = source.read_source(data, facts)
        relations = {fact.uid: fact.relation for fact in known}
    table = compare_neurons(read_neurons(a), read_neurons(b), relations)
    if as_json:
        print(json.dumps(table.to_pylist()))
    else:
        _print_comparison(table)


def _print_comparison(table: "pa.Table") -> None:
    rows = table.to_pylist()
    whole = [row for row in rows if row["relation"] == "all"]
    relations = [row for row in rows if row["layer"] is None and row["relation"] != "all"]
    names = ("facts", "A", "B", "shared", "", "Jaccard", "by fact")
    of_relations = columns("relation", *names, left=("relation", ""))
    for row in relations:
        of_relations.add_row(_name(row), number(row["n_facts"]), *_overlap(row))
    if relations:
        of_relations.add_section()
    of_relations.add_row("all", number(whole[0]["n_facts"]), *_overlap(whole[0]))
    out.print(of_relations)
    if not relations:
        out.print("--data or --facts say which relation a fact belongs to", style="dim")
    of_layers = columns("layer", *names[1:], left=("",))
    for row in whole[1:]:
        of_layers.add_row(str(row["layer"]), *_overlap(row))
    out.print()
    out.print(of_layers)
    out.print(
        "A, B: neurons of the facts that both have; Jaccard: shared / either; by fact: the mean of "
        "the facts' own",
        style="dim",
    )


def _name(row: dict[str, Any]) -> Text:
    return Text(head(relation_name(row["relation"]), NAME))


def _overlap(row: dict[str, Any]) -> list[str]:
    counts = (number(row[name]) for name in ("n_a", "n_b", "n_shared"))
    jaccard = row["jaccard"]
    return [*counts, bar(jaccard, 1, BAR), percent(jaccard), percent(row["mean_jaccard"])]


def plot(
    sources: Annotated[
        list[Path], typer.Argument(help="A fact run, or published result and neuron files.")
    ],
    path: Annotated[Path, typer.Option("--out", help="Picture: .png, .svg or .pdf.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="suppress (Figure 3), enhance (Figure 4) or layers; default all that is there.",
            show_default=False,
        ),
    ] = None,
    aggregate: Annotated[
        str | None,
        typer.Option(
            help="ratio-of-means (Dai et al.; default) or mean-of-ratios (the knowledge-neurons "
            "package; all that its published results allow).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Draw what suppressing and enhancing neurons does by relation, and which layers they are in.

    Example: pyengine neurons plot runs/facts --out facts.png --kind suppress --kind enhance
    """
    from pyengine.plots import plot_neurons

    given.check_picture(path)
    chosen = None if aggregate is None else aggregate.replace("-", "_")
    plot_neurons(read_drawable(sources), path, kind, chosen)
    err.print(f"wrote {path}")
