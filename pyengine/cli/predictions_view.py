"""How predictions are shown in the terminal."""

import json
import math
from typing import TYPE_CHECKING, Any

from rich.table import Table

from pyengine.cli.display import bar, columns, facts, number, one_line, out, percent, quoted, tail
from pyengine.errors import PyengineError
from pyengine.stacks import split_by_stack

if TYPE_CHECKING:
    from pyengine.analyses.prediction_result import Predictions

BAR = 8
TOKEN = 14
KINDS = ("residual", "agreement", "ffn", "composition")
SHORT_KINDS = ("resid", "agree", "ffn", "comp")

LEGENDS = {
    "layer": "active: memories with a coefficient above 0; neg: below 0, not counted elsewhere; "
    "unmatched: examples where no active memory has the "
    "layer's prediction; final: the residual predicts the final token; prob: its mean probability "
    "there; then where the layer's prediction comes from: the residual, agreement of residual and "
    "FFN, the FFN, or composition (neither)",
    "value": "active: memories with a coefficient above 0; neg: below 0; distinct: different "
    "predictions among the active; final: the residual predicts the final token; by ffn: the FFN "
    "does; unmatched: examples where no active memory predicts the final, the FFN's, the gold "
    "token",
}


def summary(found: "Predictions") -> dict[str, Any]:
    """Return what `--json` prints."""
    rows = [
        {name: None if _missing(value) else value for name, value in row.items()}
        for row in found.summary().to_pylist()
    ]
    return {"mode": found.mode, "n_examples": found.record["n_examples"], "layers": rows}


def print_layers(found: "Predictions") -> None:
    """Print the summary per layer."""
    rows = summary(found)["layers"]
    d_ff = found.manifest["model"]["d_ff"]
    for row in rows:
        none = row["mean_negative"] is None
        row["negative_share"] = None if none else row["mean_negative"] / d_ff
    out.print(_layer_table(rows) if found.mode == "layer" else _value_table(rows))
    out.print(LEGENDS[found.mode], style="dim")


def _layer_table(rows: list[dict[str, Any]]) -> Table:
    names = ("layer", "active", "neg", "unmatched", "", "final", "prob", *SHORT_KINDS)
    table = columns(*names, left=("",))
    for row in rows:
        final = row["residual_predicts_final"]
        table.add_row(
            str(row["layer"]),
            percent(row["active_share"]),
            percent(row["negative_share"]),
            percent(row["no_match_layer"]),
            bar(final, 1, BAR),
            percent(final),
            percent(row["mean_residual_final_prob"]),
            *(percent(row[kind]) for kind in KINDS),
        )
    return table


def _value_table(rows: list[dict[str, Any]]) -> Table:
    names = ("layer", "active", "neg", "distinct", "", "final", "by ffn")
    table = columns(*names, "unmatched", "ffn's", "gold", left=("",))
    for row in rows:
        final = row["residual_predicts_final"]
        table.add_row(
            str(row["layer"]),
            percent(row["active_share"]),
            percent(row["negative_share"]),
            number(row["mean_distinct"], 1),
            bar(final, 1, BAR),
            percent(final),
            percent(row["ffn_predicts_final"]),
            *(percent(row[f"no_match_{what}"]) for what in ("final", "ffn", "gold")),
        )
    return table


def show_predictions(
    found: "Predictions", unit: int | None, layer: int | None, rows: int, as_json: bool
) -> None:
    """Show predictions: the summary, or the examples of one unit."""
    if unit is None:
        if as_json:
            print(json.dumps(summary(found)))
            return
        out.print(facts(_facts(found)))
        out.print()
        print_layers(found)
        return
    examples = _examples(found, unit, layer)[:rows]
    if as_json:
        print(json.dumps(examples))
        return
    for number_of, example in enumerate(examples):
        if number_of:
            out.print()
        _print_example(found, example, layer)


def _examples(found: "Predictions", unit: int, layer: int | None) -> list[dict[str, Any]]:
    """Return the examples of a unit, each with its rows under `layers`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    layers = found.manifest["question"]["layers"]
    if layer is not None and layer not in layers:
        raise PyengineError(
            f"this run holds no layer {layer}; it holds {', '.join(map(str, layers))}"
        )
    wanted = pc.field("unit") == unit
    examples: list[dict[str, Any]] = found.examples.filter(wanted).to_pylist()
    if not examples:
        first, last = (found.examples["unit"][at].as_py() for at in (0, -1))
        raise PyengineError(f"this run holds no unit {unit}; it holds {first} to {last}")
    if layer is not None:
        wanted &= pc.field("layer") == layer
    table = pa.concat_tables([group.filter(wanted) for group in found.groups]).to_pylist()
    for example in examples:
        here = [row for row in table if row["position"] == example["position"]]
        example["layers"] = [_short(row) for row in here]
    return examples


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out what says which example it is, and the lists over all memories."""
    known = ("unit", "position")
    return {k: v for k, v in row.items() if k not in known and not k.startswith("all_")}


def _print_example(found: "Predictions", example: dict[str, Any], layer: int | None) -> None:
    head = f"unit {example['unit']}, position {example['position']}: "
    out.print(f"{head}{tail(one_line(example['prefix']), out.width - len(head))}")
    rows = example["layers"]
    stacks = split_by_stack(found.manifest, found.manifest["question"]["layers"])
    for row in _by_final_token(rows):
        of = next(name for name, layers in stacks.items() if row["layer"] in layers)
        final, gold = (_token(found, row[f"{what}_token"]) for what in ("final", "gold"))
        prob = "" if row["final_prob"] is None else f" ({row['final_prob']:.3g})"
        stack = f"{of}: " if len(stacks) > 1 else ""
        out.print(f"{stack}final token {final}{prob}, gold token {gold}")
    if layer is None:
        story = _layer_story if found.mode == "layer" else _value_story
        out.print(story(found, rows))
    elif found.mode == "value":
        out.print(_contributors(found, rows[0]))
    else:
        out.print(facts({name: _cell(found, name, value) for name, value in rows[0].items()}))


def _by_final_token(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each pair of final and gold token: T5's two stacks have their own."""
    return list({(row["final_token"], row["gold_token"]): row for row in rows}.values())


def _layer_story(found: "Predictions", rows: list[dict[str, Any]]) -> Table:
    names = ("layer", "residual", "prob", "FFN", "prob", "output", "prob", "kind")
    table = columns(*names, left=("residual", "FFN", "output", "kind"))
    for row in rows:
        cells = [_reading(found, row, part) for part in ("residual", "ffn", "layer")]
        table.add_row(str(row["layer"]), *(c for pair in cells for c in pair), row["kind"] or "–")
    return table


def _value_story(found: "Predictions", rows: list[dict[str, Any]]) -> Table:
    names = ("layer", "residual", "prob", "FFN", "prob", "active", "final", "top dim", "writes")
    table = columns(*names, left=("residual", "FFN", "writes"))
    for row in rows:
        table.add_row(
            str(row["layer"]),
            *_reading(found, row, "residual"),
            *_reading(found, row, "ffn"),
            number(row["n_active"]),
            number(row["n_matching_final"]),
            number(row["top_dims"][0]),
            _token(found, row["top_tokens"][0], 10),
        )
    return table


def _contributors(found: "Predictions", row: dict[str, Any]) -> Table:
    names = ("dim", "coef", "contrib", "", "token", "prob", "final rank", "final prob")
    table = columns(*names, left=("", "token"))
    out.print(
        f"layer {row['layer']}: {row['n_active']} active memories, {row['n_matching_final']} of "
        "them predict the final token; the largest:"
    )
    lists = ("dims", "coefficients", "contributions", "tokens", "probs", "final_ranks")
    memories = zip(*(row[f"top_{name}"] for name in (*lists, "final_probs")), strict=True)
    whole = row["top_contributions"][0] or 0
    for dim, coefficient, contribution, token, prob, rank, final_prob in memories:
        table.add_row(
            str(dim),
            number(coefficient, 3),
            number(contribution, 3),
            bar(contribution, whole, BAR),
            _token(found, token, TOKEN),
            percent(prob),
            number(rank),
            percent(final_prob),
        )
    return table


def _reading(found: "Predictions", row: dict[str, Any], part: str) -> tuple[str, str]:
    return _token(found, row[f"{part}_token"], TOKEN), percent(row[f"{part}_prob"])


def _token(found: "Predictions", token: int | None, width: int = 24) -> str:
    return quoted(None if token is None else found.text.token(token), width)


def _cell(found: "Predictions", name: str, value: Any) -> str:
    if name.endswith("_token") and value is not None:
        return f"{_token(found, value)} ({value})"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else str(value)


def _facts(found: "Predictions") -> dict[str, str]:
    question, model, corpus = (found.manifest[name] for name in ("question", "model", "corpus"))
    numerics = found.manifest["numerics"]
    return {
        "model": f"{model['name']} ({model['family']}, {model['n_layers']} layers × "
        f"{model['d_ff']})",
        "corpus": f"{corpus['source']}: {number(corpus['n_units'])} units, "
        f"{number(corpus['n_tokens'])} tokens",
        "question": f"mode {question['mode']}, position {question['position']}, final norm "
        f"{question['final_norm']}, head {question['head']}",
        "examples": number(found.record["n_examples"]),
        "numerics": f"{numerics['dtype']} on {numerics['device']}",
        "NaN examples": number(sum(found.record["n_nan"])),
        "bit-exact": "yes" if found.record["exact"] else "no",
    }


def _missing(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
