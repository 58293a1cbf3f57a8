"""`pyengine shortcuts evaluate`: what maps between layers are worth."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli import shortcuts_options as common
from pyengine.cli.display import err
from pyengine.cli.shortcuts_evaluate_view import print_evaluation, summary
from pyengine.cli.shortcuts_wall_clock import time_exits

IDENTITY = "id"


def evaluate(
    fit: common.FitArgument,
    model: common.FittedModelArgument,
    run: Annotated[Path, typer.Option("--out", help="Run directory to write.")],
    mappings: Annotated[
        str | None,
        typer.Option(
            help="Of id (logit lens), mat, affine and tuned; default all that there are.",
            show_default=False,
        ),
    ] = None,
    ranks: Annotated[
        str | None, typer.Option(help="Also mat and affine cut to these ranks, as 16,64.")
    ] = None,
    early_exit: Annotated[
        bool, typer.Option("--early-exit/--no-early-exit", help="Where every threshold would stop.")
    ] = True,
    wall_clock: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Also time it: really stop, on N validation units, a unit at a time.",
        ),
    ] = None,
    substitution: Annotated[
        bool, typer.Option("--substitution", help="Also put maps in the place of sub-modules.")
    ] = False,
    transfer: Annotated[
        str | None,
        typer.Option(help="Mappings whose maps also read all other layers' states, as mat."),
    ] = None,
    tuned_lens: common.TunedLensOption = None,
    bootstrap: Annotated[
        int, typer.Option(help="Resamples of sentences for 95% intervals; 0: none.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Also draw: .png, .svg or .pdf.")] = None,
    dtype: common.FittedDtypeOption = None,
    device: given.DeviceOption = "auto",
    revision: given.RevisionOption = None,
    trust_remote_code: given.TrustOption = False,
    threads: given.ThreadsOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Score linear shortcuts: r², precision, surprisal, KL, calibration and early exits.

    Example: pyengine shortcuts evaluate runs/gpt2-maps gpt2 --out runs/gpt2-scores --plot maps.png
    """
    from pyengine.shortcuts.evaluate import evaluate as score

    if wall_clock is not None and not early_exit:
        raise typer.BadParameter("--wall-clock times early exits: leave --no-early-exit out")
    common.check_named([*_names(mappings), *_names(transfer)], tuned_lens)
    given.check_picture(plot)
    given.set_threads(threads)
    shortcuts = common.open_fit(fit)
    loaded = common.load_fitted(shortcuts, model, dtype, device, revision, trust_remote_code)
    for stack in shortcuts.stacks:  # imported maps may lack it: said before a run is begun
        shortcuts.validation(stack)
    extra = common.read_lens(tuned_lens, loaded)
    fitted = _names(mappings) or (IDENTITY, *shortcuts.kinds())
    settings: dict[str, Any] = {
        "mappings": [name for name in fitted if name not in extra],
        "ranks": _ranks(ranks),
        "extra": extra,
        "early_exit": early_exit,
        "substitution": substitution,
        "transfer": _names(transfer),
        "bootstrap": bootstrap,
        "seed": seed,
    }
    with common.from_the_start() as advance:
        found = score(shortcuts, loaded, out=run, on_progress=advance, **settings)
    if wall_clock is not None:
        found = time_exits(found, shortcuts, loaded, wall_clock, extra, run)
    if plot is not None:
        from pyengine.plots.shortcuts import plot_shortcuts

        plot_shortcuts(found, plot)
        err.print(f"wrote {plot}")
    if as_json:
        print(json.dumps({"run": str(run), **summary(found)}))
        return
    print_evaluation(found)
    err.print(f"tables: {run}/*.parquet")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _ranks(text: str | None) -> tuple[int, ...]:
    if not all(part.isdigit() for part in _names(text)):
        raise typer.BadParameter(f"{text!r} is not a list of ranks like 16,64")
    return tuple(int(part) for part in _names(text))
