"""Compare two runs: overlap and band per layer, instead of set equality.

Activations computed on two devices, or in two precisions, differ in their last bits, so keys whose
k-th and (k+1)-th scores are close may keep different examples. Two runs agree when every
disagreement lies within a small band around the k-th score.
"""

from typing import Any, NamedTuple

import numpy as np

from pyengine.analyses.trigger_result import TriggerExamples
from pyengine.errors import PyengineError


class LayerComparison(NamedTuple):
    """How two runs agree on one layer.

    Attributes:
        direction: `max` or `min`.
        layer: index of the layer.
        overlap: mean share of common examples among the k of a key, 0 to 1.
        changed: share of keys whose set of examples differs.
        band: largest distance of an example that only one run kept from the k-th score of the
            other run, relative to the layer's median best score; 0 where the sets are equal.
        score_difference: largest |difference| of the scores of common examples.
    """

    direction: str
    layer: int
    overlap: float
    changed: float
    band: float
    score_difference: float


def compare(a: TriggerExamples, b: TriggerExamples) -> list[LayerComparison]:
    """Compare two runs over the same corpus, layer by layer.

    Raises:
        PyengineError: if they were asked different questions, or of different corpora.
    """
    _check_comparable(a.manifest, b.manifest)
    others = b.sides()
    return [
        _compare_layer(direction, side, others[direction], row)
        for direction, side in a.sides().items()
        for row in range(len(side.layers))
    ]


def _check_comparable(a: dict[str, Any], b: dict[str, Any]) -> None:
    for section, name in (("corpus", "sha256"), ("model", "n_layers"), ("model", "d_ff")):
        if a[section][name] != b[section][name]:
            raise PyengineError(
                f"the runs differ in {section}.{name}: {a[section][name]} and {b[section][name]}"
            )
    for name in ("per", "value", "sign", "floor", "layers", "dims", "k"):
        if a["question"][name] != b["question"][name]:
            raise PyengineError(
                f"the runs differ in {name}: {a['question'][name]} and {b['question'][name]}"
            )


def _compare_layer(
    direction: str, a: TriggerExamples, b: TriggerExamples, row: int
) -> LayerComparison:
    overlaps, bands, differences = [], [0.0], [0.0]
    entries = [
        (_entries(a, row, column), _entries(b, row, column)) for column in range(len(a.dims))
    ]
    best = a.scores[row, :, 0].abs()
    scale = max(float(best[~best.isnan()].median()), 1e-30) if len(best) else 1.0
    for mine, theirs in entries:
        common = mine.keys() & theirs.keys()
        longest = max(len(mine), len(theirs))
        overlaps.append(len(common) / longest if longest else 1.0)
        differences += [abs(mine[e] - theirs[e]) for e in common if mine[e] != theirs[e]]
        bands += _distances(mine, theirs, common) + _distances(theirs, mine, common)
    return LayerComparison(
        direction,
        a.layers[row],
        float(np.mean(overlaps)) if overlaps else 1.0,
        float(np.mean([share < 1 for share in overlaps])) if overlaps else 0.0,
        max(bands) / scale,
        max(differences),
    )


def _entries(side: TriggerExamples, row: int, column: int) -> dict[tuple[int, int], float]:
    units, positions = side.units[row, column].tolist(), side.positions[row, column].tolist()
    if side.manifest["question"]["per"] == "unit":
        # A unit is one example, at whichever of its near-equal positions it was found.
        positions = [0] * len(positions)
    scores = side.scores[row, column].tolist()
    found = zip(units, positions, scores, strict=True)
    return {(unit, position): score for unit, position, score in found if unit >= 0}


def _distances(
    mine: dict[tuple[int, int], float],
    theirs: dict[tuple[int, int], float],
    common: set[tuple[int, int]],
) -> list[float]:
    """How far the examples that only I kept lie from the other's last score."""
    only = [score for entry, score in mine.items() if entry not in common]
    if not only or not theirs:
        return [float("inf")] * bool(only)
    last = list(theirs.values())[-1]
    return [abs(score - last) for score in only]
