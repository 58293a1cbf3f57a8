"""The picture of growth: a panel per axis, both scales logarithmic."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from pyengine.plots.figure import BLUE, GREY, VERMILION, draw

SIZE = (8.4, 6.0)
LOOK: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "marker": "o"},
    {"color": VERMILION, "marker": "s", "linestyle": "--", "markersize": 3.5},
)
ROOM = 12  # above the highest point, for the legend


def plot(figures: dict[str, Any], path: str | Path) -> None:
    """Draw time against size in panels, two a row, with a grey line as steep as linear growth."""

    def paint(figure: Figure) -> None:
        panels = figure.subplots((len(figures) + 1) // 2, 2, squeeze=False).flatten()
        for axes, found in zip(panels, figures.values(), strict=False):
            _panel(axes, found)
        for axes in panels[len(figures) :]:
            axes.set_axis_off()
        for axes in panels[::2]:
            axes.set_ylabel("CPU time, s")

    draw(path, SIZE, paint)


def _panel(axes: Axes, found: dict[str, Any]) -> None:
    sizes, times = found["x"], [line["cpu_s"] for line in found["lines"].values()]
    for (name, line), look in zip(found["lines"].items(), LOOK, strict=True):
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
    axes.set_title(found["label"])
    axes.legend(loc="upper left", title=found["why"], alignment="left", title_fontsize=8)


def _short(number: float, _position: int) -> str:
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if number >= factor and number != 1000:
            return f"{number / factor:.3g}{unit}"
    return f"{number:g}"
