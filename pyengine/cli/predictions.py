"""`pyengine predictions`: what every layer, or every single memory, predicts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli import options
from pyengine.cli.display import err
from pyengine.cli.predictions_view import print_layers, summary
from pyengine.cli.schedule import Took, carry_out, say_estimate, say_next, schedule_of

if TYPE_CHECKING:
    from pyengine.analyses.prediction_result import Predictions

FINAL_NORM_HELP = (
    "Put vectors through the final norm before reading them. Default: on in layer mode, as the "
    "model itself does; value mode takes off only."
)


def predictions(
    model: given.ModelArgument,
    corpus: given.CorpusArgument,
    run: given.RunOption,
    mode: Annotated[
        str, typer.Option(help="layer: residual, FFN and layer output. value: single memories.")
    ] = "layer",
    position: Annotated[
        str, typer.Option(help="Where in each unit: random (one), last or all.")
    ] = "random",
    seed: Annotated[int, typer.Option(help="Seed of the random positions.")] = 0,
    layers: given.LayersOption = None,
    final_norm: Annotated[
        bool | None,
        typer.Option("--final-norm/--no-final-norm", help=FINAL_NORM_HELP, show_default=False),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="full (the model's output head; default of layer mode) or embedding (the bare "
            "one; all that value mode takes).",
            show_default=False,
        ),
    ] = None,
    n: Annotated[int, typer.Option(help="Largest contributors to keep, in value mode.")] = 10,
    all_values: Annotated[
        bool, typer.Option("--all-values", help="Also keep lists over all memories (value mode).")
    ] = False,
    output_dist: Annotated[
        bool, typer.Option("--output-dist", help="Also write the model's whole distributions.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw Figures 7-11: .png, .svg or .pdf.")
    ] = None,
    unit: given.UnitOption = "sentence",
    window: given.WindowOption = None,
    max_units: given.MaxUnitsOption = None,
    bos: given.BosOption = False,
    long: given.LongOption = "split",
    raw: given.RawOption = False,
    format: given.FormatOption = "auto",
    field: given.FieldOption = "text",
    config: given.ConfigOption = None,
    split: given.SplitOption = "train",
    activation: Annotated[
        str | None,
        typer.Option(
            help="fused (fast; default) or model (bit-equal to Hugging Face; default in float64).",
            show_default=False,
        ),
    ] = None,
    dtype: given.ReadoutDtypeOption = "float32",
    device: given.DeviceOption = "auto",
    revision: given.RevisionOption = None,
    trust_remote_code: given.TrustOption = False,
    shard: given.ShardOption = "0/1",
    ray: given.RayOption = None,
    tasks: given.TasksOption = None,
    allow_mixed: given.AllowMixedOption = False,
    dry_run: given.DryRunOption = False,
    batch_tokens: given.BatchTokensOption = None,
    block_tokens: given.BlockTokensOption = None,
    threads: given.ThreadsOption = None,
    cache: given.CacheOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Read out what each layer predicts, and where its prediction comes from.

    Example: pyengine predictions gpt2 wiki.valid.tokens --mode layer --out runs/gpt2-layers
    """
    from pyengine.analyses.predictions import ffn_predictions
    from pyengine.scale.work import Work

    how = schedule_of(shard, ray, tasks, allow_mixed)
    text = {
        "unit": unit,
        "window": window,
        "max_units": max_units,
        "long": long,
        "detokenize": not raw,
    }
    load_settings = {
        "device": device,
        "dtype": dtype,
        "revision": revision,
        "trust_remote_code": trust_remote_code,
    }
    settings: dict[str, Any] = {
        "mode": mode,
        "position": position,
        "seed": seed,
        "layers": options.indices(layers),
        "final_norm": None if final_norm is None else ("on" if final_norm else "off"),
        "head": head,
        "n": n,
        "all_values": all_values,
        "output_dist": output_dist,
        "bos": bos,
        "activation": activation,
        "batch_tokens": batch_tokens,
        "block_tokens": block_tokens,
        "cache_dir": cache,
    }
    given.check_picture(plot)
    units = given.read_corpus(corpus, format, field, config, split, text)
    given.set_threads(threads)
    work = Work(ffn_predictions, model, units, (), settings, load_settings)
    if dry_run:
        say_estimate(work, how, as_json)
        return
    found, took = carry_out(work, run, how, "predicting")
    _report(found, run, took)
    if plot is not None:
        from pyengine.plots import plot_predictions

        plot_predictions(found, plot)
        err.print(f"wrote {plot}")
    if as_json:
        print(json.dumps({"run": str(run), **summary(found)}))
        return
    print_layers(found)
    say_next(
        how,
        lambda: (
            f"pyengine show {run} --unit {found.examples['unit'][0].as_py()}"
            f"   or: pyengine export {run} --format parquet --out predictions.parquet"
        ),
    )


def _report(found: "Predictions", run: Path, took: Took) -> None:
    record = found.record
    layers = found.manifest["question"]["layers"]
    err.print(
        f"{record['n_examples']:,} examples × {len(layers)} layers from {record['n_tokens']:,} "
        f"tokens {took.text(record['n_tokens'], 'tokens')} → {run}"
    )
    given.report_run(found.manifest, record)
    for layer, n_nan in enumerate(record["n_nan"]):
        if n_nan:
            err.print(f"warning: layer {layer} had NaN in {n_nan:,} examples; they are left empty")
