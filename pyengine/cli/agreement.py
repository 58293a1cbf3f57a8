"""`pyengine agreement`: what each value writes, beside what follows its key's triggers."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli.agreement_view import (
    most_confident,
    print_by_probability,
    print_confident,
    print_layers,
    summary,
)
from pyengine.cli.display import err, progress
from pyengine.errors import Interrupted, PyengineError

if TYPE_CHECKING:
    from pyengine.analyses.agreement_result import Agreement
    from pyengine.analyses.targets import Targets
    from pyengine.analyses.trigger_result import TriggerExamples
    from pyengine.models import Model

FINAL_NORM_HELP = (
    "Put values through the final norm first. Off: softmax(v·E), as in the paper. The authors' own "
    "two later tools disagree: lm-debugger leaves the norm out, ffn-values applies it."
)


def agreement(
    source: Annotated[
        Path,
        typer.Argument(
            help="A run of `pyengine triggers`, or ff-layers' text files (their folder) or .jsonl."
        ),
    ],
    run: Annotated[Path, typer.Option("--out", help="Run directory to write.")],
    model: Annotated[
        str | None, typer.Option(help="Model; default: the run's. Needed for ff-layers' files.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="next: the token after the firing one (the paper; default of causal models and "
            "T5's decoder). input: the firing token (the authors' script; default of encoders)."
        ),
    ] = None,
    final_norm: Annotated[
        bool, typer.Option("--final-norm/--no-final-norm", help=FINAL_NORM_HELP)
    ] = False,
    head: Annotated[
        str, typer.Option(help="full (the model's output head) or embedding (the bare one).")
    ] = "full",
    ranks: Annotated[
        int | None, typer.Option(help="Only each key's first N examples; default all.")
    ] = None,
    top: Annotated[int, typer.Option(help="Tokens to keep per value.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the shuffled baseline.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw Figures 4-6: .png, .svg or .pdf.")
    ] = None,
    tsv: Annotated[
        Path | None,
        typer.Option(help="Also write ff-layers' files, BASE.tsv and BASE_max_probs.json."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Default: the run's, else float32.", show_default=False)
    ] = None,
    device: given.DeviceOption = "auto",
    revision: given.RevisionOption = None,
    trust_remote_code: given.TrustOption = False,
    threads: given.ThreadsOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Compare what each value writes with what follows the inputs that trigger its key.

    Example: pyengine agreement runs/gpt2 --out runs/gpt2-agreement --plot agreement.png
    """
    given.check_picture(plot)
    given.set_threads(threads)
    triggers = _open_triggers(source)
    load_settings = {
        "dtype": dtype,
        "device": device,
        "revision": revision,
        "trust_remote_code": trust_remote_code,
    }
    loaded = _load(model, triggers, load_settings)
    targets = _targets(source, loaded) if triggers is None else triggers
    settings = {
        "target": target,
        "final_norm": "on" if final_norm else "off",
        "head": head,
        "ranks": ranks,
        "top": top,
        "seed": seed,
    }
    found = _compare(loaded, targets, run, settings)
    _write_more(found, plot, tsv)
    if as_json:
        print(json.dumps({"run": str(run), **summary(found)}))
        return
    print_layers(found)
    print_by_probability(found)
    print_confident(found)
    layer, dim = most_confident(found, 1)[0]
    err.print(
        f"next: pyengine show {run} --layer {layer} --dim {dim}"
        f"   or: pyengine export {run} --format parquet --out values.parquet"
    )


def _open_triggers(source: Path) -> "TriggerExamples | None":
    """Open a run of trigger examples; None for what may be ff-layers' files."""
    from pyengine.analyses.trigger_result import TriggerExamples
    from pyengine.manifest import MANIFEST
    from pyengine.run import open_run

    if not source.exists():
        raise PyengineError(f"{source} does not exist")
    if source.is_file() or not (source / MANIFEST).exists():
        return None
    found = open_run(source)
    if not isinstance(found, TriggerExamples):
        raise PyengineError(
            f"{source} holds {found.manifest['analysis']}; agreement reads a run of "
            "`pyengine triggers`"
        )
    return found


def _load(
    name: str | None, triggers: "TriggerExamples | None", settings: dict[str, Any]
) -> "Model":
    from pyengine.loading import load

    if triggers is None:
        if name is None:
            raise typer.BadParameter("ff-layers' files do not name their model; give --model")
        return load(name, **settings)
    made = triggers.manifest["model"]
    settings["dtype"] = settings["dtype"] or triggers.manifest["numerics"]["dtype"]
    if name is not None:
        return load(name, **settings)
    settings["revision"] = settings["revision"] or made["revision"]
    try:
        return load(made["name"], **settings)
    except PyengineError as error:
        raise PyengineError(f"{error}; --model says where the run's model is now") from error


def _targets(source: Path, model: "Model") -> "Targets":
    from pyengine.ff_layers_files import read_ff_layers

    return read_ff_layers(source, model)


def _compare(
    model: "Model", targets: "TriggerExamples | Targets", run: Path, settings: dict[str, Any]
) -> "Agreement":
    from pyengine.analyses.agreement import key_value_agreement

    try:
        with progress() as advance:
            return key_value_agreement(
                model,
                targets,
                out=run,
                on_progress=lambda done, total: advance("values", done, total),
                **settings,
            )
    except KeyboardInterrupt as stop:
        raise Interrupted("interrupted; run the same command again to start over") from stop


def _write_more(found: "Agreement", plot: Path | None, tsv: Path | None) -> None:
    if plot is not None:
        from pyengine.plots import plot_agreement

        plot_agreement(found, plot)
        err.print(f"wrote {plot}")
    if tsv is not None:
        from pyengine.export import export

        export(found, "tsv", tsv)
        err.print(f"wrote {tsv}")
