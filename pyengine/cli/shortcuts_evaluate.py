"""`pyengine shortcuts evaluate`: what maps between layers are worth."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli.display import err, progress
from pyengine.cli.shortcuts_evaluate_view import print_evaluation, summary
from pyengine.errors import Interrupted, PyengineError

if TYPE_CHECKING:
    from pyengine.models import Model
    from pyengine.shortcuts.evaluation import Evaluation
    from pyengine.shortcuts.result import Shortcuts

TUNED = "tuned"


def evaluate(
    fit: Annotated[Path, typer.Argument(help="A run of `pyengine shortcuts fit`.")],
    model: Annotated[str, typer.Argument(help="The model that was fitted: name, folder, 'demo'.")],
    run: Annotated[Path, typer.Option("--out", help="Run directory to write.")],
    mappings: Annotated[
        str, typer.Option(help="id (logit lens), mat, affine, or some of them.")
    ] = "id,mat,affine",
    ranks: Annotated[
        str | None, typer.Option(help="Also mat and affine cut to these ranks, as 16,64.")
    ] = None,
    early_exit: Annotated[
        bool, typer.Option("--early-exit/--no-early-exit", help="Where every threshold would stop.")
    ] = True,
    substitution: Annotated[
        bool, typer.Option("--substitution", help="Also put maps in the place of sub-modules.")
    ] = False,
    transfer: Annotated[
        str | None,
        typer.Option(help="Mappings whose maps also read all other layers' states, as mat."),
    ] = None,
    tuned_lens: Annotated[
        Path | None, typer.Option(help="Folder of a tuned lens, scored beside the maps.")
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(help="Resamples of sentences for 95% intervals; 0: none.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Also draw: .png, .svg or .pdf.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Default: the fit's.", show_default=False)
    ] = None,
    device: given.DeviceOption = "auto",
    revision: given.RevisionOption = None,
    trust_remote_code: given.TrustOption = False,
    threads: given.ThreadsOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Score linear shortcuts: r², precision, surprisal, KL, calibration and early exits.

    Example: pyengine shortcuts evaluate runs/gpt2-maps gpt2 --out runs/gpt2-scores --plot maps.png
    """
    from pyengine.loading import load

    given.check_picture(plot)
    given.set_threads(threads)
    shortcuts = _open_fit(fit)
    loaded = load(
        model,
        dtype=dtype or shortcuts.manifest["numerics"]["dtype"],
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    settings = {
        "mappings": _names(mappings),
        "ranks": _ranks(ranks),
        "extra": _tuned(tuned_lens, loaded),
        "early_exit": early_exit,
        "substitution": substitution,
        "transfer": _names(transfer),
        "bootstrap": bootstrap,
        "seed": seed,
    }
    found = _evaluate(shortcuts, loaded, run, settings)
    if plot is not None:
        from pyengine.plots.shortcuts import plot_shortcuts

        plot_shortcuts(found, plot)
        err.print(f"wrote {plot}")
    if as_json:
        print(json.dumps({"run": str(run), **summary(found)}))
        return
    print_evaluation(found)
    err.print(f"tables: {run}/*.parquet")


def _open_fit(path: Path) -> "Shortcuts":
    from pyengine.run import open_run
    from pyengine.shortcuts.result import Shortcuts

    found = open_run(path)
    if not isinstance(found, Shortcuts):
        raise PyengineError(
            f"{path} holds {found.manifest['analysis']}; evaluate reads a run of "
            "`pyengine shortcuts fit`"
        )
    return found


def _evaluate(
    shortcuts: "Shortcuts", model: "Model", run: Path, settings: dict[str, Any]
) -> "Evaluation":
    from pyengine.shortcuts.evaluate import evaluate as score

    try:
        with progress() as advance:
            return score(shortcuts, model, out=run, on_progress=advance, **settings)
    except KeyboardInterrupt as stop:
        raise Interrupted("interrupted; run the same command again to start over") from stop


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _ranks(text: str | None) -> tuple[int, ...]:
    if not all(part.isdigit() for part in _names(text)):
        raise typer.BadParameter(f"{text!r} is not a list of ranks like 16,64")
    return tuple(int(part) for part in _names(text))


def _tuned(folder: Path | None, model: "Model") -> dict[str, Any]:
    if folder is None:
        return {}
    from pyengine.shortcuts.tuned_lens_files import load_tuned_lens

    return {TUNED: load_tuned_lens(folder, model)}
