"""How an agreement is shown in the terminal."""

import json
from typing import TYPE_CHECKING, Any

from pyengine.cli.display import bar, columns, facts, number, out, percent, quoted
from pyengine.errors import PyengineError

if TYPE_CHECKING:
    from pyengine.analyses.agreement_result import Agreement

BAR = 10
CONFIDENT_ROWS = 10


def summary(found: "Agreement") -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "n_values": found.table.num_rows,
        "layers": found.layers.to_pylist(),
        "probability": found.probability.to_pylist(),
    }


def print_layers(found: "Agreement") -> None:
    """Print the agreement per layer beside its baselines."""
    rows = found.layers.to_pylist()
    k = found.manifest["question"]["k"]
    highest = max((row["agreement"] or 0 for row in rows), default=0)
    names = ("layer", "target", "", "agree", "shuffled", "rank", "shuffled", f"≥1 of {k}", "prob")
    table = columns(*names, left=("target", ""))
    for row in rows:
        table.add_row(
            str(row["layer"]),
            row["target"],
            bar(row["agreement"], highest, BAR),
            percent(row["agreement"]),
            percent(row["agreement_shuffled"]),
            number(row["mean_rank"]),
            number(row["mean_rank_shuffled"]),
            percent(row["any_match"]),
            f"{row['mean_prob']:.2g}" if row["mean_prob"] is not None else "–",
        )
    out.print(table)
    chance, rank = rows[0]["agreement_chance"], rows[0]["mean_rank_chance"]
    out.print(
        f"by chance: agree {percent(chance)}, rank {number(rank)}. agree: the value's top token is "
        "the target of its key's first trigger; shuffled: of another key's; rank: the target's "
        "mean place, 0 the top; prob: mean probability of the top token",
        style="dim",
    )


def print_by_probability(found: "Agreement") -> None:
    """Print the agreement by how sure the values are of their top token."""
    rows = found.probability.to_pylist()
    highest = max((row["agreement"] or 0 for row in rows), default=0)
    out.print("\nBy the value's confidence, tenths of the values, least confident first:")
    table = columns("prob", "to", "", "agree", "shuffled", "≥1", "values", left=("",))
    for row in rows:
        if row["bin"] < 0:
            table.add_section()
        table.add_row(
            f"{row['from_prob']:.3g}",
            f"{row['to_prob']:.3g}",
            bar(row["agreement"], highest, BAR),
            percent(row["agreement"]),
            percent(row["agreement_shuffled"]),
            percent(row["any_match"]),
            f"{'top ' if row['bin'] < 0 else ''}{row['n_values']:,}",
        )
    out.print(table)


def show_agreement(
    found: "Agreement", layer: int | None, dim: int | None, rows: int, as_json: bool
) -> None:
    """Show an agreement: the summary, or one value beside its key's triggers."""
    if layer is None or dim is None:
        if as_json:
            print(json.dumps(summary(found)))
            return
        out.print(facts(_facts(found)))
        out.print()
        print_layers(found)
        print_by_probability(found)
        return
    value = _value(found, layer, dim)
    if as_json:
        print(json.dumps(value))
        return
    out.print(f"layer {layer}, dim {dim}: entropy {number(value['entropy'], 2)} nats")
    _print_value(found, value, rows)


def _print_value(found: "Agreement", value: dict[str, Any], rows: int) -> None:
    name = found.text.token
    tokens = columns("place", "token", "probability", "", left=("token", ""))
    pairs = list(zip(value["top_tokens"], value["top_probs"], strict=True))[:rows]
    for place, (token, prob) in enumerate(pairs):
        if token is not None:
            shown = bar(prob, pairs[0][1], BAR)
            tokens.add_row(str(place), quoted(name(token)), f"{prob:.4g}", shown)
    out.print(tokens)
    kind = {row["layer"]: row["target"] for row in found.layers.to_pylist()}[value["layer"]]
    out.print(
        f"\n{kind} token of the key's triggers: {value['matches']} of {value['n_targets']} are the "
        "value's top token"
    )
    targets = columns("trigger", "token", "rank", "probability", left=("token",))
    of_triggers = (value[part] for part in ("targets", "target_ranks", "target_probs"))
    for place, (token, rank, prob) in enumerate(list(zip(*of_triggers, strict=True))[:rows]):
        shown = "–" if prob is None else f"{prob:.4g}"
        text = None if token is None else name(token)
        targets.add_row(str(place), quoted(text), number(rank), shown)
    out.print(targets)


def _value(found: "Agreement", layer: int, dim: int) -> dict[str, Any]:
    import pyarrow.compute as pc

    rows = found.table.filter((pc.field("layer") == layer) & (pc.field("dim") == dim)).to_pylist()
    if not rows:
        layers, dims = (found.table[name].unique().to_pylist() for name in ("layer", "dim"))
        raise PyengineError(
            f"this run holds no value of layer {layer}, dim {dim}; it holds layers {layers[0]} to "
            f"{layers[-1]}, dims {dims[0]} to {dims[-1]}"
        )
    value: dict[str, Any] = rows[0]
    return value


def _facts(found: "Agreement") -> dict[str, str]:
    question, model = found.manifest["question"], found.manifest["model"]
    return {
        "model": f"{model['name']} ({model['family']}, {model['n_layers']} layers × "
        f"{model['d_ff']})",
        "triggers": str(found.manifest["corpus"]["source"]),
        "question": f"final norm {question['final_norm']}, head {question['head']}, "
        f"k {question['k']}, seed {question['seed']}",
        "values": number(found.table.num_rows),
        "numerics": f"{found.manifest['numerics']['dtype']} on "
        f"{found.manifest['numerics']['device']}",
    }


def print_confident(found: "Agreement") -> None:
    """Print the values that are surest of their top token."""
    out.print("\nThe most confident values:")
    k = found.manifest["question"]["k"]
    table = columns("layer", "dim", "token", "prob", f"matches of {k}", left=("token",))
    for layer, dim in most_confident(found, CONFIDENT_ROWS):
        value = _value(found, layer, dim)
        if value["top_prob"] is not None:
            shown = f"{value['top_prob']:.4g}", f"{value['matches']}"
            table.add_row(str(layer), str(dim), quoted(value["top_text"]), *shown)
    out.print(table)


def most_confident(found: "Agreement", n: int) -> list[tuple[int, int]]:
    """Return the n values, (layer, dim), with the largest probabilities, largest first."""
    keys = [("top_prob", "descending"), ("layer", "ascending"), ("dim", "ascending")]
    rows = found.table.select(["top_prob", "layer", "dim"]).sort_by(keys).slice(0, n).to_pylist()
    return [(row["layer"], row["dim"]) for row in rows]
