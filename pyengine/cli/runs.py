"""Commands on whole runs: merge, verify, compare, export."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pyengine.cli import corpus_options as given
from pyengine.cli.display import err, out
from pyengine.cli.options import JsonOption, RunArgument
from pyengine.errors import PyengineError


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
    path: Annotated[
        Path,
        typer.Option(
            "--out",
            help="File to write (text, openai, delphi, neuronpedia: a new directory).",
        ),
    ],
    format: Annotated[
        str,
        typer.Option(
            help="Triggers: parquet, jsonl, text, openai (NeuronRecord files), delphi (latent "
            "cache) or neuronpedia (bulk import). Agreement: parquet or tsv. Predictions: "
            "parquet or pandas-compat (ff-layers' data frame, as .parquet or .feather). Neurons: "
            "parquet or neurons-json (as the knowledge-neurons package). Heads: parquet."
        ),
    ] = "parquet",
    model: Annotated[
        str | None,
        typer.Option(
            help="For openai and neuronpedia: the run's model, which gives the activations of "
            "the tokens that the run does not hold."
        ),
    ] = None,
    device: given.DeviceOption = "auto",
) -> None:
    """Write a run as Parquet, or in the formats of other tools.

    Example: pyengine export runs/gpt2 --format parquet --out gpt2.parquet
    """
    from pyengine.export import export as export_run
    from pyengine.run import open_run

    found = open_run(run)
    export_run(found, format, path, model=_model_of(found, model, device))
    what = ""
    if found.manifest["analysis"] == "triggers":
        what = f"; scores are {found.manifest['question']['value']}-activation coefficients"
    err.print(f"wrote {path}{what}")


def _model_of(found: Any, name: str | None, device: str) -> Any:
    """Load a model in the precision of a run; None without a name."""
    if name is None:
        return None
    from pyengine.loading import load

    made = found.manifest["model"]
    revision = made["revision"] if name == made["name"] else None
    return load(name, device=device, dtype=found.manifest["numerics"]["dtype"], revision=revision)
