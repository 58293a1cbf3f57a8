"""`pyengine shortcuts import`: published matrices as the maps of a model."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli import shortcuts_options as common
from pyengine.cli.display import err, out


def import_maps(
    path: Annotated[
        Path,
        typer.Argument(help="Folder of i_j.safetensors, or one .safetensors of tensors i_j."),
    ],
    model: Annotated[
        str, typer.Argument(help="The model that they were fitted on: name, folder, 'demo'.")
    ],
    run: Annotated[Path, typer.Option("--out", help="Run directory to write.")],
    stack: Annotated[
        str | None,
        typer.Option(help="encoder or decoder; default the decoder.", show_default=False),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(
            metavar="FIT",
            help="A fit of the same model: its validation tokens are what maps are scored on.",
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Default: FIT's, or float32.", show_default=False)
    ] = None,
    device: given.DeviceOption = "auto",
    revision: given.RevisionOption = None,
    trust_remote_code: given.TrustOption = False,
    as_json: given.SummaryOption = False,
) -> None:
    """Import published matrices i_j, converted to safetensors: pickles are refused.

    Example: pyengine shortcuts import gpt2-medium/ gpt2-medium --out runs/published
    """
    from pyengine.loading import load
    from pyengine.shortcuts.published import import_matrices

    common.check_new(run)
    fit = None if validation is None else common.open_fit(validation)
    fitted_dtype = "float32" if fit is None else fit.manifest["numerics"]["dtype"]
    loaded = load(
        model,
        dtype=dtype or fitted_dtype,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    found = import_matrices(loaded, path, stack=stack)
    if fit is not None:
        found = found.scored_on(fit)
    found.save(run)
    n_rows = 0 if fit is None else len(found.validation())
    if as_json:
        print(json.dumps({"run": str(run), "pairs": found.pairs(), "n_validation": n_rows}))
    else:
        out.print(str(found), soft_wrap=True, markup=False)
    if fit is None:
        err.print("note: without --validation FIT the maps can be used, but not evaluated")
        err.print(f"next: pyengine.open_run('{run}').apply(h, 0) in Python")
    else:
        err.print(f"{n_rows:,} validation tokens of {validation}")
        err.print(f"next: pyengine shortcuts evaluate {run} {model} --out RUN")
