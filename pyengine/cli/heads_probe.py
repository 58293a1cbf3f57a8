"""`pyengine heads probe`: what each head of a bank knows of each task."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli import options
from pyengine.cli.display import err, progress
from pyengine.cli.heads_options import BankArgument, open_bank
from pyengine.cli.heads_results_view import print_bests
from pyengine.errors import Interrupted

if TYPE_CHECKING:
    from pyengine.heads.bank import HeadBank
    from pyengine.heads.probe_settings import ProbeSettings
    from pyengine.heads.results import HeadResults


def probe(
    bank: BankArgument,
    results: Annotated[
        Path, typer.Option("--out", help="Results folder; what it has is not done again.")
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(help="May be repeated; default all of the bank.", show_default=False),
    ] = None,
    location: Annotated[
        list[str] | None,
        typer.Option(
            help="head, cross, block, ffn or neurons; may be repeated; default all of the bank.",
            show_default=False,
        ),
    ] = None,
    layers: given.LayersOption = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Also all heads of each layer together.")
    ] = False,
    kind: Annotated[
        str,
        typer.Option(
            "--probe",
            help="logistic or mlp, trained as SentEval does; ridge or lda, in closed form: fast.",
        ),
    ] = "logistic",
    seed: Annotated[
        list[int] | None,
        typer.Option(help="May be repeated: one probe each; default 123.", show_default=False),
    ] = None,
    senteval: Annotated[
        bool,
        typer.Option(
            "--senteval",
            help="SentEval's settings (Adam, batch 64, 10 folds) in place of transformer_anatomy's "
            "(RMSprop, batch 256, 5 folds).",
        ),
    ] = False,
    hidden: Annotated[
        int | None, typer.Option(min=1, help="Hidden units of an mlp; default 50.")
    ] = None,
    dropout: Annotated[float, typer.Option(help="Of an mlp.")] = 0.0,
    control: Annotated[
        bool,
        typer.Option(
            "--control", help="Also a control task (random labels of first words): selectivity."
        ),
    ] = False,
    device: given.DeviceOption = "auto",
    shard: Annotated[
        str,
        typer.Option(help="i/n: every n-th trial, from the i-th on; all may share the folder."),
    ] = "0/1",
    ray: given.RayOption = None,
    threads: given.ThreadsOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Train and test a probe for every head, many side by side, and add the scores to a table.

    Example: pyengine heads probe runs/bank --out runs/results --task TREC
    """
    from pyengine.heads.probe_heads import probe_heads

    if ray is not None and shard != "0/1":
        raise typer.BadParameter("Ray takes shards itself: leave --shard out")
    if kind != "mlp" and (hidden is not None or dropout):
        raise typer.BadParameter("--hidden and --dropout are an mlp's: add --probe mlp")
    given.set_threads(threads)
    opened = open_bank(bank)
    asked: dict[str, Any] = {
        "probe": kind,
        "locations": location,
        "layers": options.indices(layers),
        "whole": whole,
        "seeds": seed or [123],
        "settings": _settings(senteval, kind, hidden, dropout),
        "control": control,
        "device": device,
        "shard": options.shard(shard),
        "ray": ray,
    }
    try:
        with progress() as advance:
            found = probe_heads(
                opened,
                task,
                out=results,
                on_progress=lambda done, total: advance("probing", done, total),
                **asked,
            )
    except KeyboardInterrupt as stop:
        raise Interrupted(
            f"interrupted; the probes done so far are in {results}: run the same command again to "
            "go on"
        ) from stop
    rows = _bests(found, opened, task or [*opened.tasks], asked)
    if as_json:
        print(json.dumps({"results": str(results), "bests": rows}))
        return
    print_bests(rows)
    with_probe = "" if kind == "logistic" else f" --probe {kind}"
    first = rows[0]["task"] if rows else "TASK"
    err.print(
        f"next: pyengine heads show {results}   or: pyengine heads concat {bank} {results} "
        f"--task {first}{with_probe}"
    )


def _settings(senteval: bool, kind: str, hidden: int | None, dropout: float) -> "ProbeSettings":
    from dataclasses import replace

    from pyengine.heads.probe_choice import HIDDEN, MLP
    from pyengine.heads.probe_settings import SENTEVAL, ProbeSettings

    base = SENTEVAL if senteval else ProbeSettings()
    return replace(base, hidden=hidden or HIDDEN, dropout=dropout) if kind == MLP else base


def _bests(
    results: "HeadResults", bank: "HeadBank", tasks: list[str], asked: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the bests among what was made with this bank, probe and settings."""
    from pyengine.heads.bests import bests
    from pyengine.heads.probe_choice import ProbeChoice

    names = ("probe", "settings", "seeds", "control", "device")
    choice = ProbeChoice.of(*(asked[name] for name in names))
    rows = []
    for name in tasks:
        kind = bank.task(name).kind
        made = {"probe": choice.probe_of(kind), "settings": choice.record(kind)}
        own = results.only(task=name, bank=bank.fingerprint, **made)
        rows += bests(own, own.tasks)  # of a task without a trial in this shard none
    return rows
