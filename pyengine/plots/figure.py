"""What all pictures share: files, colours, and an axis of layers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from pyengine.errors import PyengineError
from pyengine.files import atomic_write
from pyengine.stacks import split_by_stack

# No date, host or version: the same result gives the same bytes.
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}

# Okabe and Ito's palette: told apart with any kind of colour vision, and by line style in grey.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, GREY, BLACK = "#56B4E9", "#767676", "#222222"

# Under numbers, so that lines do not cross them.
_PAPER = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6}

# Between the last layer of an encoder and the first of a decoder, in layers.
GAP = 1.0
MOST_TICKS = 13
MOST_NUMBERS = 8
MOST_MARKERS = 24

_LOOK: Any = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "savefig.dpi": 150,
    "svg.hashsalt": "pyengine",
    "text.parse_math": False,
    "pdf.fonttype": 42,
}


def format_of(path: Path) -> str:
    """Return the picture format that a file's ending names.

    Raises:
        PyengineError: if it names none.
    """
    ending = path.suffix.lower().removeprefix(".")
    if ending not in METADATA:
        known = ", ".join(f".{name}" for name in METADATA)
        raise PyengineError(f"{path} does not end in a picture format; known are: {known}")
    return ending


def draw(path: str | Path, size: tuple[float, float], paint: Callable[[Figure], None]) -> None:
    """Create a picture of `size` inches by calling `paint(figure)`.

    matplotlib's global settings are neither read nor left changed.

    Raises:
        PyengineError: for an unknown ending, or a path that cannot be written.
    """
    path = Path(path)
    kind = format_of(path)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_LOOK)
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)

        def write(temporary: Path) -> None:
            figure.savefig(temporary, format=kind, metadata=METADATA[kind])

        atomic_write(path, write)


class LayerAxis:
    """Places layers on a horizontal axis, with a gap between an encoder and a decoder."""

    def __init__(self, manifest: Mapping[str, Any], layers: Sequence[int]) -> None:
        self.stacks = split_by_stack(manifest, layers)
        self.layers = list(layers)
        gaps = [index * GAP for index, stack in enumerate(self.stacks.values()) for _ in stack]
        self.x = np.asarray(self.layers) + np.array(gaps)

    @property
    def crowded(self) -> bool:
        """Whether there are too many layers to write a number at each."""
        return len(self.layers) > MOST_NUMBERS

    def parts(self) -> list[slice]:
        """Return the stacks as slices of the layers: lines are not drawn across."""
        ends = np.cumsum([len(stack) for stack in self.stacks.values()]).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def line(self, axes: Axes, y: Any, label: str, color: str, **style: Any) -> None:
        """Draw one line per stack; a legend shows it once."""
        style = {"marker": "o"} | style
        if len(self.layers) > MOST_MARKERS:
            style["marker"] = ""
        for part in self.parts():
            axes.plot(self.x[part], np.asarray(y)[part], color=color, label=label, **style)
            label = "_"

    def band(self, axes: Axes, quartiles: Any, label: str, color: str, **style: Any) -> None:
        """Draw the middle of [layers, 3] as a line and the outer two as a band around it."""
        self.line(axes, quartiles[:, 1], label, color, **style)
        for part in self.parts():
            low, high = quartiles[part, 0], quartiles[part, 2]
            axes.fill_between(self.x[part], low, high, color=color, alpha=0.15, linewidth=0)

    def numbers(self, axes: Axes, values: Any, color: str) -> None:
        """Write shares at their points; of many layers, only the highest."""
        known = np.flatnonzero(~np.isnan(values))
        if self.crowded and known.size:
            known = known[[int(np.argmax(values[known]))]]
        for index in known:
            annotate(axes, self.x[index], values[index], percent(float(values[index])), color)

    def dress(self, axes: Axes) -> None:
        """Label the axis: every layer, or every n-th, and the names of the stacks."""
        step = next(s for s in (1, 2, 4, 5, 8, 10, 20, 50, 100) if self._ticks(s) <= MOST_TICKS)
        ticks = [
            (x, layer)
            for part in self.parts()
            for x, layer in list(zip(self.x[part], self.layers[part], strict=True))[::step]
        ]
        axes.set_xticks([x for x, _ in ticks], [str(layer) for _, layer in ticks])
        axes.set_xlim(self.x[0] - 0.6, self.x[-1] + 0.6)
        axes.set_xlabel("layer")
        axes.grid(axis="x", visible=False)
        if len(self.stacks) < 2:
            return
        axes.set_xlabel("layer  (" + ", then ".join(self.stacks) + ")")
        for before, after in zip(self.parts(), self.parts()[1:], strict=False):
            middle = (self.x[before][-1] + self.x[after][0]) / 2
            axes.axvline(middle, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))

    def _ticks(self, step: int) -> int:
        return sum(-(-len(stack) // step) for stack in self.stacks.values())


def title(figure: Figure, text: str) -> None:
    """Put a title over the panels."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=11.5, fontweight="bold")


def legend_under(axes: Axes, columns: int = 1, drop: float = -0.15) -> None:
    """Put the legend below the axis, where it hides no data."""
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, drop), ncols=columns, borderaxespad=0)


def from_zero(axes: Axes, top: float | None = None) -> None:
    """Start an axis of shares at zero, leave room for numbers on top, and place the legend."""
    highest = axes.dataLim.y1 if top is None else top
    axes.set_ylim(0, max(highest, 1e-6) * 1.1)
    legend_under(axes)


def shortened(text: str, width: int = 44) -> str:
    """Keep the end of a long path in view."""
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}"


def annotate(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    """Write a number above a point."""
    style: dict[str, Any] = {"ha": "center", "fontsize": 7.5, "color": color, "bbox": _PAPER}
    axes.annotate(text, (x, y), (0, 7), textcoords="offset points", **style)


def number_in(axes: Axes, x: float, y: float, text: str) -> None:
    """Write a number inside a bar."""
    style: dict[str, Any] = {"fontsize": 7, "color": BLACK, "bbox": _PAPER}
    axes.text(x, y, text, ha="center", va="center", **style)


def plain(value: float, digits: int = 8) -> str:
    """Write a number without an exponent and without trailing zeros."""
    return np.format_float_positional(value, precision=digits, fractional=False, trim="-")


PERCENT_TICKS = FuncFormatter(lambda value, _: f"{plain(100 * value)} %")
PLAIN_TICKS = FuncFormatter(lambda value, _: plain(value))
COUNT_TICKS = FuncFormatter(lambda value, _: f"{value:,.0f}")


def percent(value: float) -> str:
    """Write 0.0123 as `1.2 %`: two digits that count, but none below a thousandth of a percent."""
    if 0 < value < 1e-5:
        return "< 0.001 %"
    return f"{plain(100 * value, 2) if value < 0.995 else round(100 * value)} %"


def quartiles(values: np.ndarray) -> np.ndarray:
    """Return the quartiles, [3], leaving out NaN; NaN where there is nothing else."""
    known = values[~np.isnan(values)]
    return np.quantile(known, (0.25, 0.5, 0.75)) if known.size else np.full(3, np.nan)


def plain_log(axes: Axes, ticks: FuncFormatter) -> None:
    """Make the y axis logarithmic, without mathematical notation at its ticks."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ticks)
    axes.yaxis.set_minor_formatter(NullFormatter())


def spans_decades(values: Any) -> bool:
    """Say whether the positive ones among the values differ by more than a factor of 30."""
    array = np.asarray(values, dtype=float)
    positive = array[array > 0]
    return positive.size > 1 and positive.max() / positive.min() > 30
