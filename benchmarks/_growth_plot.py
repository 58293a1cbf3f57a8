"""The picture of growth: a panel per axis, both scales logarithmic."""

import tempfile
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from benchmarks._growth_axes import AXES, FORWARD, LAYERS, REDUCERS, SEARCH
from pyengine.plots.figure import BLUE, GREY, VERMILION, draw

SIZE = (8.4, 6.0)
LOOK: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "marker": "o"},
    {"color": VERMILION, "marker": "s", "linestyle": "--", "markersize": 3.5},
)
LINES = (SEARCH, FORWARD, LAYERS, REDUCERS)  # in order of LOOK
DRAWN_WITH = "3.11.2"  # version of matplotlib for docs/growth.svg; others draw other bytes
ROOM = 12  # above the highest point, for the legend


def plot(figures: dict[str, Any], path: str | Path) -> None:
    """Draw time against size in panels, two a row, with a grey line as steep as linear growth.

    The figures may come from a results file, whose keys are sorted: panels and lines have an order
    of their own.
    """
    shown = [(name, figures[name]) for name in AXES if name in figures]

    def paint(figure: Figure) -> None:
        panels = figure.subplots((len(shown) + 1) // 2, 2, squeeze=False).flatten()
        for axes, (name, found) in zip(panels, shown, strict=False):
            _panel(axes, AXES[name].label, found)
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        for axes in panels[::2]:
            axes.set_ylabel("CPU time, s")

    draw(path, SIZE, paint)


def picture(figures: dict[str, Any]) -> bytes:
    """Return the picture as an SVG file."""
    with tempfile.TemporaryDirectory() as folder:
        plot(figures, Path(folder) / "growth.svg")
        return (Path(folder) / "growth.svg").read_bytes()


def _panel(axes: Axes, title: str, found: dict[str, Any]) -> None:
    lines = [(name, found["lines"][name]) for name in LINES if name in found["lines"]]
    sizes, times = found["x"], [line["cpu_s"] for _, line in lines]
    for (name, line), look in zip(lines, LOOK, strict=True):
        label = f"{name}: slope {line['slope']:.2f}"
        axes.plot(sizes, line["cpu_s"], label=label, **look)
    guide = [times[0][-1] * (x / sizes[-1]) ** found["limit"] for x in sizes]
    label = "linear" if found["limit"] == 1 else f"slope {found['limit']}"
    axes.plot(sizes, guide, color=GREY, linewidth=1, linestyle=":", label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(min(map(min, times)) / 3, max(map(max, times)) * ROOM)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title(title)
    axes.legend(loc="upper left", title=found["why"], alignment="left", title_fontsize=8)


def _short(number: float, _position: int) -> str:
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if number >= factor and number != 1000:
            return f"{number / factor:.3g}{unit}"
    return f"{number:g}"
