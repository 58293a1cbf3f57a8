"""`pyengine heads finetune`: a model trained on a task, from its last layer, best one or heads."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli.display import columns, err, out, progress
from pyengine.cli.heads_encode import parse_heads
from pyengine.cli.heads_options import WhereOption, open_results
from pyengine.cli.heads_results_view import read_from, score, spread
from pyengine.errors import Interrupted

if TYPE_CHECKING:
    import pyarrow as pa

N_SEEDS = 5
PARTS = ("dev", "test")


def finetune(
    model: given.ModelArgument,
    task: Annotated[
        str, typer.Argument(help="SentEval's name (MRPC, SST2, …), or a .txt, .tsv or .jsonl.")
    ],
    data: Annotated[
        Path | None, typer.Option(help="SentEval's data folder, for tasks by name.")
    ] = None,
    representation: Annotated[
        str,
        typer.Option(help="last: the last block's output; best: the best block's; heads."),
    ] = "last",
    results: Annotated[
        Path | None,
        typer.Option(help="Results of `pyengine heads probe`: the best layer, the best heads."),
    ] = None,
    where: WhereOption = None,
    layer: Annotated[int | None, typer.Option(min=0, help="The layer of `best`, by hand.")] = None,
    heads: Annotated[
        str | None, typer.Option(help="Heads by hand, as layer.head: 8.3,0.7.")
    ] = None,
    n: Annotated[
        int | None, typer.Option(min=1, help="How many heads; default as wide as the model.")
    ] = None,
    pooling: Annotated[str, typer.Option(help="auto, first, last, mean or pad.")] = "auto",
    epochs: Annotated[int, typer.Option(min=1, help="How often all rows are seen.")] = 3,
    lr: Annotated[float, typer.Option(help="Of AdamW's first step; falls linearly to 0.")] = 2e-5,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a step.")] = 32,
    max_length: Annotated[int, typer.Option(min=4, help="Tokens of a row.")] = 128,
    seed: Annotated[
        list[int] | None,
        typer.Option(
            help="May be repeated: one training each; default 0 to 4.", show_default=False
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Results folder; seeds that it has are not trained again."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="New folder for the model of the seed best on dev.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or tf32.")] = "float32",
    device: given.DeviceOption = "auto",
    revision: given.RevisionOption = None,
    trust_remote_code: given.TrustOption = False,
    threads: given.ThreadsOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Fine-tune a copy of a model on a task, once per seed.

    Example: pyengine heads finetune bert-base-uncased MRPC --data SentEval/data
    --representation heads --results runs/results --out runs/results
    """
    from pyengine.heads.finetune import finetune as train
    from pyengine.heads.finetune_training import FinetuneSettings
    from pyengine.heads.task_names import read_task
    from pyengine.loading import load

    if folder is None and save is None:
        raise typer.BadParameter("give --out for the scores, --save for the model, or both")
    given.set_threads(threads)
    how: dict[str, Any] = {
        "representation": representation,
        "results": None if results is None else open_results(results, where),
        "layer": layer,
        "heads": None if heads is None else parse_heads(heads),
        "n": n,
        "pooling": pooling,
        "seeds": seed or range(N_SEEDS),
        "settings": FinetuneSettings(lr, batch_size, epochs, max_length),
        "out": folder,
        "save": save,
    }
    read = read_task(task, data)
    loaded = load(
        model, dtype=dtype, device=device, revision=revision, trust_remote_code=trust_remote_code
    )
    try:
        with progress() as advance:
            found = train(
                loaded,
                read,
                **how,
                on_progress=lambda done, total: advance("training", done, total),
            )
    except KeyboardInterrupt as stop:
        raise Interrupted(
            "interrupted; seeds that were finished are in --out: run the same command again"
        ) from stop
    if as_json:
        print(json.dumps(_records(found)))
    else:
        print_seeds(found)
    if save is not None:
        err.print(f"model → {save}   next: pyengine heads extract {save} {task} --out RUN")


def print_seeds(found: "pa.Table") -> None:
    """Print a row per seed and metric, then means with standard deviations."""
    from pyengine.heads.finetune_table import finetune_means

    rows = found.to_pylist()
    table = columns("seed", "metric", "dev", "test", left=("metric",))
    for row in rows:
        scores = (score(row[part], row["metric"]) for part in PARTS)
        table.add_row(str(row["seed"]), row["metric"], *scores)
    for row in finetune_means(found).to_pylist():
        if row["n_seeds"] > 1:
            both = (spread(row[part], row[f"{part}_sd"], row["metric"]) for part in PARTS)
            table.add_row("mean", row["metric"], *both)
    out.print(table)
    first = rows[0]
    majority = "" if first["majority"] != first["majority"] else f", majority {first['majority']}"
    out.print(
        f"{first['task']} from {read_from(first)} of {first['model']}, width {first['width']}"
        f"{majority}",
        style="dim",
    )


def _records(found: "pa.Table") -> list[dict[str, Any]]:
    return [
        {name: None if value != value else value for name, value in row.items()}
        for row in found.to_pylist()
    ]
