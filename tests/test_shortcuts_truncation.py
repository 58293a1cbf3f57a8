"""Maps cut to a lower rank: of all maps of that rank none fits the training rows better."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shortcut_fit_cases import loaded, texts
from shortcuts_cases import SOLVERS, filled, normal, solved
from torch import Tensor

import pyengine
from pyengine.corpus import Corpus
from pyengine.errors import PyengineError
from pyengine.shortcuts.fit import fit_shortcuts
from pyengine.shortcuts.lens import maps_of
from pyengine.shortcuts.linear_map import AFFINE, KINDS, LinearMap
from pyengine.shortcuts.points import points_of
from pyengine.shortcuts.result import Shortcuts


def least_error(x: Tensor, y: Tensor, kind: str, rank: int) -> float:
    """Return the least SSE of any map of a rank: Eckart and Young on the fitted outputs."""
    a, b = (np.asarray(side.double()) for side in (x, y))
    if kind == AFFINE:  # the best intercept makes both means nothing
        a, b = a - a.mean(0), b - b.mean(0)
    outputs = a @ np.linalg.lstsq(a, b, rcond=2.0**-21)[0]
    lost = np.linalg.svd(outputs, compute_uv=False)[rank:]
    return float(((b - outputs) ** 2).sum() + (lost**2).sum())


def error(mapping: LinearMap, x: Tensor, y: Tensor) -> float:
    return float((mapping(x.double()) - y.double()).square().sum())


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_map_of_the_rank_fits_better(name: str, kind: str) -> None:
    x = normal(50, 6) * torch.logspace(0, 1, 6) + 20 * normal(6, seed=3)
    y = x @ normal(6, 6, seed=2) + normal(50, 6, seed=1) - 30 * normal(6, seed=4)
    source, fitted = solved(filled(name, [x, y], [(0, 1)]), 0, 1, kind)
    basis, _ = source.output_basis(fitted)
    mean = source.output_mean(fitted)
    torch.testing.assert_close(mean, fitted.weight @ x.mean(0))
    for rank in range(1, 7):
        cut = LinearMap(fitted.weight, fitted.bias).truncated(basis, rank, mean)
        assert error(cut, x, y) == pytest.approx(least_error(x, y, kind, rank), rel=1e-9)
        if kind == AFFINE:
            torch.testing.assert_close(cut(x).mean(0), y.mean(0))


@pytest.mark.parametrize("kind", KINDS)
def test_fitted_maps_are_cut_so(kind: str, tmp_path: Path) -> None:
    model, corpus = loaded("gpt2", torch.float64), Corpus.from_texts(texts())
    found = fit_shortcuts(model, corpus, tokens="all")
    rows = training_rows(model, found)
    opened = pyengine.open_run(found.save(tmp_path / "run"))
    assert isinstance(opened, Shortcuts)
    cuts = maps_of(opened, f"{kind}@3", "decoder")
    for layer in range(3):
        x, y = rows[:, layer], rows[:, 3]
        assert error(cuts(layer), x, y) == pytest.approx(least_error(x, y, kind, 3), rel=1e-5)
    with pytest.raises(PyengineError, match=f"{kind}@21 is no truncation"):
        opened.truncated(0, 21, kind)


def training_rows(model: pyengine.Model, found: Shortcuts) -> Tensor:
    """Return x_0 … x_L of every token of the units that the fit does not keep, [n, L + 1, d]."""
    names = [*(f"blocks.{block}.hook_resid_pre" for block in range(3)), "blocks.2.hook_resid_post"]
    kept, states = set(found.validation().units.tolist()), []
    assert model.tokenizer is not None
    for number, text in enumerate(texts()):
        if number not in kept:
            ids = torch.tensor([model.tokenizer(text)["input_ids"]])
            _, cache = pyengine.run_with_cache(model, {"input_ids": ids}, names, return_type=None)
            states.append(torch.stack([cache[name][0] for name in names], 1))
    return torch.cat(states)


def test_without_the_mean_of_its_outputs_an_affine_map_is_not_cut() -> None:
    whole = LinearMap(torch.eye(3), torch.ones(3))
    with pytest.raises(PyengineError, match="about the mean of its outputs"):
        whole.truncated(torch.eye(3), 2)
    model = loaded("gpt2", torch.float32)
    points = points_of(model, "decoder")
    maps = {pair: {AFFINE: LinearMap(torch.eye(20), torch.ones(20))} for pair in points.pairs()}
    bases = {("decoder", source, AFFINE): torch.eye(20) for source, _ in maps}
    given: Any = (model, {"decoder": points}, {"decoder": maps}, {})
    found = Shortcuts.from_maps(*given, bases=bases, pairs="last")
    with pytest.raises(PyengineError, match=r"layer 1 came without the mean .* fit again"):
        found.truncated(1, 2, AFFINE)
    means = {place: torch.arange(20.0) for place in bases}
    found = Shortcuts.from_maps(*given, bases=bases, means=means, pairs="last")
    cut = found.truncated(1, 2, AFFINE)
    wanted = 1 + torch.arange(20.0) * (torch.arange(20) >= 2)
    assert cut.bias is not None and cut.bias.equal(wanted)
