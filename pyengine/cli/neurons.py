"""`pyengine neurons`: which neurons hold a fact."""

import typer

from pyengine.cli.neurons_compare import compare, plot
from pyengine.cli.neurons_find import find
from pyengine.cli.neurons_pararel import pararel

app = typer.Typer(
    name="neurons",
    help="Knowledge neurons: which neurons hold a fact, and what the model says without them.\n\n"
    'Example: pyengine neurons find gpt2 --prompt "Paris is the capital of [MASK]" '
    "--target France",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
for command in (find, pararel, compare, plot):
    app.command(command.__name__)(command)
