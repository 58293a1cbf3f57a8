"""`pyengine shortcuts generate`: text, each token from the first layer that is sure enough."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli import shortcuts_options as common
from pyengine.cli.display import bar, columns, err, out, percent

if TYPE_CHECKING:
    from pyengine.shortcuts.early_exit_generation import Generated
    from pyengine.shortcuts.result import Shortcuts

BAR = 12
MAT = "mat"


def generate(
    fit: common.FitArgument,
    model: common.FittedModelArgument,
    prompt: Annotated[str, typer.Argument(help="What to continue.")],
    early_exit: Annotated[
        float,
        typer.Option(
            metavar="λ",
            help="How sure a layer has to be: the lower, the earlier; 1.112 never stops early.",
        ),
    ] = 0.5,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to add, at most.")] = 20,
    mapping: Annotated[
        str | None,
        typer.Option(
            help="How layers are read: mat, affine, id, mat@16, or tuned; default mat, with "
            "--tuned-lens tuned.",
            show_default=False,
        ),
    ] = None,
    tuned_lens: common.TunedLensOption = None,
    mean_length: Annotated[
        float | None,
        typer.Option(
            help="N of the threshold 0.9 λ + 0.1 exp(-4 t / N); default the validation tokens'.",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also print the layer that each token is from.")
    ] = False,
    dtype: common.FittedDtypeOption = None,
    device: given.DeviceOption = "auto",
    revision: given.RevisionOption = None,
    trust_remote_code: given.TrustOption = False,
    threads: given.ThreadsOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Continue a prompt greedily, each token from the first layer that is sure: GPT-2, GPT-Neo.

    Example: pyengine shortcuts generate runs/maps gpt2 "The tower is in" --early-exit 0.7
    """
    named = mapping or (MAT if tuned_lens is None else common.TUNED)
    common.check_named([named], tuned_lens)
    if tuned_lens is not None and named != common.TUNED:
        raise typer.BadParameter(f"--tuned-lens is not read by --mapping {named}: leave one out")
    given.set_threads(threads)
    shortcuts = common.open_fit(fit)
    loaded = common.load_fitted(shortcuts, model, dtype, device, revision, trust_remote_code)
    lens = common.read_lens(tuned_lens, loaded)
    (found,) = shortcuts.generate(
        loaded,
        prompt,
        early_exit=early_exit,
        max_new_tokens=max_new_tokens,
        kind=lens.get(named, named),
        mean_length=mean_length,
    )
    if as_json:
        _print_json(found, shortcuts)
        return
    out.print(shortcuts.text.decode(found.tokens.tolist()), soft_wrap=True, markup=False)
    if layers:
        _print_layers(found, shortcuts)
    err.print(
        f"{len(found.layers)} tokens from layer {found.layers.double().mean():.1f} of "
        f"{shortcuts.n_layers()} on average; {percent(1 - found.n_computed / found.n_whole)} of "
        "the blocks' work saved: what later tokens need of earlier ones is computed after all"
    )


def _print_json(found: "Generated", shortcuts: "Shortcuts") -> None:
    said = {
        "text": shortcuts.text.decode(found.tokens.tolist()),
        "new_tokens": found.new_tokens.tolist(),
        "layers": found.layers.tolist(),
        "n_layers": shortcuts.n_layers(),
        "n_computed": found.n_computed,
        "n_whole": found.n_whole,
    }
    print(json.dumps(said))


def _print_layers(found: "Generated", shortcuts: "Shortcuts") -> None:
    table = columns("token", "layer", "", left=("token", ""))
    for token, layer in zip(found.new_tokens.tolist(), found.layers.tolist(), strict=True):
        drawn = bar(layer, shortcuts.n_layers(), BAR)
        table.add_row(repr(shortcuts.text.token(token)), str(layer), drawn)
    out.print(table)
