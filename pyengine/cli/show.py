"""`pyengine show`: what a run holds, whatever its kind."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli.agreement_view import show_agreement
from pyengine.cli.display import example_table, facts, out
from pyengine.cli.heads_extract_view import show_bank
from pyengine.cli.neurons_show import show_neurons
from pyengine.cli.options import JsonOption, RunArgument
from pyengine.cli.predictions_view import show_predictions
from pyengine.cli.shortcuts_evaluate_view import show_evaluation
from pyengine.cli.shortcuts_view import show_shortcuts

if TYPE_CHECKING:
    from pyengine.analyses.trigger_result import TriggerExamples

# What chooses a part of a run, by its kind.
CHOICES = {
    "triggers": ("layer", "dim"),
    "agreement": ("layer", "dim"),
    "predictions": ("unit", "layer"),
    "neurons": ("fact", "relation", "layer", "dim"),
    "activations": ("unit",),
    "extract": (),
    "shortcuts": (),
    "shortcut_scores": (),
    "heads": (),
}


def show(
    run: RunArgument,
    layer: Annotated[int | None, typer.Option(help="Layer of the key, value or unit.")] = None,
    dim: Annotated[int | None, typer.Option(help="Dimension of the key or value.")] = None,
    unit: Annotated[
        int | None, typer.Option(help="Unit whose predictions or activations to show.")
    ] = None,
    fact: Annotated[
        str | None, typer.Option(help="Fact whose neurons to show: its number or name.")
    ] = None,
    relation: Annotated[
        str | None, typer.Option(help="Relation whose common neurons to show.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Examples to show.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Show what a run holds: all of it, one key, value or neuron, one unit or fact.

    Example: pyengine show runs/gpt2 --layer 3 --dim 17
    """
    from pyengine.run import open_run

    if unit is None and (layer is None) != (dim is None):
        raise typer.BadParameter("give both --layer and --dim, or neither")
    if sum(part is not None for part in (fact, relation, layer)) > 1:
        raise typer.BadParameter("--fact, --relation, and --layer with --dim each stand alone")
    found = open_run(run)
    given = {"layer": layer, "dim": dim, "unit": unit, "fact": fact, "relation": relation}
    analysis = found.manifest["analysis"]
    _check_choices(analysis, given)
    if analysis == "neurons":
        show_neurons(found, fact, relation, layer, dim, rows, as_json)
    elif analysis == "agreement":
        show_agreement(found, layer, dim, rows, as_json)
    elif analysis == "predictions":
        show_predictions(found, unit, layer, rows, as_json)
    elif analysis == "activations":
        from pyengine.cli.cache_view import show_activations  # loads torch

        show_activations(found, unit, as_json)
    elif analysis == "extract":
        from pyengine.cli.extract_view import show_extraction

        show_extraction(found, as_json)
    elif analysis == "shortcuts":
        show_shortcuts(found, as_json)
    elif analysis == "shortcut_scores":
        show_evaluation(found, as_json)
    elif analysis == "heads":
        show_bank(found, as_json)
    else:
        _show_triggers(found, layer, dim, rows, as_json)


def _check_choices(analysis: str, given: dict[str, Any]) -> None:
    known = CHOICES[analysis]
    if wrong := [name for name, value in given.items() if value is not None and name not in known]:
        named = ", ".join(f"--{name}" for name in known)
        raise typer.BadParameter(
            f"--{wrong[0]} does not apply to a run of {analysis}"
            + (f", which is shown by {named}" if named else "")
        )


def _show_triggers(
    found: "TriggerExamples", layer: int | None, dim: int | None, rows: int, as_json: bool
) -> None:
    if layer is None or dim is None:
        print(json.dumps(found.manifest, indent=2)) if as_json else _overview(found.manifest)
        return
    examples = {name: side.examples(layer, dim) for name, side in found.sides().items()}
    if as_json:
        print(json.dumps({n: [vars(e) for e in s[:rows]] for n, s in examples.items()}))
        return
    for name, side in found.sides().items():
        table = example_table(side, layer, dim, rows, out.width - 28)
        if len(examples) > 1:
            table.title = f"{table.title} ({name})"
        out.print(table)


def _overview(manifest: dict[str, Any]) -> None:
    model, corpus, question = (manifest[name] for name in ("model", "corpus", "question"))
    rows = {
        "model": f"{model['name']} ({model['family']}, "
        f"{model['n_layers']} layers × {model['d_ff']})",
        "corpus": f"{corpus['source']}: {corpus['n_units']:,} units, {corpus['n_tokens']:,} tokens",
        "question": ", ".join(
            f"{name} {value}"
            for name, value in question.items()
            if name in ("k", "per", "value", "sign", "floor") and value is not None
        ),
        "numerics": f"{manifest['numerics']['dtype']} on {manifest['numerics']['device']}",
        "NaN activations": f"{sum(manifest['result']['n_nan']):,}",
        "bit-exact": "yes" if manifest["result"]["exact"] else "no",
    }
    out.print(facts(rows))
