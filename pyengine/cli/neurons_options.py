"""What the commands over knowledge neurons share: options, loading, warnings in one line."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli.display import err

if TYPE_CHECKING:
    from pyengine.models import Model

MethodOption = Annotated[
    str,
    typer.Option(
        help="Integrated gradients: adaptive (nodes until the error is small), package, left, "
        "right, midpoint, trapezoid or gauss_legendre. Cheap stand-ins: max_activation, "
        "gradient_x_activation."
    ),
]
StepsOption = Annotated[int, typer.Option(help="Nodes of the rules that have a fixed number.")]
AdaptiveOption = Annotated[
    float | None,
    typer.Option(
        help="Keep neurons above this share of the prompt's largest score; default 0.3.",
        show_default=False,
    ),
]
ThresholdOption = Annotated[float | None, typer.Option(help="Or above this score.")]
PercentileOption = Annotated[float | None, typer.Option(help="Or above this percentile, 0 to 100.")]
ShareOption = Annotated[
    str,
    typer.Option(
        help="Keep neurons found in more than this share of a fact's prompts; auto: tuned as "
        "Dai et al.'s code does."
    ),
]
ObjectiveOption = Annotated[
    str, typer.Option(help="What is attributed: probability, log_probability or logit.")
]
ValueOption = Annotated[
    str, typer.Option(help="post: activations, what values are multiplied with; or pre.")
]
FactorOption = Annotated[float, typer.Option(help="Enhancing multiplies activations by this.")]


def share_of(text: str) -> float | str:
    """Parse `--share`.

    Raises:
        typer.BadParameter: if it is neither a number nor `auto`.
    """
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is neither a share like 0.5 nor 'auto'") from error


def load_model(name: str, **settings: Any) -> "Model":
    """Load a model as the options say."""
    from pyengine.loading import load

    return load(name, **settings)


@contextlib.contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Print each different warning as one line on stderr, without the place in the code."""
    seen: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        line = " ".join(str(message).split())
        if line not in seen:
            seen.add(line)
            err.print(f"warning: {line}", markup=False)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
