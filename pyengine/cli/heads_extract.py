"""`pyengine heads extract`: sentence vectors of every head, for all tasks in one pass."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli.display import err
from pyengine.cli.schedule import (
    Took,
    carry_out,
    check_whole,
    estimated,
    is_other_rank,
    say_need,
    say_next,
    schedule_of,
)

if TYPE_CHECKING:
    from pyengine.heads.bank import HeadBank
    from pyengine.scale.work import Work


def extract(
    model: given.ModelArgument,
    tasks: Annotated[
        list[str],
        typer.Argument(
            metavar="TASK...", help="SentEval's name (TREC, Depth, …), or a .txt, .tsv or .jsonl."
        ),
    ],
    run: given.RunOption,
    data: Annotated[
        Path | None, typer.Option(help="SentEval's data folder, for tasks by name.")
    ] = None,
    location: Annotated[
        list[str] | None,
        typer.Option(
            help="head, cross (T5), block, ffn or neurons; may be repeated; default: head, block.",
            show_default=False,
        ),
    ] = None,
    pooling: Annotated[
        str,
        typer.Option(
            help="auto, first, last, mean, or pad (causal models: token 0, put after the sentence, "
            "is read)."
        ),
    ] = "auto",
    save_dtype: Annotated[
        str, typer.Option(help="Of the vectors: float32, float16 or bfloat16.")
    ] = "float32",
    activation: given.ActivationOption = "fused",
    attention: Annotated[
        str | None,
        typer.Option(help="eager or sdpa; default the model's.", show_default=False),
    ] = None,
    dtype: given.ReadoutDtypeOption = "float32",
    device: given.DeviceOption = "auto",
    revision: given.RevisionOption = None,
    trust_remote_code: given.TrustOption = False,
    shard: given.ShardOption = "0/1",
    ray: given.RayOption = None,
    n_tasks: Annotated[
        int | None,
        typer.Option(
            "--tasks",
            help="Pieces to cut the work into, with --ray or torchrun; default by its size.",
        ),
    ] = None,
    allow_mixed: given.AllowMixedOption = False,
    dry_run: given.DryRunOption = False,
    batch_tokens: given.BatchTokensOption = None,
    block_tokens: given.BlockTokensOption = None,
    threads: given.ThreadsOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Keep sentence vectors of every head for some tasks, each distinct sentence read once.

    Example: pyengine heads extract gpt2 TREC SST2 Depth --data SentEval/data --out runs/bank
    """
    from pyengine.heads.extract import extract_heads
    from pyengine.heads.extract_settings import LOCATIONS
    from pyengine.heads.task_names import read_task
    from pyengine.heads.task_overlap import overlap_note
    from pyengine.scale.work import Work

    given.set_threads(threads)
    how = schedule_of(shard, ray, n_tasks, allow_mixed)
    settings: dict[str, Any] = {
        "locations": tuple(location or LOCATIONS),
        "pooling": pooling,
        "save_dtype": save_dtype,
        "activation": activation,
        "batch_tokens": batch_tokens,
        "block_tokens": block_tokens,
    }
    load_settings: dict[str, Any] = {
        "device": device,
        "dtype": dtype,
        "revision": revision,
        "attn_implementation": attention,
        "trust_remote_code": trust_remote_code,
    }
    read = [read_task(name, data) for name in tasks]
    for note in filter(None, map(overlap_note, read)):
        err.print(f"note: {note}")
    work = Work(extract_heads, model, read, (), settings, load_settings)
    if dry_run:
        check_whole(how)
        if not is_other_rank():
            _say_plan(work, run, as_json)
        return
    found, took = carry_out(work, run, how, "extracting", lambda _: {"on_need": say_need})
    _report(found, run, took)
    from pyengine.cli.heads_extract_view import bank_summary, print_bank

    if as_json:
        print(json.dumps({"run": str(run), **bank_summary(found)}))
        return
    print_bank(bank_summary(found))
    say_next(how, lambda: f"pyengine heads probe {run} --out RESULTS   or: pyengine show {run}")


def _say_plan(work: "Work", run: Path, as_json: bool) -> None:
    """Print what a run would read, the room that it would take, and how long that would be."""
    from pyengine.cli.estimate_view import figures, print_estimate
    from pyengine.cli.heads_extract_view import print_bank, summary
    from pyengine.heads.extract_settings import ExtractSettings

    model = work.load()
    settings = ExtractSettings.checked(model, **work.settings)
    work = replace(work, model=model).tokenized(model)
    sentences: Any = work.corpus
    need = settings.need(run, len(sentences), len(sentences))
    found = summary(sentences.tasks, sentences.describe(), settings.question())
    if not as_json:
        print_bank(found)
        say_need(need)
    need.check(run)
    estimate = estimated(work)
    if as_json:
        print(json.dumps(found | {"free": need.free} | figures(estimate)))
    else:
        print_estimate(estimate, as_json)


def _report(found: "HeadBank", run: Path, took: Took) -> None:
    n_tokens = found.record["n_tokens"]
    err.print(f"{found.n_sentences:,} sentences {took.text(n_tokens, 'tokens')} → {run}")
    if n := found.manifest["corpus"]["n_truncated"]:
        err.print(f"note: {n:,} sentences are longer than the model reads, and lost their ends")
    if n := found.record["n_overflow"]:
        err.print(
            f"warning: {n:,} numbers are too large for the dtype they are saved in, and infinite "
            "there; --save-dtype bfloat16 has the range of float32"
        )
    if n := found.record["n_nan"]:
        err.print(f"warning: {n:,} numbers are NaN: no probe can be trained on them")
    if not found.record["exact"]:
        err.print("warning: memory ran out and batches were halved; the bits may not repeat")
