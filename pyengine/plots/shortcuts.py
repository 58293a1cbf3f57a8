"""The figures of Din et al. 2023 for any model: what linear shortcuts between layers are worth."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyengine.plots import figure as common
from pyengine.plots.figure import GREY
from pyengine.plots.shortcuts_curves import (
    KNOWN,
    NATS,
    RANK,
    SHARE,
    Style,
    exit_panel,
    legend_below,
    metric_panel,
    r2_panel,
    step_panel,
    styles_of,
)
from pyengine.plots.shortcuts_grids import r2_grid, transfer_grid

if TYPE_CHECKING:
    from pyengine.shortcuts.evaluation import Evaluation

ACROSS = 3
PANEL = (4.3, 3.2)  # inches
# Whose r² between all pairs is drawn, and whose of the change between them: what id makes of it is
# never above 0.
GRIDS = {"r2": ("mat", "affine", "id"), "residual_r2": ("mat", "affine")}
METRICS = (
    ("precision@1", "Best token is the model's own", SHARE),
    ("precision@5", "… among its best five", SHARE),
    ("precision@10", "… among its best ten", SHARE),
    ("surprisal", "Surprisal of the best token", NATS),
    ("kl", "KL (model's own ‖ mapped)", NATS),
    ("entropy", "Entropy of the mapped distribution", NATS),
    ("rank", "Rank of the model's best token", RANK),
)
# Of blocks whose sub-modules are replaced, from a layer on.
REPLACED = (
    ("precision@1", "Blocks with maps: own best token", SHARE),
    ("surprisal", "Blocks with maps: surprisal", NATS),
)

# A title, and what draws the panel below it.
Panel = tuple[str, Callable[[Axes], None]]


def plot_shortcuts(evaluation: "Evaluation", path: str | Path) -> None:
    """Draw everything that an evaluation holds, a panel each.

    Heat maps of r² and of that of the change (fits of all pairs), both of maps to the last layer,
    precision@1, @5 and @10, surprisal, KL, entropy and rank with their intervals, early exits, the
    transfer of maps to other layers, and sub-modules.

    Args:
        evaluation: a result of `pyengine.shortcuts.evaluate.evaluate`.
        path: ends in `.png`, `.svg` or `.pdf`. The same result gives the same bytes.

    Raises:
        PyengineError: for another ending, or a path that cannot be written.
    """
    question = evaluation.manifest["question"]
    styles = styles_of(question["mappings"])
    panels = list(_panels(evaluation, styles))
    rows = -(-len(panels) // ACROSS)

    def paint(figure: Figure) -> None:
        grid = list(figure.subplots(rows, ACROSS, squeeze=False).flat)
        for axes, (title, panel) in zip(grid, panels, strict=False):
            panel(axes)
            axes.set_title(title)
        for axes in grid[len(panels) :]:
            axes.axis("off")
        _describe(figure, evaluation, styles)

    common.draw(path, (ACROSS * PANEL[0], rows * PANEL[1] + 0.9), paint)


def _panels(found: "Evaluation", styles: dict[str, Style]) -> Iterator[Panel]:
    fit = found.manifest["question"]["fit"]
    for stack, points in fit["points"].items():
        yield from _r2_panels(found.r2, stack, points["n_blocks"], fit["pairs"], styles)
    if found.layers is not None:
        for metric, title, measure in METRICS:
            yield title, _bound(metric_panel, found.layers, metric, styles, measure)
    if found.exits is not None:
        whole = {name: style for name, style in styles.items() if "@" not in name}
        yield (
            "Early exit: best token is the model's own",
            _bound(exit_panel, found.exits, whole or styles),
        )
    if found.transfer is not None:
        for name in found.manifest["question"]["transfer"]:
            title = f"{name} of one layer on another: own best token"
            yield title, _bound(transfer_grid, found.transfer, name)
    yield from _sub_module_panels(found)


def _r2_panels(
    r2: pa.Table, stack: str, last: int, pairs: str, styles: dict[str, Style]
) -> Iterator[Panel]:
    for metric, names in GRIDS.items() if pairs == "all" else ():
        what = "r² of" if metric == "r2" else "r² of the change,"
        for name in names:
            if name in styles:
                drawn = (r2, stack, name, last, metric)
                yield f"{what} {name}, {stack}", _bound(r2_grid, *drawn)
    yield f"r² of the last layer, {stack}", _bound(r2_panel, r2, stack, last, "r2", styles)
    title = f"r² of the change to the last layer, {stack}"
    yield title, _bound(r2_panel, r2, stack, last, "residual_r2", styles)


def _sub_module_panels(found: "Evaluation") -> Iterator[Panel]:
    """Yield r² over sub-modules, and what replacing them from a layer on does."""
    question = found.manifest["question"]
    for stack, points in question["fit"]["points"].items():
        for name in ("mat", "affine"):
            if points["taps"] and name in question["mappings"]:
                title = f"r² of {name} over sub-modules, {stack}"
                yield title, _bound(step_panel, found.r2, stack, name)
    for kind in question["substitution"]:
        if found.layers is None:
            continue
        modes = pc.unique(found.layers["mapping"]).to_pylist()
        styles = {
            mode: KNOWN[mode.removeprefix(f"{kind}_")]
            for mode in modes
            if mode.startswith(f"{kind}_")
        }
        for metric, title, measure in REPLACED:
            shown = styles | {kind: KNOWN[kind]}
            highest = _highest(found.layers, metric, question["substitution"])
            drawn = (found.layers, metric, shown, measure, highest)
            yield f"{title}, {kind}", _bound(_replaced_panel, *drawn)


def _replaced_panel(
    axes: Axes,
    layers: pa.Table,
    metric: str,
    styles: dict[str, Style],
    measure: str,
    highest: float,
) -> None:
    metric_panel(axes, layers, metric, styles, measure)
    if measure == NATS:
        axes.set_ylim(0, 1.05 * highest)
    legend_below(axes)


def _highest(layers: pa.Table, metric: str, kinds: Sequence[str]) -> float:
    """Return the top of a metric of all modes of these kinds, whose panels have one axis."""
    found = [
        value
        for row in layers.to_pylist()
        if row["mapping"].partition("_")[0] in kinds
        for value in (row[metric], row[f"{metric}_high"])
        if value is not None
    ]
    return max(found, default=0) or 1


def _bound(draw: Callable[..., None], *arguments: Any) -> Callable[[Axes], None]:
    return lambda axes: draw(axes, *arguments)


def short_name(model: str) -> str:
    """Return the last part of a folder's path; names of the hub as they are."""
    path = Path(model)
    inside = path.is_absolute() or model.startswith(".") or len(path.parts) > 2
    return common.shortened(path.name if inside else model, 80)


def _describe(figure: Figure, found: "Evaluation", styles: dict[str, Style]) -> None:
    manifest, source = found.manifest, found.manifest["corpus"]["source"]
    notes = [f"validation: {common.shortened(str(source))}"]
    if found.layers is not None:
        notes.append(f"{found.n_samples:,} tokens; bands: 95 % intervals over units")
    if (n_train := manifest["question"]["fit"].get("n_train")) is not None:
        notes.append(f"maps fitted on {n_train:,} other units")
    common.title(figure, f"Linear shortcuts of {short_name(manifest['model']['name'])}")
    handles = [Line2D([], [], label=name, **style._asdict()) for name, style in styles.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(styles))
    figure.supxlabel("; ".join(notes), x=0.01, ha="left", fontsize=8, color=GREY)
