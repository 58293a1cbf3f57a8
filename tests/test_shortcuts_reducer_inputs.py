"""What rows, Gram and TSQR take in, what they leave out and refuse, and how much they hold."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from extract_cases import extracted
from shortcuts_cases import PAIRS, SOLVERS, D, P, fill, fresh, maps, reducer, rows, same, solved

from pyengine.errors import PyengineError
from pyengine.reducers.gram import Gram
from pyengine.reducers.rows import RowBuffer
from pyengine.reducers.tsqr import TSQR
from pyengine.shortcuts.linear_map import MAT
from pyengine.shortcuts.solver_choice import GRAM, ROWS, choose_solver


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_are_left_out_and_counted(name: str, bad: float) -> None:
    z = rows(20)
    z[3, 0] = z[7, P * D - 1] = bad
    keep = [row for row in range(20) if row not in (3, 7)]
    state, wanted = fresh(name), fresh(name)
    units = torch.arange(20)
    state.add(z, units, units)
    wanted.add(z[keep], units[keep], units[keep])
    assert (state.n_rows, state.n_nan) == (18, 2)
    assert maps(state).equal(maps(wanted))
    both = fresh(name)
    both.merge(state)
    both.merge(state)
    assert (both.n_rows, both.n_nan) == (36, 4)
    again = fresh(name)
    again.load_state_dict(state.state_dict())
    assert again.n_nan == 2


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_dtype_and_any_strides(name: str, dtype: torch.dtype) -> None:
    wide = torch.randn(2 * P * D, 30, generator=torch.Generator().manual_seed(0)).to(dtype)
    strided = wide[::2].t()
    assert not strided.is_contiguous()
    with torch.inference_mode():
        state = fill(fresh(name), strided.clone() if name == "gram" else strided, [4])
    wanted = fill(fresh(name), strided.double().contiguous())
    assert same(state, wanted)


@pytest.mark.parametrize("name", SOLVERS)
def test_rows_are_copied_and_not_changed(name: str) -> None:
    z = rows(20).double()
    state, wanted = fresh(name), fill(fresh(name), z.clone())
    units = torch.arange(20)
    places = units.clone(), units % 3
    state.add(z, *places)
    assert z.equal(rows(20).double())
    z.zero_()
    for place in places:
        place.zero_()
    assert same(state, wanted)


@pytest.mark.parametrize("name", SOLVERS)
def test_update_takes_the_tokens_that_the_mask_lets_in(name: str) -> None:
    acts = rows(24).view(4, 6, P * D)
    mask = torch.arange(6) < torch.tensor([6, 0, 2, 5])[:, None]
    units = torch.tensor([5, 6, 9, 7])
    state, wanted = fresh(name), fresh(name)
    state.update(acts[:0], units[:0], mask[:0])
    state.update(acts, units, mask, torch.zeros(4, 6, dtype=torch.int64))
    held = mask.nonzero()
    wanted.add(acts[mask], units[held[:, 0]], held[:, 1])
    assert state.n_rows == 13
    assert same(state, wanted)
    plain, everything = fresh(name), fresh(name)
    plain.update(acts)
    everything.update(
        acts, torch.arange(4), torch.ones(4, 6), positions=torch.arange(6).expand(4, 6)
    )
    assert plain.n_rows == 24
    assert same(plain, everything)


def test_extract_takes_a_gram_like_any_reducer() -> None:
    sites = tuple(f"blocks.{block}.hook_resid_pre" for block in range(3))
    whole = extracted({sites: [Gram(3, 20, PAIRS), RowBuffer(3, 20)]})
    gram, kept = whole[sites]
    assert gram.n_rows == kept.n_rows == whole.record["n_tokens"]
    for pair in PAIRS:
        one, other = (solved(state, *pair, MAT, rcond=1e-6)[1].weight for state in (gram, kept))
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", SOLVERS)
def test_bytes_are_what_a_state_holds(name: str) -> None:
    state = fill(fresh(name), rows(70)).state_dict()
    room = {
        "rows": lambda: RowBuffer.bytes(70, P, D, torch.float64),
        "gram": lambda: Gram.bytes(D, PAIRS),
        "exact": lambda: TSQR.bytes(D, PAIRS),
    }[name]()
    small = {"settings", "counts", "pending", "mean", "n_nan"}
    assert sum(tensor.nbytes for key, tensor in state.items() if key not in small) == room


def test_the_room_of_published_models() -> None:
    last, every = [(i, 12) for i in range(12)], list(itertools.combinations(range(13), 2))
    assert Gram.bytes(768, every) == 90 * 768**2 * 8  # x_12 x_12 is not needed
    assert Gram.bytes(768, last) == 24 * 768**2 * 8
    assert RowBuffer.bytes(9000, 13, 768) == 9000 * (13 * 768 * 4 + 24)


def test_rows_are_kept_while_they_are_fewer_numbers_than_their_products() -> None:
    every = list(itertools.combinations(range(13), 2))
    assert choose_solver(5316, 13, 768, every).solver == ROWS
    assert choose_solver(5317, 13, 768, every).solver == GRAM
    paper, xl = (
        choose_solver(9000, 13, 768, every),
        choose_solver(9000, 49, 1600, itertools.combinations(range(49), 2)),
    )
    assert (paper.solver, xl.solver) == (GRAM, ROWS)
    assert paper.why == "9,000 rows hold more than 90 products of points, beyond 5,316 rows"
    assert "up to 39,967 rows" in xl.why


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RowBuffer(0, 4), "n_points"),
        (lambda: Gram(3, 0, PAIRS), "d_model"),
        (lambda: Gram(3, 4, [(0, 3)]), r"no pair \(0, 3\) of 3 points"),
        (lambda: Gram(3, 4, PAIRS, block_rows=0), "block_rows"),
        (lambda: TSQR(3, 4, [(0, 0)]), r"no group \(0, 0\) of 3 points"),
        (lambda: TSQR(3, 4, [()]), "no group"),
        (lambda: RowBuffer(3, 4).add(rows(2)), "needs the units and positions"),
        (lambda: Gram(3, 4, PAIRS).add(rows(2)[:, 1:]), r"rows must be \[n, 12\], got \(2, 11\)"),
        (lambda: Gram(3, 4, PAIRS).add(rows(2).int()), "floating"),
        (lambda: RowBuffer(3, 4).add(rows(2), torch.arange(3), torch.arange(2)), r"units must be"),
        (lambda: Gram(3, 4, PAIRS).update(rows(2)), r"acts must be \[B, T, 12\]"),
        (lambda: Gram(3, 4, PAIRS).update(rows(2)[None], mask=torch.ones(2, 2)), "must fit acts"),
        (lambda: Gram(3, 4, PAIRS).merge(Gram(3, 4, [(0, 1)])), "different settings: pairs"),
        (lambda: RowBuffer(3, 4).merge(RowBuffer(3, 4, dtype=torch.float64)), "dtype"),
        (lambda: Gram(3, 4, PAIRS).load_state_dict(fresh("exact").state_dict()), "settings: "),
        (lambda: TSQR(3, 4, PAIRS).load_state_dict({}), "TSQR lacks counts, pending, settings"),
        (lambda: RowBuffer(3, 4).load_state_dict({}), "RowBuffer lacks ids, n_nan, positions"),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, said: str) -> None:
    with pytest.raises(PyengineError, match=said):
        make()


def test_means_far_beyond_the_deviations_do_not_cancel() -> None:
    x = rows(300).double() + 1e6
    gram = fill(reducer("gram", 3, 4, PAIRS, block_rows=11), x, [5]).folded()
    exact = x.numpy().astype(np.longdouble)
    centred = exact - exact.mean(0)
    np.testing.assert_allclose(gram.product(0, 2), centred[:, :4].T @ centred[:, 8:], atol=1e-7)
