"""Matrices of "Jump to Conclusions" as their authors publish them: one d x d matrix for each i_j.

Matrix i_j is applied as A x, from x_i to x_j, and has no intercept. Published are pickles, which
are refused; README.md has the conversion to safetensors.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from pyengine.cache_files import open_tensors
from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.shortcuts.linear_map import MAT, LinearMap
from pyengine.shortcuts.points import ALL, TO_LAST, Points, points_of, stacks_of
from pyengine.shortcuts.result import Shortcuts

_PAIR = re.compile(r"(\d+)_(\d+)")
_PICKLES = ("*.pickle", "*.pkl", "*.pt", "*.bin")

Pair = tuple[int, int]


def import_matrices(
    model: Model,
    path: str | Path,
    *,
    stack: str | None = None,
) -> Shortcuts:
    """Take published matrices as the maps of a model.

    Nothing in the files says which model they were fitted on, or that they are stored as they are
    applied (output x input): only their number and their width are checked.

    Args:
        model: what they were fitted on.
        path: a folder of `i_j.safetensors`, each with one tensor, or one file of tensors `i_j`.
        stack: whose layers; None: the only one, or the decoder.

    Returns:
        Shortcuts whose `mat` maps they are: of all pairs where all are there, else to the last
        layer. They have no validation rows; `Shortcuts.scored_on` takes those of a fit.

    Raises:
        PyengineError: for a pickle, a file of another kind, a matrix of another width, or where a
            layer has no matrix to the last.
    """
    path, stack = Path(path), stack or stacks_of(model)[-1]
    points = points_of(model, stack)
    found = {pair: tensor.float() for pair, tensor in _matrices(path)}
    _check(found, points, int(model.config.hidden_size), path)
    pairs = ALL if found.keys() >= set(points.pairs(ALL)) else TO_LAST
    kept = {pair: {MAT: LinearMap(found[pair])} for pair in points.pairs(pairs)}
    return Shortcuts.from_maps(model, {stack: points}, {stack: kept}, {}, pairs=pairs)


def _matrices(path: Path) -> Iterator[tuple[Pair, Tensor]]:
    """Yield every matrix with its pair of layers."""
    if not path.is_dir():
        with open_tensors(path) as file:
            for name in file.keys():  # noqa: SIM118
                yield _pair(name, path), file.get_tensor(name)
        return
    files = sorted(path.glob("*.safetensors"))
    if not files:
        _refuse_pickles(path)
        raise PyengineError(f"{path} holds no i_j.safetensors")
    for each in files:
        with open_tensors(each) as file:
            names = [*file.keys()]
            if len(names) != 1:
                raise PyengineError(f"{each} must hold one tensor, not {len(names)}")
            yield _pair(each.stem, each), file.get_tensor(names[0])


def _pair(name: str, path: Path) -> Pair:
    match = _PAIR.fullmatch(name)
    if match is None:
        raise PyengineError(f"{path}: {name!r} is not the name of a matrix, which is like 3_12")
    return int(match[1]), int(match[2])


def _refuse_pickles(folder: Path) -> None:
    for pattern in _PICKLES:
        for file in sorted(folder.glob(pattern)):
            raise PyengineError(
                f"{file} is a pickle, which can run code when it is opened; README.md has "
                "a script that reads the matrix alone and writes safetensors"
            )


def _check(found: Mapping[Pair, Tensor], points: Points, d: int, path: Path) -> None:
    last = points.n_blocks
    for (source, target), matrix in found.items():
        if not 0 <= source < target <= last:
            raise PyengineError(
                f"{path} has a matrix {source}_{target}; the layers of the {points.stack} are 0 to "
                f"{last}, and a map leads to a later one"
            )
        if matrix.shape != (d, d):
            raise PyengineError(
                f"{path}: matrix {source}_{target} is {list(matrix.shape)}; d_model is {d}"
            )
        if not matrix.isfinite().all():
            raise PyengineError(f"{path}: matrix {source}_{target} has NaN or infinite numbers")
    for source, target in points.pairs(TO_LAST):
        if (source, target) not in found:
            raise PyengineError(f"{path} lacks the matrix {source}_{target}")
