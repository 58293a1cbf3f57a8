"""Pictures of what heads know: heat maps, n-curves, depth, focus, how alike tasks are."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyengine.checks import check_choice
from pyengine.errors import PyengineError
from pyengine.heads.places import HEAD
from pyengine.heads.profiles import Profile, by_group, similarity
from pyengine.plots import figure as common
from pyengine.plots.figure import GREY, METADATA
from pyengine.plots.heads_curves import (
    draw_depth,
    draw_gain,
    draw_n_curve,
    draw_within,
    profiles_of,
)
from pyengine.plots.heads_grid import plot_head_scores
from pyengine.plots.heads_scores import TaskScores, decoder_start, model_name

if TYPE_CHECKING:
    from pyengine.heads.results import HeadResults

ACROSS = 3
PANEL = (3.7, 2.7)  # inches
CELL = 0.46  # inches
MOST_WRITTEN = 26  # tasks whose correlations have room for their numbers

OnDrawn = Callable[[Path], None]


def plot_heads(
    results: "HeadResults",
    folder: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    format: str = "png",
    location: str = "head",
    part: str = "dev",
    on_drawn: OnDrawn | None = None,
) -> list[Path]:
    """Draw everything that results of heads show, one file each.

    `scores-TASK` for each task; `n-curves` where heads were concatenated; `depth` where layers
    differ; `focus`; `similarity` of two tasks or more.

    Args:
        results: of one model, bank and probe.
        folder: made if it is not there; files of the same names are replaced.
        tasks: their names; None: all whose heads were probed.
        format: `png`, `svg` or `pdf`. The same results give the same bytes.
        location: `head`, or `cross`.
        part: whose scores: `dev`, or `test`.
        on_drawn: called with each file.

    Returns:
        The files.

    Raises:
        PyengineError: for a task without results, results that were not all made alike, an unknown
            format, or a folder that cannot be written.
    """
    check_choice("format", format, tuple(METADATA))
    names = [*dict.fromkeys(tasks or _probed(results, location))]
    scores = [TaskScores.of(results, task, location, part) for task in names]
    curved = _concatenated(results) if location == HEAD else set()
    pictures: dict[str, Callable[[Path], None]] = {
        f"scores-{_file_name(task)}": _scores(results, task, location, part) for task in names
    }
    if with_curve := [task for task in names if task in curved]:
        pictures["n-curves"] = lambda path: plot_n_curves(results, path, with_curve)
    if profiles := profiles_of(scores):
        pictures["depth"] = lambda path: _plot_depth(results, profiles, path)
    pictures["focus"] = lambda path: _plot_focus(results, scores, path)
    if len(names) > 1:
        pictures["similarity"] = lambda path: _plot_similarity(results, scores, path)
    written = []
    for name, draw in pictures.items():
        path = Path(folder) / f"{name}.{format}"
        draw(path)
        written.append(path)
        if on_drawn is not None:
            on_drawn(path)
    return written


def plot_n_curves(
    results: "HeadResults", path: str | Path, tasks: Sequence[str] | None = None
) -> None:
    """Draw the score of the n best heads together against n, a panel for each task.

    See `heads_curves.draw_n_curve`.

    Raises:
        PyengineError: if no heads were concatenated, for another ending, or a path that cannot be
            written.
    """
    known = _concatenated(results)
    names = [task for of in by_group(tasks or sorted(known)).values() for task in of]
    if missing := [task for task in names if task not in known] or not names:
        raise PyengineError(f"no heads were concatenated for {missing or 'any task'}")
    across = min(ACROSS, len(names))
    down = -(-len(names) // across)

    def paint(figure: Figure) -> None:
        grid = list(figure.subplots(down, across, squeeze=False).flat)
        for axes, task in zip(grid, names, strict=False):
            draw_n_curve(axes, results, task)
            axes.set_title(task)
        for axes in grid[len(names) :]:
            axes.axis("off")
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5 if across > 1 else 2)
        common.title(figure, f"The n best heads of {model_name(results)} together")

    common.draw(path, (max(across * PANEL[0], 5.2), down * PANEL[1] + 0.9), paint)


def _probed(results: "HeadResults", location: str) -> list[str]:
    """Return the tasks whose heads were probed."""
    found = [task for task in results.tasks if results.has(task, location)]
    if not found:
        raise PyengineError(
            f"{results.folder} has no probes of {location!r} to draw; make some with: "
            f"pyengine heads probe BANK --out {results.folder} --location {location}"
        )
    return found


def _concatenated(results: "HeadResults") -> set[str]:
    places = zip(*(results.concats[name].to_pylist() for name in ("task", "location")), strict=True)
    return {task for task, location in places if location == HEAD}


def _scores(results: "HeadResults", task: str, location: str, part: str) -> Callable[[Path], None]:
    return lambda path: plot_head_scores(results, task, path, location, part)


def _plot_depth(results: "HeadResults", profiles: dict[str, Profile], path: Path) -> None:
    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        titles = {"best": "by the best head of each layer", "mean": "by the mean over its heads"}
        for axes, (by, title) in zip(panels, titles.items(), strict=True):
            draw_depth(axes, profiles, by, decoder_start(results.table))
            axes.set_title(title)
        panels[0].set_ylabel("worst layer 0, best layer 1; mean over tasks")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=2)
        common.title(figure, f"At which depth the heads of {model_name(results)} solve tasks")

    common.draw(path, (9.6, 4.0 + 0.16 * -(-len(profiles) // 2)), paint)


def _plot_focus(results: "HeadResults", scores: Sequence[TaskScores], path: Path) -> None:
    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        draw_gain(left, scores)
        left.set_title("Gain over the largest class")
        draw_within(right, scores)
        right.set_title("How many heads are near the best")
        handles, labels = left.get_legend_handles_labels()
        style = {"title": "task, Gini coefficient", "alignment": "left", "handlelength": 3.2}
        figure.legend(handles, labels, loc="outside right upper", **style)
        common.title(figure, f"Few heads or many: {model_name(results)}")
        notes = "grey diagonal: every head gains the same; the steeper at the left, the fewer heads"
        figure.supxlabel(notes, x=0.01, ha="left", fontsize=8, color=GREY)

    common.draw(path, (11.6, max(4.4, 1.3 + 0.17 * len(scores))), paint)


def _plot_similarity(results: "HeadResults", scores: Sequence[TaskScores], path: Path) -> None:
    of_task = {found.task: found.values for found in scores}
    groups = by_group([*of_task])
    names = [task for of in groups.values() for task in of]
    cells = similarity({task: of_task[task] for task in names})

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        image = axes.imshow(cells, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        axes.set_facecolor("#EEEEEE")
        axes.grid(visible=False)
        _write(axes, cells)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0)
        _borders(axes, [len(of) for group, of in groups.items() if group not in of])
        bar = figure.colorbar(image, ax=axes, pad=0.02, shrink=0.8)
        bar.outline.set_visible(False)
        bar.set_label("Spearman's rank correlation of the heads' scores")
        common.title(figure, f"Which tasks share heads: {model_name(results)}")

    side = max(3.0, CELL * len(names))
    common.draw(path, (side + 2.9, side + 1.7), paint)


def _write(axes: Axes, cells: np.ndarray) -> None:
    if len(cells) > MOST_WRITTEN:
        return
    for (row, column), value in np.ndenumerate(cells):
        if not np.isnan(value):
            text = f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
            color = "white" if abs(value) > 0.7 else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=color)


def _borders(axes: Axes, sizes: Sequence[int]) -> None:
    """Draw lines behind the surface, syntactic and semantic tasks."""
    for end in np.cumsum(sizes).tolist():
        for line in (axes.axhline, axes.axvline):
            line(end - 0.5, color="black", linewidth=1.2)


def _file_name(task: str) -> str:
    return re.sub(r"[^\w.-]+", "_", task)
