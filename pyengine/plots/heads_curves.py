"""Curves of heads: the n best together, depth by kind of task, few heads or many."""

from collections.abc import Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from pyengine.heads.concat_table import curve
from pyengine.heads.places import BLOCK, HEAD
from pyengine.heads.profiles import (
    GROUPS,
    Profile,
    by_group,
    depth_profiles,
    focus,
    share_within,
)
from pyengine.heads.results_table import MAIN_METRICS
from pyengine.heads.summary import n_best
from pyengine.plots import figure as common
from pyengine.plots.figure import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, VERMILION
from pyengine.plots.heads_scores import UNITS, TaskScores, layer_label
from pyengine.plots.shortcuts_curves import PURPLE

if TYPE_CHECKING:
    from pyengine.heads.results import HeadResults

# Numbers of heads that an axis may show.
COUNTS = (1, 2, 3, 6, 12, 24, 48, 96, 192, 384, 768, 1536)
FARTHEST = 20.0  # points below the best head
_DASHES = ("-", "--", "-.", ":", (0, (7, 2)))
_OF_GROUP = dict(zip(GROUPS, (ORANGE, BLUE, VERMILION), strict=True))
_OF_OTHERS = (GREEN, PURPLE, SKY, BLACK)


class Look(NamedTuple):
    """How a task, or a group of them, is drawn everywhere."""

    color: str
    linestyle: Any


def looks(tasks: Sequence[str]) -> dict[str, Look]:
    """Give tasks colours by group, and dashes inside it; in the order of groups."""
    found: dict[str, Look] = {}
    others = (Look(color, dashes) for dashes, color in product(_DASHES, _OF_OTHERS))
    for group, of_group in by_group(tasks).items():
        if group in _OF_GROUP:
            for task, dashes in zip(of_group, cycle(_DASHES), strict=False):
                found[task] = Look(_OF_GROUP[group], dashes)
        else:
            found[group] = next(others, Look(GREY, ":"))
    return found


def draw_n_curve(axes: Axes, results: "HeadResults", task: str) -> None:
    """Draw the score of the n best heads together, on dev and test, against n.

    Lines through seeds' means, with a band from the lowest to the highest seed. Beside them, as
    horizontal lines, the test scores of the last layer, of the best layer (where layers were
    probed as a whole) and of the best head, both chosen on dev. A vertical line stands at the
    paper's n: as many heads as are as wide as the model.
    """
    rows = results.concats.filter(pc.field("location") == HEAD)
    points = curve(rows, task)
    n = [point.n for point in points]
    parts = (("test", BLUE, "-", "o"), ("dev", ORANGE, "--", "^"))
    for part, color, dashes, marker in parts:
        look: dict[str, Any] = {"color": color, "linestyle": dashes}
        look["marker"] = marker if len(n) <= common.MOST_MARKERS else ""
        mean = [getattr(point, part) for point in points]
        axes.plot(n, mean, label=f"n best heads, {part}", **look)
        low, high = _ends_over_seeds(rows, task, part)
        axes.fill_between(n, low, high, color=color, alpha=0.2, linewidth=0)
    single = _singles(results, task)
    for (name, value), color in zip(single.items(), (GREEN, PURPLE, VERMILION), strict=False):
        look = {"color": color, "linestyle": (0, (1, 1.2) if name == "best head" else (6, 2))}
        axes.axhline(value, linewidth=1.3, label=f"{name}, test", **look)
    if (wide := n_best(results.where(task=task).table)) is not None:
        label = "as wide as the model"
        axes.axvline(wide, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)), label=label)
    axes.set_xscale("log")
    shown = [count for count in COUNTS if count <= n[-1]]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(common.COUNT_TICKS)
    axes.set_xlabel("n, heads")
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_ylabel(UNITS[results.metric(task)])


def _ends_over_seeds(rows: pa.Table, task: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest of a part's scores at each n."""
    of_task = (pc.field("task") == task) & pc.is_in(pc.field("metric"), pa.array(MAIN_METRICS))
    grouped = rows.filter(of_task).group_by("n").aggregate([(part, "min"), (part, "max")])
    grouped = grouped.sort_by("n")
    return grouped[f"{part}_min"].to_numpy(), grouped[f"{part}_max"].to_numpy()


def _singles(results: "HeadResults", task: str) -> dict[str, float]:
    """Return test scores to compare with: of layers, where they were probed, and the best head."""
    found = {}
    if results.has(task, BLOCK, whole=True) or results.has(task, HEAD, whole=True):
        found["last layer"] = results.last_layer(task).test
        found["best layer"] = results.best_layer(task).test
    found["best head"] = float(results.scores(task, part="test")[results.ranked(task, 1)[0]])
    return found


def draw_depth(axes: Axes, profiles: dict[str, Profile], by: str, decoder: int | None) -> None:
    """Draw at which depth groups of tasks are solved: the mean of their profiles, 0 to 1."""
    styles = group_looks([*profiles])
    for group, profile in profiles.items():
        heights: np.ndarray = getattr(profile, by)
        look: dict[str, Any] = {**styles[group]._asdict(), "marker": "o" * (group in GROUPS)}
        if len(heights) > common.MOST_MARKERS:
            look["marker"] = ""
        label = f"{group} ({', '.join(profile.tasks)})" if group in GROUPS else group
        axes.plot(np.arange(len(heights)), heights, label=label, **look)
    if decoder is not None:
        axes.axvline(decoder - 0.5, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.set_xlabel(layer_label(decoder))
    axes.set_ylim(-0.03, 1.03)
    axes.grid(axis="x", visible=False)


def group_looks(groups: Sequence[str]) -> dict[str, Look]:
    """Give groups of tasks their colours; tasks of no group what `looks` gives them."""
    styles = looks([group for group in groups if group not in GROUPS])
    return {g: Look(_OF_GROUP[g], "-") if g in GROUPS else styles[g] for g in groups}


def profiles_of(scores: Sequence[TaskScores]) -> dict[str, Profile]:
    """Return the depth profiles of some tasks' heads."""
    return depth_profiles({found.task: found.values for found in scores})


def draw_gain(axes: Axes, scores: Sequence[TaskScores]) -> None:
    """Draw how the gain over the largest class is spread over heads; see `profiles.focus`."""
    styles = looks([found.task for found in scores])
    spread = {found.task: focus(found.values, found.baseline) for found in scores}
    for task, look in styles.items():
        gini = "no gain" if np.isnan(spread[task].gini) else f"{spread[task].gini:.2f}"
        axes.plot(spread[task].heads, spread[task].gain, label=f"{task}  {gini}", **look._asdict())
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, label="_")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(common.PERCENT_TICKS)
    axes.set_xlabel("share of the heads, the best first")
    axes.set_ylabel("share of all heads' gain")


def draw_within(axes: Axes, scores: Sequence[TaskScores]) -> None:
    """Draw which share of the heads is at most so many points below the best one."""
    distances = np.linspace(0, FARTHEST, 401)
    of_task = {found.task: found for found in scores}
    for task, look in looks([*of_task]).items():
        found = of_task[task]
        shares = share_within(found.values, distances / found.points)
        axes.plot(distances, shares, label="_", drawstyle="steps-post", **look._asdict())
    axes.set_xlim(0, FARTHEST)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(common.PERCENT_TICKS)
    axes.set_xlabel("points below the best head (percent, hundredths of r)")
    axes.set_ylabel("share of the heads")
