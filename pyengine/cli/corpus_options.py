"""The options that every command over a model and a corpus has, declared once."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli.display import Advance, err, progress
from pyengine.errors import Interrupted

if TYPE_CHECKING:
    from pyengine.corpus import Corpus

ModelArgument = Annotated[str, typer.Argument(help="Hub name, local folder, or 'demo'.")]
CorpusArgument = Annotated[str, typer.Argument(help="File, or dataset name with --format dataset.")]
RunOption = Annotated[Path, typer.Option("--out", help="Run directory; an unfinished one resumes.")]

UnitOption = Annotated[str, typer.Option(help="line, sentence or window.")]
WindowOption = Annotated[int | None, typer.Option(help="Tokens per window.")]
MaxUnitsOption = Annotated[int | None, typer.Option(help="Only the first N units.")]
BosOption = Annotated[bool, typer.Option("--bos", help="Put BOS before each unit.")]
LongOption = Annotated[str, typer.Option(help="Over-long units: split or drop.")]
RawOption = Annotated[bool, typer.Option("--raw", help="Keep WikiText's tokenisation.")]
FormatOption = Annotated[str, typer.Option(help="auto, wikitext, text, jsonl, tokens or dataset.")]
FieldOption = Annotated[str, typer.Option(help="Text field of JSONL and datasets.")]
ConfigOption = Annotated[str | None, typer.Option(help="Dataset configuration.")]
SplitOption = Annotated[str, typer.Option(help="Dataset split.")]

ActivationOption = Annotated[
    str, typer.Option(help="fused (fast) or model (bit-equal to Hugging Face).")
]
LayersOption = Annotated[str | None, typer.Option(help="Layers, as 0-3,7; default all.")]
DtypeOption = Annotated[str, typer.Option(help="float32, tf32, bfloat16 or float16.")]
ReadoutDtypeOption = Annotated[
    str, typer.Option(help="float32, tf32, bfloat16, float16, or float64 to check numbers.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
RevisionOption = Annotated[str | None, typer.Option(help="Hub revision of the model.")]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that the model brings.")
]
ShardOption = Annotated[
    str, typer.Option(help="i/n: only the i-th of n parts, from 0; put together with merge.")
]
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Work on a Ray cluster: host:port, auto (the one this machine is in), local (one of "
        "this machine alone), or any (auto, else local), which --ray without a value means.",
    ),
]
TasksOption = Annotated[
    int | None,
    typer.Option(help="Tasks to cut the work into, with --ray or torchrun; default by its size."),
]
AllowMixedOption = Annotated[
    bool, typer.Option("--allow-mixed", help="With --ray: let workers differ in device, versions.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Estimate time and memory from a few blocks; no run.")
]
BatchTokensOption = Annotated[int | None, typer.Option(help="Tokens per batch.")]
BlockTokensOption = Annotated[int | None, typer.Option(help="Tokens per block.")]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads.")]
CacheOption = Annotated[Path | None, typer.Option(help="Where tokenised corpora are kept.")]
SummaryOption = Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")]


def with_ray_address(arguments: Sequence[str]) -> list[str]:
    """Return a command line where `--ray` has its value, `any` if none follows.

    typer knows no option whose value may be left out.
    """
    found = list[str]()
    for one, after in itertools.zip_longest(arguments, arguments[1:], fillvalue="-"):
        found += [one, "any"] if one == "--ray" and after.startswith("-") else [one]
    return found


def read_corpus(
    source: str, format: str, field: str, config: str | None, split: str, text: dict[str, Any]
) -> "Corpus":
    """Describe the corpus; token files have units of their own.

    Args:
        source: a file, or a dataset's name.
        format: as the option says.
        field: text field of JSONL and datasets.
        config: dataset configuration.
        split: dataset split.
        text: how text is cut into units: `unit`, `window`, `max_units`, `long`, `detokenize`.
    """
    from pyengine.corpus import Corpus

    if format == "dataset":
        return Corpus.from_dataset(source, config, split=split, field=field, **text)
    token_file = Path(source.removesuffix(".gz")).suffix in (".npy", ".safetensors")
    if format == "tokens" or (format == "auto" and token_file):
        return Corpus.from_path(source, format="tokens", **text | {"unit": None})
    return Corpus.from_path(source, format=format, field=field, **text)


def set_threads(threads: int | None) -> None:
    """Let torch use this many CPU threads; None leaves the number alone.

    Raises:
        typer.BadParameter: if it is below 1.
    """
    import torch

    if threads is None:
        return
    if threads < 1:
        raise typer.BadParameter(f"threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)


@contextlib.contextmanager
def resumable(run: Path) -> Iterator[Advance]:
    """Show the progress of a run that saves itself; an interruption says how to resume it."""
    try:
        with progress() as advance:
            yield advance
    except KeyboardInterrupt as stop:
        from pyengine.manifest import MANIFEST

        saved = f"what was done is saved in {run}: run the same command again to resume"
        if not (run / MANIFEST).exists():
            saved = f"nothing was saved in {run} yet: run the same command again to start over"
        raise Interrupted(f"interrupted; {saved}") from stop


def check_picture(path: Path | None) -> None:
    """Refuse a picture format that does not exist before the work, not after it."""
    if path is not None:
        from pyengine.plots.figure import format_of

        format_of(path)


def report_run(manifest: dict[str, Any], record: dict[str, Any]) -> None:
    """Say on stderr how many units were too long for the model, and whether memory ran out."""
    for name in ("split", "dropped"):
        if count := manifest["corpus"][f"{name}_units"]:
            err.print(f"note: {count:,} over-long units were {name}")
    if not record["exact"]:
        err.print("warning: memory ran out and batches were halved; the bits may not repeat")
