"""`pyengine shortcuts`: linear maps between layers, fitted and scored."""

import json
from typing import Annotated, Any

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli.display import err
from pyengine.cli.schedule import carry_out, say_estimate, say_next, schedule_of
from pyengine.cli.shortcuts_evaluate import evaluate
from pyengine.cli.shortcuts_generate import generate
from pyengine.cli.shortcuts_import import import_maps
from pyengine.cli.shortcuts_tune import tune
from pyengine.cli.shortcuts_view import print_sources, report, summary

app = typer.Typer(
    name="shortcuts",
    help="Linear shortcuts: what a later layer will be, from an earlier one.\n\n"
    "Example: pyengine shortcuts fit gpt2 wiki.train.tokens --preset wikipedia --out runs/maps",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

PRESET_HELP = (
    "wikipedia: what the original (Din et al. 2023) draws of its 20,000 sentences: one random "
    "token of 9,000 units to train on and of 3,000 for validation, by hash of the seed."
)


def fit(
    model: given.ModelArgument,
    corpus: given.CorpusArgument,
    run: given.RunOption,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Maps to every later layer, not to the last alone.")
    ] = False,
    sub_modules: Annotated[
        bool,
        typer.Option("--sub-modules", help="Also over each norm, attention, FFN and residual sum."),
    ] = False,
    stack: Annotated[
        list[str] | None, typer.Option(help="encoder or decoder; default all.", show_default=False)
    ] = None,
    tokens: Annotated[str, typer.Option(help="Of each unit: one (random) or all.")] = "one",
    train: Annotated[
        int | None, typer.Option(help="Units to train on; default: all others.", show_default=False)
    ] = None,
    validation: Annotated[
        int | None,
        typer.Option(
            help="Units for validation; default: a quarter, at most 3,000.", show_default=False
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option(help=PRESET_HELP, show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the units and tokens.")] = 0,
    skip_first: Annotated[int, typer.Option(help="Never take the first N tokens of a unit.")] = 0,
    no_special: Annotated[
        bool, typer.Option("--no-special", help="Never take an encoder's special tokens.")
    ] = False,
    mask: Annotated[
        bool | None,
        typer.Option(
            "--mask/--no-mask",
            help="Mask the token that is taken; default in BERT, for one token.",
            show_default=False,
        ),
    ] = None,
    solver: Annotated[
        str,
        typer.Option(
            help="auto (rows or gram, whichever is fewer numbers), rows, gram, or exact (rows or "
            "TSQR)."
        ),
    ] = "auto",
    ridge: Annotated[float, typer.Option(help="λ of λ‖A‖², beside the sum of squares.")] = 0.0,
    rcond: Annotated[
        float | None,
        typer.Option(
            help="Singular values below so much of the largest count as 0; default 2^-21.",
            show_default=False,
        ),
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
    checkpoint_blocks: Annotated[
        int | None, typer.Option(help="Save every so many blocks; default every 30 seconds.")
    ] = None,
    threads: given.ThreadsOption = None,
    cache: given.CacheOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Fit maps from layers to later ones: least squares, in one pass over a corpus.

    Example: pyengine shortcuts fit gpt2 wiki.train.tokens --all-pairs --out runs/maps
    """
    from pyengine.scale.work import Work
    from pyengine.shortcuts.fit import fit_shortcuts
    from pyengine.shortcuts.solve import RCOND

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
        "pairs": "all" if all_pairs else "last",
        "sub_modules": sub_modules,
        "stacks": stack or None,
        "tokens": tokens,
        "n_train": train,
        "n_validation": validation,
        "preset": preset,
        "seed": seed,
        "skip_first": skip_first,
        "special": not no_special,
        "mask": mask,
        "solver": solver,
        "ridge": ridge,
        "rcond": RCOND if rcond is None else rcond,
        "bos": bos,
        "activation": activation,
        "batch_tokens": batch_tokens,
        "block_tokens": block_tokens,
        "checkpoint_blocks": checkpoint_blocks,
        "cache_dir": cache,
    }
    units = given.read_corpus(corpus, format, field, config, split, text)
    given.set_threads(threads)
    work = Work(fit_shortcuts, model, units, (), settings, load_settings)
    if dry_run:
        say_estimate(work, how, as_json)
        return
    found, took = carry_out(
        work, run, how, "fitting", lambda advance: {"on_solved": _solving(advance)}
    )
    n_tokens = found.record["n_tokens"]
    err.print(f"{n_tokens:,} tokens {took.text(n_tokens, 'tokens')} → {run}")
    if not n_tokens:
        err.print(
            "note: this shard has none of the sample's blocks; a smaller --block-tokens spreads a "
            "small corpus"
        )
    given.report_run(found.manifest, found.record)
    if how.shard[1] == 1:  # a shard solves nothing
        report(found)
        print(json.dumps({"run": str(run), **summary(found)})) if as_json else print_sources(found)
    say_next(how, lambda: f"pyengine shortcuts evaluate {run} {model} --out RUN")


def _solving(advance: Any) -> Any:
    return lambda done, total: advance("solving", done, total)


app.command("fit")(fit)
app.command("evaluate")(evaluate)
app.command("tune")(tune)
app.command("generate")(generate)
app.command("import")(import_maps)
