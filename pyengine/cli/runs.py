"""Commands that read runs: show, merge, verify, compare, export."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pyengine.cli.agreement_view import show_agreement
from pyengine.cli.display import err, example_table, facts, out
from pyengine.cli.neurons_show import show_neurons
from pyengine.cli.predictions_view import show_predictions
from pyengine.errors import PyengineError

if TYPE_CHECKING:
    from pyengine.analyses.trigger_result import TriggerExamples

RunArgument = Annotated[Path, typer.Argument(help="A run directory.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def show(
    run: RunArgument,
    layer: Annotated[int | None, typer.Option(help="Layer of the key, value or unit.")] = None,
    dim: Annotated[int | None, typer.Option(help="Dimension of the key or value.")] = None,
    unit: Annotated[int | None, typer.Option(help="Unit whose predictions to show.")] = None,
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
    if unit is not None and dim is not None:
        raise typer.BadParameter("--unit goes with --layer, not with --dim")
    if sum(part is not None for part in (fact, relation, layer)) > 1:
        raise typer.BadParameter("--fact, --relation, and --layer with --dim each stand alone")
    found = open_run(run)
    analysis = found.manifest["analysis"]
    if analysis == "predictions" and dim is not None:
        raise typer.BadParameter("a run of predictions is shown by --unit, not by --dim")
    if analysis != "predictions" and unit is not None:
        raise typer.BadParameter(f"--unit is for runs of predictions; this one holds {analysis}")
    if analysis != "neurons" and (fact is not None or relation is not None):
        raise typer.BadParameter(
            f"--fact and --relation are for runs of neurons; this one holds {analysis}"
        )
    if analysis == "neurons":
        show_neurons(found, fact, relation, layer, dim, rows, as_json)
    elif analysis == "agreement":
        show_agreement(found, layer, dim, rows, as_json)
    elif analysis == "predictions":
        show_predictions(found, unit, layer, rows, as_json)
    else:
        _show_triggers(found, layer, dim, rows, as_json)


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


def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run directories that hold the shards.")],
    run: Annotated[Path, typer.Option("--out", help="Run directory to write.")],
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Accept shards with other numerics.")
    ] = False,
    threads: Annotated[int, typer.Option(help="Threads; 0 takes all cores.")] = 0,
) -> None:
    """Merge the shards of one run, bit for bit what a single process would have found.

    Example: pyengine merge runs/part-0 runs/part-1 --out runs/whole
    """
    from pyengine.merge_runs import merge_runs

    found = merge_runs([*runs], run, allow_mixed=allow_mixed, n_threads=threads)
    what = "facts" if found.manifest["analysis"] == "neurons" else "tokens"
    err.print(f"merged {found.record[f'n_{what}']:,} {what} → {run}")


def verify(run: RunArgument) -> None:
    """Check every file of a run against its checksum.

    Example: pyengine verify runs/gpt2
    """
    from pyengine.run import verify as verify_run

    verify_run(run)
    out.print(f"{run} is complete and intact")


def compare(
    a: Annotated[Path, typer.Argument(help="A run directory.")],
    b: Annotated[Path, typer.Argument(help="Another one, over the same corpus.")],
    as_json: JsonOption = False,
) -> None:
    """Compare two runs per layer: overlap of the examples, and the band of the disagreements.

    Example: pyengine compare runs/fp32 runs/bf16
    """
    from pyengine.analyses.compare import compare as compare_runs
    from pyengine.run import open_run

    pair = [open_run(run) for run in (a, b)]
    for run, opened in zip((a, b), pair, strict=True):
        if opened.manifest["analysis"] != "triggers":
            raise PyengineError(
                f"{run} holds {opened.manifest['analysis']}; compare reads triggers"
            )
    layers = compare_runs(*pair)
    if as_json:
        print(json.dumps([layer._asdict() for layer in layers]))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("direction", "layer", "overlap", "keys changed", "band", "max |Δ score|"):
        table.add_column(name, justify="right")
    for layer in layers:
        table.add_row(
            layer.direction,
            str(layer.layer),
            f"{layer.overlap:.4%}",
            f"{layer.changed:.2%}",
            f"{layer.band:.2e}",
            f"{layer.score_difference:.2e}",
        )
    out.print(table)


def export(
    run: RunArgument,
    path: Annotated[Path, typer.Option("--out", help="File (text: directory) to write.")],
    format: Annotated[
        str,
        typer.Option(
            help="Triggers: parquet, jsonl or text. Agreement: parquet or tsv. Predictions: "
            "parquet or pandas-compat (ff-layers' data frame, as .parquet or .feather). Neurons: "
            "parquet or neurons-json (as the knowledge-neurons package)."
        ),
    ] = "parquet",
) -> None:
    """Write a run as Parquet, or in the formats of other tools.

    Example: pyengine export runs/gpt2 --format parquet --out gpt2.parquet
    """
    from pyengine.export import export as export_run
    from pyengine.run import open_run

    found = open_run(run)
    export_run(found, format, path)
    what = ""
    if found.manifest["analysis"] == "triggers":
        what = f"; scores are {found.manifest['question']['value']}-activation coefficients"
    err.print(f"wrote {path}{what}")


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
