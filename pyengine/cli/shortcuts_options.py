"""What the commands on a fit of shortcuts have in common."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyengine.cli.display import Advance, progress
from pyengine.errors import Interrupted, PyengineError

if TYPE_CHECKING:
    from pyengine.models import Model
    from pyengine.shortcuts.linear_map import LinearMap
    from pyengine.shortcuts.result import Shortcuts

FitArgument = Annotated[Path, typer.Argument(help="A run of `pyengine shortcuts fit`, or import.")]
FittedModelArgument = Annotated[
    str, typer.Argument(help="The model that was fitted: name, folder, 'demo'.")
]
FittedDtypeOption = Annotated[
    str | None, typer.Option(help="Default: the fit's.", show_default=False)
]
# The name of the maps of `--tuned-lens`, wherever a mapping is named.
TUNED = "tuned"
TunedLensOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="A tuned lens: the mapping `tuned`.", show_default=False),
]


def open_fit(path: Path) -> "Shortcuts":
    """Open a fit.

    Raises:
        PyengineError: if it is a run of another kind.
    """
    from pyengine.run import open_run
    from pyengine.shortcuts.result import Shortcuts

    found = open_run(path)
    if not isinstance(found, Shortcuts):
        raise PyengineError(
            f"{path} holds {found.manifest['analysis']}, not a run of `pyengine shortcuts fit`"
        )
    return found


def load_fitted(
    shortcuts: "Shortcuts",
    model: str,
    dtype: str | None,
    device: str,
    revision: str | None,
    trust_remote_code: bool,
) -> "Model":
    """Load the model of a fit, in the fit's dtype if none is given.

    Raises:
        PyengineError: if it is another.
    """
    from pyengine.loading import load

    found = load(
        model,
        dtype=dtype or shortcuts.manifest["numerics"]["dtype"],
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    shortcuts.check(found)
    return found


def check_named(names: Sequence[str], lens: Path | None) -> None:
    """Refuse to read through a tuned lens that was not given, before the work.

    Raises:
        typer.BadParameter: if `tuned` is named without its folder.
    """
    if TUNED in names and lens is None:
        raise typer.BadParameter(f"the mapping {TUNED} needs --tuned-lens FOLDER")


def read_lens(folder: Path | None, model: "Model") -> "dict[str, dict[int, LinearMap]]":
    """Read the maps of a tuned lens, by its name; none without a folder.

    Raises:
        PyengineError: if it is of another model, or cannot be read.
    """
    from pyengine.shortcuts.tuned_lens_files import load_tuned_lens

    return {} if folder is None else {TUNED: load_tuned_lens(folder, model)}


def check_new(folder: Path) -> None:
    """Refuse to write where something is, before the work.

    Raises:
        PyengineError: if the folder is a file, or not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PyengineError(f"{folder} is there already; give another --out")


@contextlib.contextmanager
def from_the_start() -> Iterator[Advance]:
    """Show the progress of what is not saved on the way; an interruption says so."""
    try:
        with progress() as advance:
            yield advance
    except KeyboardInterrupt as stop:
        raise Interrupted("interrupted; run the same command again to start over") from stop
