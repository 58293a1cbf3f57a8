"""A fit and its scores on trained models, against the original's procedure done the slow way."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import pytest
from shortcuts_brute_force import (
    LAMBDAS,
    Array,
    Procedure,
    affine_regression,
    condition,
    exit_layer,
    linear_regression,
    r2,
    score,
    top,
)

import pyengine
from pyengine import Corpus
from pyengine.embedded import EXCERPT, MODEL
from pyengine.shortcuts.evaluate import evaluate
from pyengine.shortcuts.fit import fit_shortcuts
from pyengine.shortcuts.sample import TRAIN, VALIDATION, Draw, Sample
from pyengine.store import tokenize

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parent / "models"
FOLDERS = {name: MODELS / name for name in ("bert", "gpt_neo", "t5")} | {"gpt2": MODEL}

# What the tokenizer puts around a text; of each stack, how much of that may be taken; and the
# column of the first content token.
SPECIAL = {"bert": (["[CLS]"], ["[SEP]"]), "t5": ([], ["</s>"])}
AROUND = {
    "gpt2": {"decoder": (0, 0)},
    "gpt_neo": {"decoder": (0, 0)},
    "bert": {"encoder": (1, 1)},
    "t5": {"encoder": (0, 1), "decoder": (1, 0)},
}
FIRST = {("bert", "encoder"): 1, ("t5", "decoder"): 1}  # T5's decoder begins with its start token
N_TRAIN, N_VALIDATION, SEED = 280, 60, 3


class Stack(NamedTuple):
    """What the procedure reads of one stack: states [n, L + 1, d], and columns of validation."""

    train: Array
    validation: Array
    columns: list[int]


class Case(NamedTuple):
    name: str
    model: Any
    store: Any
    procedure: Procedure
    stacks: dict[str, Stack]
    shortcuts: Any


@pytest.fixture(scope="module", params=sorted(FOLDERS))
def case(request: pytest.FixtureRequest) -> Case:
    """Fit a family's model in float64; read the same tokens one sentence at a time."""
    name = request.param
    model = pyengine.load(FOLDERS[name], dtype="float64")
    assert model.tokenizer is not None
    store = tokenize(Corpus.from_wikitext(EXCERPT, max_units=600), model.tokenizer, max_tokens=100)
    settings: dict[str, Any] = {"n_train": N_TRAIN, "n_validation": N_VALIDATION, "seed": SEED}
    sample = Sample.of(store, Draw(**settings), AROUND[name], causal=name.startswith("gpt"))
    mask = model.tokenizer.mask_token_id if name == "bert" else None
    procedure = Procedure(model.hf, mask)
    stacks = {stack: read(name, procedure, model, store, sample, stack) for stack in AROUND[name]}
    shortcuts = fit_shortcuts(model, store, pairs="all", **settings)
    return Case(name, model, store, procedure, stacks, shortcuts)


def read(
    name: str, procedure: Procedure, model: Any, store: Any, sample: Sample, stack: str
) -> Stack:
    states: dict[int, list[Array]] = {TRAIN: [], VALIDATION: []}
    columns: dict[int, list[int]] = {TRAIN: [], VALIDATION: []}
    around = SPECIAL.get(name, ([], []))
    before, after = (model.tokenizer.convert_tokens_to_ids(tokens) for tokens in around)
    for unit, role, position in zip(
        sample.units, sample.roles, sample.positions[stack], strict=True
    ):
        tokens = [*before, *store.unit_tokens(int(unit)).tolist(), *after]
        columns[int(role)].append(int(position) + FIRST.get((name, stack), 0))
        states[int(role)].append(procedure.states(stack, tokens, columns[int(role)][-1]))
    train, validation = np.stack(states[TRAIN]), np.stack(states[VALIDATION])
    assert len(train) == N_TRAIN and len(validation) == N_VALIDATION
    return Stack(train, validation, columns[VALIDATION])


def test_states_are_those_of_plain_hugging_face(case: Case) -> None:
    # GPT-Neo computes attention scores in float32 whatever its weights are.
    tolerance = 1e-6 if case.name == "gpt_neo" else 1e-12
    for stack, (_, expected, _) in case.stacks.items():
        found = case.shortcuts.validation(stack).states.numpy()
        assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def test_maps_are_those_of_the_procedure(case: Case) -> None:
    """Between the two cut-offs, 5e-7 and 1e-6, lies no singular value."""
    n_pairs = 0
    for stack, (train, _, _) in case.stacks.items():
        for source, target in case.shortcuts.pairs(stack):
            x, y = train[:, source], train[:, target]
            whole = case.shortcuts.map(source, target, stack=stack)
            close(whole.weight, linear_regression(x, y))
            affine = case.shortcuts.map(source, target, "affine", stack=stack)
            weight, bias = affine_regression(x, y)
            close(affine.weight, weight)
            close(affine.bias, bias)
            n_pairs += condition(x) < 1e5
    # All but those from BERT's embeddings, which are the same mask at every position.
    last = case.shortcuts.n_layers()
    assert n_pairs >= (last * (last - 1) // 2 if case.name == "bert" else last * (last + 1) // 2)


@pytest.mark.parametrize("solver", ["gram", "exact"])
def test_other_solvers_give_the_same_maps(case: Case, solver: str) -> None:
    settings: dict[str, Any] = {"n_train": N_TRAIN, "n_validation": N_VALIDATION, "seed": SEED}
    shortcuts = fit_shortcuts(case.model, case.store, solver=solver, **settings)
    for stack, (train, _, _) in case.stacks.items():
        for source, target in shortcuts.pairs(stack):
            expected = linear_regression(train[:, source], train[:, target])
            close(shortcuts.map(source, target, stack=stack).weight, expected)


def close(found: Any, expected: Array) -> None:
    error = np.linalg.norm(found.double().numpy() - expected)
    assert error <= 1e-6 * np.linalg.norm(expected)


@pytest.fixture(scope="module")
def evaluation(case: Case) -> Any:
    return evaluate(case.shortcuts, case.model, mappings=("id", "mat", "affine"), bootstrap=2)


def mapped(case: Case, mapping: str, stack: str, source: int, target: int, x: Array) -> Array:
    """Map rows by the procedure's own regression."""
    train = case.stacks[stack].train
    if mapping == "id" or source == target:
        return x
    if mapping == "mat":
        return x @ linear_regression(train[:, source], train[:, target]).T
    weight, bias = affine_regression(train[:, source], train[:, target])
    return x @ weight.T + bias


def test_r2_is_that_of_the_procedure(case: Case, evaluation: Any) -> None:
    rows = evaluation.r2.to_pylist()
    assert len(rows) == 3 * sum(len(case.shortcuts.pairs(stack)) for stack in case.stacks)
    for row in rows:
        states = case.stacks[row["stack"]].validation
        x, y = states[:, row["source"]], states[:, row["target"]]
        guess = mapped(case, row["mapping"], row["stack"], row["source"], row["target"], x)
        assert row["r2"] == pytest.approx(r2(guess, y), rel=1e-6, abs=1e-6), row
        assert row["residual_r2"] == pytest.approx(r2(guess - x, y - x), rel=1e-6, abs=1e-6), row


@pytest.fixture(scope="module")
def logits(case: Case) -> dict[tuple[str, int], Array]:
    """Logits [n, V] of every mapping and layer."""
    stack = case.shortcuts.stacks[-1]
    states, last = case.stacks[stack].validation, case.shortcuts.n_layers()
    return {
        (mapping, layer): case.procedure.logits(
            mapped(case, mapping, stack, layer, last, states[:, layer])
        )
        for mapping in ("id", "mat", "affine")
        for layer in range(last + 1)
    }


def test_scores_are_those_of_the_procedure(case: Case, evaluation: Any, logits: Any) -> None:
    rows = evaluation.layers.to_pylist()
    assert len(rows) == len(logits)
    for row in rows:
        found = score(logits[row["mapping"], row["layer"]], logits["id", case.shortcuts.n_layers()])
        for k in (1, 5, 10):
            assert row[f"precision@{k}"] == pytest.approx(found[f"hit@{k}"], abs=1e-12), row
        assert row["surprisal"] == pytest.approx(found["surprisal"], abs=1e-5, rel=1e-5), row


def test_the_ten_best_tokens_are_those_of_the_procedure(evaluation: Any, logits: Any) -> None:
    for (mapping, layer), expected in logits.items():
        chosen = pc.and_(
            pc.equal(evaluation.samples["mapping"], mapping),
            pc.equal(evaluation.samples["layer"], layer),
        )
        found = evaluation.samples.filter(chosen)["top_tokens"].to_pylist()
        assert found == [top(row, 10) for row in expected]


def test_exits_are_those_of_the_procedure(case: Case, evaluation: Any, logits: Any) -> None:
    """Going up layer by layer for every λ anew, as the original runs the model anew."""
    stack, last = case.shortcuts.stacks[-1], case.shortcuts.n_layers()
    columns, units = case.stacks[stack].columns, case.shortcuts.validation().units.tolist()
    mean_length = sum(column + 1 for column in columns) / len(columns)
    layers = set()
    for mapping in ("id", "mat"):
        for lam in LAMBDAS:
            chosen = pc.and_(
                pc.equal(evaluation.exit_samples["mapping"], mapping),
                pc.equal(evaluation.exit_samples["lambda"], lam),
            )
            found = evaluation.exit_samples.filter(chosen).to_pylist()
            assert [row["unit"] for row in found] == units
            for number, row in enumerate(found):
                of_layers = [logits[mapping, at][number] for at in range(last + 1)]
                layer, token = exit_layer(of_layers, columns[number], mean_length, lam)
                assert (row["layers"], row["top_tokens"][0]) == (layer, token), (mapping, lam)
                layers.add(layer)
    assert layers == set(range(1, last + 1))
