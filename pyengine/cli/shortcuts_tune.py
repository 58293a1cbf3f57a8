"""`pyengine shortcuts tune`: a tuned lens, trained beside the maps of a fit."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli import shortcuts_options as common
from pyengine.cli.display import columns, err, number, out

if TYPE_CHECKING:
    from pyengine.models import Model
    from pyengine.shortcuts.linear_map import LinearMap
    from pyengine.shortcuts.result import Shortcuts

# What the lens is compared with, on the validation rows.
BESIDE = ("id", "affine")


def tune(
    fit: Annotated[Path, typer.Argument(help="A run of `pyengine shortcuts fit`.")],
    model: common.FittedModelArgument,
    corpus: Annotated[str, typer.Argument(help="The corpus that was fitted on, read as then.")],
    lens: Annotated[Path, typer.Option("--out", help="Folder to write the lens to.")],
    optimizer: Annotated[
        str, typer.Option(help="adam, or sgd with Nesterov's momentum, as published lenses.")
    ] = "adam",
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of the first step; it falls linearly to 0. Default 0.001, of sgd "
            "0.1.",
            show_default=False,
        ),
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(
            help="Draws maps to the identity; default 0, of sgd 0.001.", show_default=False
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="How often every row is seen.")] = 50,
    batch_rows: Annotated[int, typer.Option(help="Rows of a step.")] = 256,
    clip: Annotated[float, typer.Option(help="Largest norm of a layer's gradient.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the order of the rows.")] = 0,
    unit: given.UnitOption = "sentence",
    window: given.WindowOption = None,
    max_units: given.MaxUnitsOption = None,
    long: given.LongOption = "split",
    raw: given.RawOption = False,
    format: given.FormatOption = "auto",
    field: given.FieldOption = "text",
    config: given.ConfigOption = None,
    split: given.SplitOption = "train",
    dtype: common.FittedDtypeOption = None,
    device: given.DeviceOption = "auto",
    revision: given.RevisionOption = None,
    trust_remote_code: given.TrustOption = False,
    threads: given.ThreadsOption = None,
    cache: given.CacheOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Train a tuned lens on the rows of a fit: affine maps that bring KL down, not squares.

    Example: pyengine shortcuts tune runs/maps gpt2 wiki.train.tokens --out runs/lens
    """
    from pyengine.shortcuts.translators import Training
    from pyengine.shortcuts.tuned_lens import train_tuned_lens
    from pyengine.shortcuts.tuned_lens_files import save_tuned_lens

    training = Training(optimizer, lr, weight_decay, epochs, batch_rows, clip, seed)
    common.check_new(lens)
    text = {
        "unit": unit,
        "window": window,
        "max_units": max_units,
        "long": long,
        "detokenize": not raw,
    }
    units = given.read_corpus(corpus, format, field, config, split, text)
    given.set_threads(threads)
    shortcuts = common.open_fit(fit)
    loaded = common.load_fitted(shortcuts, model, dtype, device, revision, trust_remote_code)
    with common.from_the_start() as advance:
        maps = train_tuned_lens(
            shortcuts,
            loaded,
            units,
            training,
            cache_dir=cache,
            on_progress=lambda done, total: advance("training", done, total),
        )
    save_tuned_lens(lens, maps, loaded, stack=shortcuts.stacks[-1])
    rows = divergences(shortcuts, loaded, maps)
    n = len(shortcuts.validation())
    if as_json:
        print(json.dumps({"lens": str(lens), "n_samples": n, "kl": rows}))
    else:
        print_divergences(rows, n)
    err.print(f"→ {lens}")
    err.print(f"next: pyengine shortcuts evaluate {fit} {model} --tuned-lens {lens} --out RUN")


def divergences(
    shortcuts: "Shortcuts", model: "Model", maps: "dict[int, LinearMap]"
) -> list[dict[str, Any]]:
    """Return KL(model || mapped) on the validation rows, a row per layer, by mapping."""
    scores = shortcuts.evaluate(
        model, mappings=BESIDE, extra={common.TUNED: maps}, early_exit=False, bootstrap=0
    )
    assert scores.layers is not None  # a lens is of a stack with an output head
    rows: dict[int, dict[str, Any]] = {layer: {"layer": layer} for layer in maps}
    for row in scores.layers.to_pylist():
        if row["layer"] in rows:
            rows[row["layer"]][row["mapping"]] = row["kl"]
    return list(rows.values())


def print_divergences(rows: list[dict[str, Any]], n: int) -> None:
    """Print them, nats."""
    out.print(f"KL(model || mapped) on {n:,} validation tokens, nats")
    names = [name for name in rows[0] if name != "layer"]
    table = columns("layer", *names)
    for row in rows:
        table.add_row(str(row["layer"]), *(number(row[name], 3) for name in names))
    out.print(table)
