"""What the commands on a bank of sentence vectors, and on results of probes, have in common."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyengine.errors import PyengineError

if TYPE_CHECKING:
    from pyengine.heads.bank import HeadBank
    from pyengine.heads.results import HeadResults

BankArgument = Annotated[Path, typer.Argument(help="A run of `pyengine heads extract`.")]
ResultsArgument = Annotated[Path, typer.Argument(help="A folder of `pyengine heads probe`.")]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="COLUMN=VALUE",
        help="Only such results, as probe=ridge or model=gpt2 (the value, or how it begins); "
        "may be repeated.",
    ),
]


def open_bank(path: Path) -> "HeadBank":
    """Open a bank.

    Raises:
        PyengineError: if it is a run of another kind.
    """
    from pyengine.heads.bank import HeadBank
    from pyengine.run import open_run

    found = open_run(path)
    if not isinstance(found, HeadBank):
        raise PyengineError(
            f"{path} holds {found.manifest['analysis']}, not a run of `pyengine heads extract`"
        )
    return found


def open_results(path: Path, where: list[str] | None) -> "HeadResults":
    """Open a folder of results, and keep those asked for.

    Raises:
        typer.BadParameter: for what is not COLUMN=VALUE.
        PyengineError: where there are no such results.
    """
    from pyengine.heads.results import HeadResults

    found = HeadResults.open(path)
    for one in where or ():
        name, equals, value = one.partition("=")
        if not equals:
            raise typer.BadParameter(f"{one!r} is not COLUMN=VALUE, as probe=ridge")
        found = found.where(**{name: _whole_value(found, name, value)})
    return found


def _whole_value(results: "HeadResults", name: str, begin: str) -> object:
    """Return the only value of a column that is written so, or begins so; else what was given."""
    known = results.known(name)
    exact = [value for value in known if str(value) == begin]
    begun = exact or [value for value in known if str(value).startswith(begin)]
    return begun[0] if len(begun) == 1 else begin
