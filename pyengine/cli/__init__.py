"""The command line: data on stdout or in files, progress and messages on stderr.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (and resumable).
"""

import os
import signal
import sys
from typing import Annotated, Any

import typer

from pyengine import __version__
from pyengine.cli import (
    agreement,
    bench,
    cache,
    heads,
    neurons,
    predictions,
    runs,
    shortcuts,
    show,
    triggers,
)
from pyengine.cli.corpus_options import with_ray_address
from pyengine.cli.schedule import speaks
from pyengine.errors import Interrupted, PyengineError

# Newer Typers carry a copy of click; this finds the class that both raise.
UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="pyengine",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Find what triggers each feed-forward neuron of a transformer, and what it writes."""
    if version:
        print(__version__)
        raise typer.Exit


app.command("demo")(triggers.demo)
app.command("triggers")(triggers.triggers)
app.command("agreement")(agreement.agreement)
app.command("predictions")(predictions.predictions)
app.command("cache")(cache.cache)
app.add_typer(neurons.app)
app.add_typer(shortcuts.app)
app.add_typer(heads.app)
app.command("show")(show.show)
app.command("merge")(runs.merge)
app.command("verify")(runs.verify)
app.command("compare")(runs.compare)
app.command("export")(runs.export)
app.command("bench")(bench.bench)


def main() -> None:
    """Run the command line; every expected failure ends in one line and its exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(args=with_ray_address(sys.argv[1:]), standalone_mode=False)
    except UsageError as error:
        if speaks():
            error.show()
        _leave(2)
    except Interrupted as stop:
        _say(str(stop))
        _leave(130)
    except (KeyboardInterrupt, typer.Abort):
        _leave(130)
    except (PyengineError, OSError) as error:
        _say(f"error: {' '.join(str(error).split())}")
        _leave(1)
    except MemoryError:
        _say("error: out of memory; try a smaller --batch-tokens, or --block-facts")
        _leave(1)
    _leave(code if isinstance(code, int) else 0)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    if speaks():
        print(line, file=sys.stderr, flush=True)


def _leave(code: int) -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # `pyengine show ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
