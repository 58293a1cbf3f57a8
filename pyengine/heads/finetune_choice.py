"""Which parts of a model fine-tuning reads, as results of probes say, or as they are given."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyengine.checks import check_choice
from pyengine.errors import PyengineError
from pyengine.heads.finetune_model import (
    Representation,
    n_read_layers,
    part_width,
    representation_of,
)
from pyengine.heads.places import BLOCK, HEAD, places_of
from pyengine.heads.results_table import short_name
from pyengine.models import Model

if TYPE_CHECKING:
    from pyengine.heads.results import HeadResults

LAST, BEST, HEADS = "last", "best", "heads"
REPRESENTATIONS = (LAST, BEST, HEADS)


def choose(
    model: Model,
    task: str,
    representation: str,
    results: "HeadResults | None" = None,
    layer: int | None = None,
    heads: Sequence[tuple[int, int]] | None = None,
    n: int | None = None,
) -> Representation:
    """Return which parts of a model a representation reads; arguments as `finetune`'s.

    Of an encoder-decoder the best layer and the best heads are those of its encoder.

    Raises:
        PyengineError: if that follows neither from results nor from `layer` or `heads`, one of them
            is of another representation, or the results are of another model or task.
    """
    check_choice("representation", representation, REPRESENTATIONS)
    _check_used(representation, {BEST: {"layer": layer}, HEADS: {"heads": heads, "n": n}})
    if heads is not None and n is not None:
        raise PyengineError("n is for heads from results; give n or heads, not both")
    if results is not None:
        results = results.where(model=short_name(model.name), task=task)
    n_layers = n_read_layers(model)
    if representation == LAST:
        return representation_of(model, LAST, [(n_layers - 1, -1)])
    if representation == BEST:
        found = [(_best_layer(results, task, n_layers) if layer is None else layer, -1)]
    elif heads is not None:
        found = list(heads)
    else:
        found = _best_heads(model, results, task, n_layers, n)
    return representation_of(model, representation, found)


def _check_used(representation: str, options: dict[str, dict[str, object]]) -> None:
    for of, values in options.items():
        for name, value in values.items():
            if value is not None and of != representation:
                raise PyengineError(
                    f"{name} is for the representation {of!r}, not {representation!r}"
                )


def _best_layer(results: "HeadResults | None", task: str, n_layers: int) -> int:
    if results is None:
        raise PyengineError("the best layer needs results of probes, or a layer")
    scores = results.scores(task, BLOCK)[:n_layers, 0]
    if np.isnan(scores).all():
        raise PyengineError(f"the results of {task} have no dev scores of block outputs")
    return int(np.nanargmax(scores))


def _best_heads(
    model: Model, results: "HeadResults | None", task: str, n_layers: int, n: int | None
) -> list[tuple[int, int]]:
    if results is None:
        raise PyengineError("the best heads need results of probes, or a list of heads")
    ranked = [head for head in results.ranked(task, location=HEAD) if head[0] < n_layers]
    n = min(paper_n(model), len(ranked)) if n is None else n
    if not 1 <= n <= len(ranked):
        raise PyengineError(f"n must be from 1 to {len(ranked)}, the heads of {task}, not {n}")
    return ranked[:n]


def paper_n(model: Model) -> int:
    """Return how many heads together are as wide as the model: the paper's n."""
    place = places_of(model, (HEAD,))[0]
    return max(1, int(model.config.hidden_size) // part_width(model, place))
