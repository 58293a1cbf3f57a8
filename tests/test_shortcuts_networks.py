"""Networks whose maps are known, and the cases that a fit gets wrong without being noticed."""

from typing import Any

import numpy as np
import pytest
import torch
from shortcuts_brute_force import linear_regression
from tiny_models import VOCAB, tiny_model
from torch import Tensor

import pyengine
from pyengine import Corpus
from pyengine.precision import precision
from pyengine.reducers.gram import Gram
from pyengine.reducers.rows import RowBuffer
from pyengine.reducers.tsqr import TSQR
from pyengine.shortcuts.evaluate import evaluate
from pyengine.shortcuts.fit import fit_shortcuts
from pyengine.shortcuts.lens import Lens
from pyengine.shortcuts.solve import sources

SOLVERS = ("rows", "gram", "exact")
PAIRS = [(0, 1), (0, 2), (1, 2)]
# What adds to the residual stream, by family: zeroed, every block passes on what it reads.
WRITERS = {
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gpt_neo": ("attention.out_proj", "mlp.c_proj"),
    "t5": ("Attention.o", "DenseReluDense.wo"),
    "t5_gated": ("Attention.o", "DenseReluDense.wo"),
    "bert": ("output.dense",),
}


def units(n: int, seed: int = 0, length: int = 8) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(3, VOCAB, generator.integers(2, length)).tolist() for _ in range(n)]


def reducer(solver: str, n_points: int, d: int, pairs: list[tuple[int, int]]) -> Any:
    if solver == "rows":
        return RowBuffer(n_points, d, dtype=torch.float64)
    if solver == "gram":
        return Gram(n_points, d, pairs, block_rows=7)
    return TSQR(n_points, d, [range(n_points)])


def solved(solver: str, points: list[Tensor], pairs: list[tuple[int, int]]) -> dict[Any, Tensor]:
    """Fit all pairs of points [n, d] without an intercept, in batches of odd sizes."""
    rows = torch.cat(points, dim=1)
    state = reducer(solver, len(points), points[0].shape[1], pairs)
    order = torch.arange(len(rows))
    for batch in order.split(13):
        state.add(rows[batch], batch, torch.zeros_like(batch))
    found = {}
    for source in sources(state, pairs, kinds=("mat",)):
        for target in source.targets:
            found[source.source, target] = source.solve(target).weight
    return found


@pytest.mark.parametrize("solver", SOLVERS)
def test_maps_along_a_chain_multiply(solver: str) -> None:
    generator = torch.Generator().manual_seed(0)
    p, q, x = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (6, 6, 50))
    found = solved(solver, [x, x @ p.t(), x @ p.t() @ q.t()], PAIRS)
    for pair, matrix in {(0, 1): p, (1, 2): q, (0, 2): q @ p}.items():
        torch.testing.assert_close(found[pair], matrix, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1, 2] @ found[0, 1], found[0, 2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_of_fewer_rows_than_dimensions_the_map_is_the_identity_on_their_span(solver: str) -> None:
    x = torch.randn(5, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matrix = solved(solver, [x, x], [(0, 1)])[0, 1]
    torch.testing.assert_close(x @ matrix.t(), x)
    basis = torch.linalg.qr(x.t()).Q
    torch.testing.assert_close(matrix, basis @ basis.t(), rtol=1e-8, atol=1e-8)


def passing_on(family: str) -> Any:
    """Build a model all of whose layers leave the residual stream as it is."""
    hf = tiny_model(family)
    with torch.no_grad():
        for name, module in hf.named_modules():
            if name.endswith(WRITERS[family]):
                for parameter in module.parameters():
                    parameter.zero_()
            elif family == "bert" and name.endswith("LayerNorm"):
                # A norm does nothing to what has been normalised, if that is all it does.
                module.weight.fill_(1)
                module.bias.zero_()
    return hf


def fit(hf: Any, **settings: Any) -> tuple[pyengine.Model, Any]:
    model = pyengine.load((hf, None))
    defaults: dict[str, Any] = {"mask": False, "tokens": "all", "n_validation": 20}
    corpus = Corpus.from_token_ids(units(settings.pop("n_units", 60)))
    return model, fit_shortcuts(model, corpus, **defaults | settings)


@pytest.mark.parametrize("family", WRITERS)
def test_layers_that_do_nothing_are_mapped_by_the_identity(family: str) -> None:
    """Of BERT, whose states add up to 0, the identity on what does."""
    model, shortcuts = fit(passing_on(family), pairs="all")
    for stack in shortcuts.stacks:
        states = shortcuts.validation(stack).states
        residual = states[:, : shortcuts.n_layers(stack) + 1]
        scale = float(residual.abs().max())
        assert (residual - residual[:, :1]).abs().max() <= 1e-5 * scale
        identity = torch.eye(states.shape[2])
        if family == "bert":
            identity -= 1 / states.shape[2]
        for pair in shortcuts.pairs(stack):
            torch.testing.assert_close(
                shortcuts.map(*pair, stack=stack).weight, identity, rtol=0, atol=1e-4
            )
    found = evaluate(shortcuts, model, bootstrap=0)
    assert min(found.r2["r2"].to_pylist()) > 1 - 1e-8
    assert found.layers is not None
    for row in found.layers.to_pylist():
        assert row["precision@1"] == 1, row
        assert row["kl"] < 1e-5, row


def test_layernormed_sources_are_singular_and_every_solver_says_so() -> None:
    """BERT's states lie on a hyperplane: with an intercept one direction has nothing in it."""
    found = {}
    for solver in SOLVERS:
        _, shortcuts = fit(tiny_model("bert"), solver=solver, n_units=120)
        ranks = {
            row["source"]: row["rank"]
            for row in shortcuts.fits.to_pylist()
            if row["kind"] == "affine"
        }
        assert set(ranks.values()) == {19}, (solver, ranks)  # d_model is 20
        found[solver] = [shortcuts.map(layer, kind="affine").weight for layer in range(3)]
    for solver in SOLVERS[1:]:
        for mine, theirs in zip(found[solver], found["rows"], strict=True):
            assert mine is not None and theirs is not None
            assert (mine - theirs).norm() <= 1e-6 * theirs.norm(), solver
            assert theirs.norm() < 100  # the least norm: nothing blows up


def sinks() -> tuple[Tensor, Tensor]:
    """Make float32 rows with three outlier coordinates, and one row in 20 that is a sink."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(1500, 32)) * np.geomspace(1, 1e-3, 32)
    x[:, :3] += 40
    x[::20] = 60 * x[::20] + 300
    y = x @ generator.normal(size=(32, 32)) + 1e-3 * generator.normal(size=x.shape)
    return torch.from_numpy(x).float(), torch.from_numpy(y).float()


@pytest.mark.parametrize("solver", SOLVERS)
def test_sink_rows_cost_nothing_whatever_the_caller_rounds(solver: str) -> None:
    """A itself is compared: its r² would look perfect all the same."""
    x, y = sinks()
    expected = linear_regression(x.double().numpy(), y.double().numpy(), rcond=1e-12)
    with precision("tf32"), torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        matrix = solved(solver, [x, y], [(0, 1)])[0, 1]
    assert np.linalg.norm(matrix.numpy() - expected) <= 1e-7 * np.linalg.norm(expected)
    # The case is hard: products in float32 are seen to lose the small directions.
    rough = torch.linalg.solve((x.t() @ x).double(), (x.t() @ y).double()).t().numpy()
    assert np.linalg.norm(rough - expected) > 1e-3 * np.linalg.norm(expected)


HEADS = {
    "tied": ("gpt2", {}),
    "untied": ("gpt2", {"tie_word_embeddings": False}),
    "gpt_neo": ("gpt_neo", {}),
    "bert": ("bert", {}),
    "t5 scaled": ("t5", {"scale_decoder_outputs": True}),
    "t5 untied, not scaled": ("t5", {"tie_word_embeddings": False, "scale_decoder_outputs": False}),
}


@pytest.mark.parametrize("head", HEADS)
def test_at_the_last_layer_the_model_itself_speaks(head: str) -> None:
    family, overrides = HEADS[head]
    hf = tiny_model(family, **overrides)
    model, shortcuts = fit(hf)
    stack = shortcuts.stacks[-1]
    validation, last = shortcuts.validation(stack), shortcuts.n_layers(stack)
    assert len(validation) > 20
    logits = Lens(model, shortcuts, "mat").logits(validation.states[:, last], last)
    table = validation.table
    tokens = {
        int(unit): table.tokens[table.offsets[i] : table.offsets[i + 1]]
        for i, unit in enumerate(table.units)
    }
    for row, (unit, position) in enumerate(
        zip(validation.units.tolist(), validation.positions.tolist(), strict=True)
    ):
        ids = torch.tensor(tokens[unit][None].astype(np.int64))
        inputs, column = {"input_ids": ids}, position
        if family == "t5":
            start = torch.full((1, 1), hf.config.decoder_start_token_id)
            inputs["decoder_input_ids"], column = torch.cat([start, ids], 1), position + 1
        with torch.no_grad():
            own = hf(**inputs).logits[0, column]
        torch.testing.assert_close(logits[row], own, rtol=1e-4, atol=1e-4 * float(own.abs().max()))


def test_the_last_layer_is_the_one_before_the_final_norm() -> None:
    """Hugging Face's last hidden state of GPT-2 is behind it: normalised twice, it would differ."""
    hf = tiny_model("gpt2")
    _, shortcuts = fit(hf, tokens="one")
    validation = shortcuts.validation()
    ids = torch.tensor(
        validation.table.tokens[: validation.table.offsets[1]][None].astype(np.int64)
    )
    with torch.no_grad():
        after = hf(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
        mine = validation.states[0, 3]
        assert (mine - after).abs().max() > 0.1
        torch.testing.assert_close(hf.transformer.ln_f(mine), after, rtol=1e-4, atol=1e-4)
