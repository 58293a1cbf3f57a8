"""`pyengine heads tasks`: probing tasks made of a corpus."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli.display import Advance, columns, err, number, out, progress
from pyengine.errors import PyengineError

if TYPE_CHECKING:
    from pyengine.corpus import Corpus
    from pyengine.heads.task import Task

# Sentences between two looks at the progress.
EVERY = 1000


def tasks(
    corpus: given.CorpusArgument,
    folder: Annotated[Path, typer.Option("--out", help="Folder to write TASK.txt files to.")],
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="sentence_length, bigram_shift or word_content; may be repeated; default all.",
            show_default=False,
        ),
    ] = None,
    train: Annotated[int, typer.Option(help="Examples to train on.")] = 100_000,
    dev: Annotated[int, typer.Option(help="Examples to choose by.")] = 10_000,
    test: Annotated[int, typer.Option(help="Examples to test on.")] = 10_000,
    words: Annotated[int, typer.Option(help="Classes of word_content.")] = 1000,
    first_rank: Annotated[
        int, typer.Option(help="Rank of word_content's first word, 1 the most frequent.")
    ] = 2001,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    format: given.FormatOption = "auto",
    field: given.FieldOption = "text",
    config: given.ConfigOption = None,
    split: given.SplitOption = "train",
    max_units: given.MaxUnitsOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Make probing tasks of a corpus' sentences, in SentEval's format.

    Example: pyengine heads tasks wiki.train.tokens --out tasks --task sentence_length
    """
    from pyengine.checks import check_choice
    from pyengine.heads.generated_tasks import KINDS, generate_task
    from pyengine.heads.sentence_pool import SentencePool
    from pyengine.heads.senteval_probing import write_probing

    paths = {kind: folder / f"{kind}.txt" for kind in task or KINDS}
    for kind, path in paths.items():
        check_choice("task", kind, [*KINDS])
        if path.exists():
            raise PyengineError(f"{path} exists already; give a new folder")
    text = {"unit": "sentence", "max_units": max_units}
    source = given.read_corpus(corpus, format, field, config, split, text)
    with progress() as advance:
        pool = SentencePool.of(_sentences(source, advance))
    options = (seed, train, dev, test, words, first_rank)
    made = {kind: generate_task(kind, pool, *options) for kind in paths}
    for kind, path in paths.items():
        write_probing(made[kind], path)
    _report([_summary(made[kind], path) for kind, path in paths.items()], as_json)
    if not as_json:
        err.print(f"{len(pool.texts):,} usable sentences of {source.describe()} → {folder}")
        err.print(
            f"next: pyengine heads extract MODEL {' '.join(map(str, paths.values()))} --out RUN"
        )


def _sentences(corpus: "Corpus", advance: Advance) -> Iterator[str]:
    from pyengine.token_sources import TokenSource

    if isinstance(corpus.source, TokenSource):
        raise PyengineError("probing tasks are made of text, not of token ids")
    size = corpus.source.size()
    for i, part in enumerate(itertools.islice(corpus.parts(), corpus.max_units)):
        if i % EVERY == 0:
            advance("reading", part.done, size)
        yield part.text


def _summary(task: "Task", path: Path) -> dict[str, Any]:
    sizes = {part: len(examples) for part, examples in task.parts.items()}
    return {"task": task.name, "classes": task.n_classes, **sizes, "file": str(path)}


def _report(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows))
        return
    table = columns(*rows[0], left=("task", "file"))
    for row in rows:
        cells = row | {"file": Path(row["file"]).name}  # a long path would push the numbers out
        table.add_row(*(number(cell) if isinstance(cell, int) else cell for cell in cells.values()))
    out.print(table)
