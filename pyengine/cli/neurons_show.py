"""How `pyengine show` shows the knowledge neurons of many facts."""

import json
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from pyengine.cli.display import add_rows, columns, facts, head, number, out, percent
from pyengine.cli.neurons_view import (
    STATES,
    factor_of,
    print_skipped,
    print_summary,
    relation_cell,
    summary,
)
from pyengine.errors import PyengineError
from pyengine.relation_names import relation_name

if TYPE_CHECKING:
    from pyengine.analyses.fact_neuron_result import FactNeurons

LONGEST_ANSWER = 12


def show_neurons(
    found: "FactNeurons",
    fact: str | None,
    relation: str | None,
    layer: int | None,
    dim: int | None,
    rows: int,
    as_json: bool,
) -> None:
    """Show a run of facts: the summary, one fact or relation, or the facts that share a neuron."""
    if fact is not None:
        record = _fact(found, fact)
        print(json.dumps(record)) if as_json else _print_fact(found, record, rows)
    elif relation is not None:
        common = _common(found, relation)
        print(json.dumps(common)) if as_json else _print_common(common, relation, rows)
    elif layer is not None and dim is not None:
        shared = _facts_of(found, layer, dim)
        print(json.dumps(shared)) if as_json else _print_shared(shared, layer, dim, rows)
    elif as_json:
        print(json.dumps(summary(found)))
    else:
        out.print(facts(_facts(found)))
        out.print()
        print_summary(found)
        print_skipped(found, out)


def _fact(found: "FactNeurons", name: str) -> dict[str, Any]:
    """Return a fact, called by its number or name, with its neurons and effects."""
    import pyarrow.compute as pc

    numbered = pc.field("fact") == int(name) if name.isdecimal() else pc.scalar(False)
    matches = found.facts.filter((pc.field("uid") == name) | numbered).to_pylist()
    if not matches:
        first, last = (
            found.facts[column][at].as_py() for column, at in (("fact", 0), ("fact", -1))
        )
        raise PyengineError(
            f"this run holds no fact {name!r}; it holds {first} to {last}, which are called like "
            f"{found.facts['uid'][0].as_py()!r}"
        )
    record: dict[str, Any] = matches[0]
    this = pc.field("fact") == record["fact"]
    for part in ("neurons", "effects"):
        record[part] = getattr(found, part).filter(this).drop_columns("fact").to_pylist()
    return record


def _print_fact(found: "FactNeurons", record: dict[str, Any], rows: int) -> None:
    what = (
        f"fact {record['fact']} ({record['uid']}): {relation_name(record['relation'])}, "
        f"{record['subject'] or '–'} → {record['object']}; {record['n_neurons']} neurons from "
        f"{record['n_prompts']} prompts"
    )
    out.print(what, markup=False)
    table = columns("layer", "dim", f"prompts of {record['n_prompts']}")
    for neuron in record["neurons"]:
        table.add_row(*(str(neuron[name]) for name in ("layer", "dim", "n_prompts")))
    out.print(table)
    for kind, title in (
        ("own", "Its prompts"),
        ("unrelated", f"Prompts of fact {record['unrelated']}, of another relation"),
    ):
        effects = [effect for effect in record["effects"] if effect["kind"] == kind]
        if effects:
            answer = f"(answer: {effects[0]['target']})"
            out.print(f"\n{title}, under these neurons {answer}:", markup=False)
            out.print(_effects(effects[:rows], factor_of(found)))


def _effects(effects: list[dict[str, Any]], factor: str) -> Table:
    says = ("says", "says ×0", f"says {factor}")
    table = columns("prob", "×0", factor, *says, "prompt", left=(*says, "prompt"))
    add_rows(table, [_effect(effect) for effect in effects], out.width)
    return table


def _effect(effect: dict[str, Any]) -> list[str]:
    return [
        *(percent(effect[f"probability_{state}"]) for state in STATES),
        *(head(effect[f"completion_{state}"].strip(), LONGEST_ANSWER) for state in STATES),
        effect["text"],
    ]


def _common(found: "FactNeurons", relation: str) -> list[dict[str, Any]]:
    """Return the neurons that many facts of a relation have, the commonest first."""
    n_facts = sum(name == relation for name in found.relation_of().values())
    return [
        {"layer": neuron.layer, "dim": neuron.dim, "n_facts": count, "share": count / n_facts}
        for neuron, count in found.relation_neurons(relation).items()
    ]


def _print_common(common: list[dict[str, Any]], relation: str, rows: int) -> None:
    name = relation_name(relation)
    out.print(
        f"{name}: {number(len(common))} neurons are in 10% of the facts or more", markup=False
    )
    table = columns("layer", "dim", "facts", "share")
    for row in common[:rows]:
        cells = (str(row[column]) for column in ("layer", "dim", "n_facts"))
        table.add_row(*cells, percent(row["share"]))
    if common:
        out.print(table)
    if len(common) > rows:
        out.print(f"and {number(len(common) - rows)} more; --rows shows more", style="dim")


def _facts_of(found: "FactNeurons", layer: int, dim: int) -> list[dict[str, Any]]:
    """Return the facts that a neuron belongs to."""
    import pyarrow.compute as pc

    n_layers, d_ff = (found.manifest["model"][name] for name in ("n_layers", "d_ff"))
    if not (0 <= layer < n_layers and 0 <= dim < d_ff):
        raise PyengineError(
            f"this run's model has no neuron of layer {layer}, dim {dim}; it has layers 0 to "
            f"{n_layers - 1}, dims 0 to {d_ff - 1}"
        )
    mine = found.neurons.filter((pc.field("layer") == layer) & (pc.field("dim") == dim))
    names = ["fact", "uid", "relation", "subject", "object"]
    joined = mine.select(["fact", "n_prompts"]).join(found.facts.select(names), "fact")
    shared: list[dict[str, Any]] = joined.sort_by("fact").to_pylist()
    return shared


def _print_shared(shared: list[dict[str, Any]], layer: int, dim: int, rows: int) -> None:
    out.print(f"layer {layer}, dim {dim} is a neuron of {number(len(shared))} facts")
    if not shared:
        return
    table = columns("fact", "relation", "prompts", left=("relation",))
    for name in ("subject", "object"):
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for row in shared[:rows]:
        names = Text(row["subject"]), Text(row["object"])
        table.add_row(str(row["fact"]), relation_cell(row), str(row["n_prompts"]), *names)
    out.print(table)
    if len(shared) > rows:
        out.print(f"and {number(len(shared) - rows)} more; --rows shows more", style="dim")


def _facts(found: "FactNeurons") -> dict[str, str]:
    question, model, corpus = (found.manifest[name] for name in ("question", "model", "corpus"))
    numerics, record = found.manifest["numerics"], found.record
    shown = ("method", "steps", "objective", "value", "share", "factor")
    known = [f"{name} {question[name]}" for name in shown if question.get(name) is not None]
    return {
        "model": f"{model['name']} ({model['family']}, {model['n_layers']} layers × "
        f"{model['d_ff']})",
        "facts": f"{corpus['source']}: {number(record['n_facts'])} of "
        f"{number(corpus['n_facts'])} facts, {number(record['n_prompts'])} prompts",
        "question": ", ".join(known),
        "numerics": f"{numerics['dtype']} on {numerics['device']}",
    }
