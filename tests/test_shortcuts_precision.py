"""Fits are made outside autocast, without TF32, in float64: whatever the caller allows."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from shortcut_fit_cases import SMALL, loaded, texts
from shortcuts_cases import SOLVERS, fill, hard_rows, numpys, reducer, relative, solved
from tiny_models import tiny_model, word_tokenizer

import pyengine
from pyengine import engine
from pyengine.corpus import Corpus
from pyengine.precision import precision
from pyengine.reducers.block_states import BlockReducer
from pyengine.reducers.gram import Gram
from pyengine.scale.work import Work
from pyengine.shortcuts.fit import fit_shortcuts
from pyengine.shortcuts.fit_parts import FitParts, PassOver
from pyengine.shortcuts.least_squares import OfProducts, OfRows
from pyengine.shortcuts.linear_map import MAT
from pyengine.shortcuts.result import Shortcuts
from pyengine.shortcuts.tuned_lens import training_states

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def whatever(device: str) -> AbstractContextManager[Any]:
    return torch.autocast(device, dtype=torch.bfloat16)


def bits(found: Shortcuts) -> list[torch.Tensor]:
    """Return all maps and validation rows."""
    tensors = []
    for stack in found.stacks:
        tensors.append(found.validation(stack).states)
        for pair in found.pairs(stack):
            for kind in ("mat", "affine"):
                mapping = found.map(*pair, kind, stack=stack)
                tensors += [part for part in (mapping.weight, mapping.bias) if part is not None]
    return tensors


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_the_caller_allows_changes_no_bit(family: str, solver: str, device: str) -> None:
    model = pyengine.load((tiny_model(family), word_tokenizer()), device=device)
    corpus, how = Corpus.from_texts(texts()), SMALL | {"solver": solver, "tokens": "all"}
    plain = fit_shortcuts(model, corpus, **how)
    with precision("tf32"), whatever(device):
        found = fit_shortcuts(model, corpus, **how)
        states = training_states(found, model, corpus, found.stacks[-1])
        assert torch.backends.cuda.matmul.allow_tf32  # the caller's settings are as they were
        assert torch.is_autocast_enabled(device)
    for mine, theirs in zip(bits(found), bits(plain), strict=True):
        assert mine.dtype == torch.float32 and mine.equal(theirs)
    assert states.equal(training_states(plain, model, corpus, plain.stacks[-1]))


def piece(solver: str) -> tuple[pyengine.Model, PassOver]:
    """Return the pass of a fit, without what puts autocast off around it."""
    model = loaded("gpt2", torch.float32)
    work = Work(fit_shortcuts, model, Corpus.from_texts(texts()), (), SMALL | {"solver": solver})
    task = FitParts(work.tokenized(model), model).sample(10_000).work
    assert isinstance(task, PassOver)
    return model, task


@pytest.mark.parametrize("solver", SOLVERS)
def test_states_of_autocast_are_never_taken_in(solver: str) -> None:
    model, task = piece(solver)
    extractor = task.extractor(model)
    with whatever("cpu"), pytest.raises(AssertionError, match="outside autocast"):
        extractor.run()
    extractor.run()


def test_states_of_tf32_are_never_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = piece("gram")
    monkeypatch.setattr(engine, "precision", lambda dtype: nullcontext())
    with precision("tf32"), pytest.raises(AssertionError, match="TF32"):
        task.extractor(model).run()
    task.extractor(model).run()


def test_sums_and_solutions_are_float64_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for problem in (OfRows, OfProducts):
        with pytest.raises(AssertionError, match=r"solved in float64, not torch\.float32"):
            problem(torch.eye(3), lambda target: torch.eye(3))
    monkeypatch.setattr(BlockReducer, "dtype", torch.float32)
    for name in ("gram", "exact"):
        with pytest.raises(AssertionError, match=r"summed in float64, not torch\.float32"):
            fill(reducer(name, 2, 3, [(0, 1)]), torch.randn(20, 6))


class PlainGram(Gram):
    """Products of some dtype, summed in float64."""

    product_dtype = torch.float32

    def _fold(self, rows: torch.Tensor) -> None:
        self._shift(rows.mean(0), len(rows))
        x, y = rows.to(self.product_dtype).view(len(rows), 2, -1).unbind(1)
        for number, points in enumerate(((x, x), (x, y))):
            self._sums["products"][number].add_((points[0].t() @ points[1]).double())


def test_products_of_float32_are_seen_in_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound that every solver keeps on these rows is one that rough products miss."""
    x, y = hard_rows()
    weight, _ = numpys(x, y, MAT, rcond=0)
    z = torch.cat([x, y], 1)
    exact = fill(Gram(2, 64, [(0, 1)], block_rows=100), z)
    assert relative(solved(exact, 0, 1, MAT)[1].weight, weight) < 1e-6

    def error(dtype: torch.dtype) -> float:
        monkeypatch.setattr(PlainGram, "product_dtype", dtype)
        state = fill(PlainGram(2, 64, [(0, 1)], block_rows=100), z).folded()
        return relative(torch.linalg.solve(state.product(0, 0), state.product(0, 1)).t(), weight)

    assert error(torch.float64) < 1e-6
    assert error(torch.float32) > 1e-4
