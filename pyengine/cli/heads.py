"""`pyengine heads`: what each attention head knows."""

import typer

from pyengine.cli.heads_concat import concat
from pyengine.cli.heads_encode import encode
from pyengine.cli.heads_extract import extract
from pyengine.cli.heads_finetune import finetune
from pyengine.cli.heads_neurons import neurons
from pyengine.cli.heads_plot import plot
from pyengine.cli.heads_probe import probe
from pyengine.cli.heads_rank import rank
from pyengine.cli.heads_show import show
from pyengine.cli.heads_tasks import tasks

app = typer.Typer(
    name="heads",
    help="What each attention head knows: sentence vectors, probes, the best heads together.\n\n"
    "Example: pyengine heads extract bert-base-uncased TREC SST2 --data SentEval/data --out bank",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
for command in (tasks, extract, probe, rank, show, concat, encode, finetune, neurons, plot):
    app.command(command.__name__)(command)
