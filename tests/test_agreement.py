"""Key-value agreement against brute force, and on networks whose answers are known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import readout_brute_force as brute
import torch
from agreement_cases import SIZE, column, known_network, random_targets, search
from tiny_models import FAMILIES, tiny_model
from torch import Tensor

import pyengine
from pyengine import Agreement, Corpus, Model, Targets, key_value_agreement
from pyengine.analyses.agreement import shuffled
from pyengine.embedded import EXCERPT, MODEL

MODELS = Path(__file__).parent / "models"
FOLDERS = {name: MODELS / name for name in ("bert", "gpt_neo", "t5")} | {"gpt2": MODEL}
READOUTS = [(norm, head) for norm in ("off", "on") for head in ("full", "embedding")]


def check(
    model: Model, targets: Targets, found: Agreement, layer: int, *, exactly: bool = True
) -> None:
    """Compare a layer with brute force: exactly, or with logits summed in float32."""
    question = found.manifest["question"]
    exact = brute.read(
        model.hf,
        layer,
        brute.values(model.hf, layer),
        final_norm=question["final_norm"] == "on",
        head=question["head"],
    )
    slack = 0.0 if exactly else 1e-6 + 5e-7 * float(exact.logits.abs().max())
    tolerance: dict[str, Any] = {"rtol": max(1e-6, slack), "atol": 0, "equal_nan": True}
    top = column(found, "top_tokens", layer)
    best = exact.logits.gather(1, exact.order[:, : top.shape[1]])
    assert (exact.logits.gather(1, top) - best).abs().max() <= 2 * slack
    assert torch.equal(column(found, "top_token", layer), top[:, 0])
    probs = column(found, "top_probs", layer)
    torch.testing.assert_close(probs, exact.probs_of(top), **tolerance)
    assert torch.equal(column(found, "top_prob", layer), probs[:, 0])
    torch.testing.assert_close(column(found, "entropy", layer), exact.entropy, **tolerance)

    kind = question["target"][layer]
    wanted = getattr(targets, kind)[layer]
    assert torch.equal(column(found, "targets", layer), wanted)
    torch.testing.assert_close(
        column(found, "target_probs", layer), exact.probs_of(wanted), **tolerance
    )
    other = column(found, "shuffled_target", layer)
    expected = shuffled(wanted[:, 0].numpy(), question["seed"], layer)
    assert torch.equal(other, torch.from_numpy(expected))
    check_ranks(exact, wanted, column(found, "target_ranks", layer), slack)
    check_ranks(exact, other[:, None], column(found, "shuffled_rank", layer)[:, None], slack)
    if exactly:
        assert torch.equal(top, exact.order[:, : top.shape[1]])


def check_ranks(exact: brute.Reading, wanted: Tensor, ranks: Tensor, slack: float) -> None:
    if not slack:
        assert torch.equal(ranks, exact.ranks(wanted))
        return
    for tokens, given in zip(wanted.t(), ranks.t(), strict=True):
        at = exact.logits.gather(1, tokens.clamp(min=0)[:, None])
        surely = (exact.logits > at + 2 * slack).sum(1)
        perhaps = (exact.logits >= at - 2 * slack).sum(1) - 1
        assert torch.equal(given >= 0, tokens >= 0)
        assert ((tokens < 0) | ((surely <= given) & (given <= perhaps))).all()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_oracle_gives_the_models_own_logits(family: str, tied: bool) -> None:
    hf = tiny_model(family, tie_word_embeddings=tied).double()
    ids = torch.tensor([[5, 17, 44, 8, 90, 3]])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if "t5" in family else {})
    layer = len(brute.layer_places(hf)) - 1
    seen: list[Tensor] = []
    norm = hf.get_submodule(brute.layer_places(hf)[layer][1])
    norm.register_forward_pre_hook(lambda _m, x: seen.append(x[0][0].detach()))
    logits = hf(**inputs).logits[0].detach()
    found = brute.read(hf, layer, seen[0], final_norm=True, head="full").logits
    torch.testing.assert_close(found, logits, rtol=1e-10, atol=1e-10)


@pytest.fixture(scope="module", params=sorted(FOLDERS))
def trained(request: pytest.FixtureRequest) -> tuple[Path, Targets]:
    """A trained model's folder, and the targets of a run of it."""
    model = pyengine.load(FOLDERS[request.param])
    found = pyengine.trigger_examples(model, Corpus.from_wikitext(EXCERPT, max_units=20), k=4)
    return FOLDERS[request.param], replace(Targets.of(found), manifest=None)


@pytest.mark.parametrize(("final_norm", "head"), READOUTS)
def test_trained_models_in_float64(trained: Any, final_norm: str, head: str) -> None:
    """Equal tokens and ranks; probabilities to 1e-6 (the table holds them in float32)."""
    folder, targets = trained
    model = pyengine.load(folder, dtype="float64")
    found = key_value_agreement(model, targets, final_norm=final_norm, head=head)
    for layer in range(model.n_layers):
        check(model, targets, found, layer)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("final_norm", "head"), [("off", "full"), ("on", "embedding")])
def test_trained_models_in_other_precisions(
    trained: Any, final_norm: str, head: str, dtype: str
) -> None:
    """As close as float32 sums come to the float64 readout of the same (rounded) weights.

    Logits are off by up to 5e-7 of the largest (measured: 3.7e-7), so that probabilities are off
    by as much relatively, and a rank by the tokens whose logits lie that close together.
    """
    folder, targets = trained
    model = pyengine.load(folder, dtype=dtype)
    found = key_value_agreement(model, targets, final_norm=final_norm, head=head)
    for layer in range(model.n_layers):
        check(model, targets, found, layer, exactly=False)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("vocab", [97, 257, 1031])
@pytest.mark.parametrize("family", FAMILIES)
def test_heads_and_odd_vocabularies_in_float64(family: str, vocab: int, tied: bool) -> None:
    hf = tiny_model(family, vocab_size=vocab, tie_word_embeddings=tied).double()
    model = pyengine.load(hf)
    targets = random_targets(model)
    for final_norm, head in READOUTS:
        found = key_value_agreement(model, targets, final_norm=final_norm, head=head, top=vocab)
        for layer in range(model.n_layers):
            check(model, targets, found, layer)


def test_a_value_that_is_an_embedding_agrees_at_rank_0() -> None:
    """Key 3 fires on 3, which 8 follows; its value is 4 times the embedding of 8."""
    values = torch.zeros(SIZE, SIZE)
    values[3, 8] = 4.0
    model, triggers = search(known_network(values), [[3, 8, 5], [2, 3, 8]])
    row = key_value_agreement(model, triggers).table.slice(3, 1).to_pylist()[0]
    assert (row["top_token"], row["agrees"], row["matches"]) == (8, True, 2)
    assert (row["targets"], row["target_ranks"]) == ([8, 8], [0, 0])
    assert row["top_prob"] == pytest.approx(np.exp(4) / (np.exp(4) + SIZE - 1), rel=1e-6)
    compat = key_value_agreement(model, triggers, target="input").table.slice(3, 1).to_pylist()[0]
    assert (compat["targets"], compat["agrees"], compat["matches"]) == ([3, 3], False, 0)
    assert compat["target_ranks"] == [4, 4]  # behind 8, and behind 0, 1 and 2, which tie


def test_a_value_orthogonal_to_its_target_has_the_expected_rank() -> None:
    """Five tokens above the target's logit of 0, two below, and the ties before it by id."""
    values = torch.zeros(SIZE, SIZE)
    values[3, [20, 30, 40, 50, 60]] = torch.tensor([1.0, 2, 3, 4, 5])
    values[3, [1, 2]] = -1.0
    model, triggers = search(known_network(values), [[3, 8, 5]], k=1)
    row = key_value_agreement(model, triggers, top=5).table.slice(3, 1).to_pylist()[0]
    assert row["top_tokens"] == [60, 50, 40, 30, 20]
    assert row["target_ranks"] == [5 + len({0, 3, 4, 5, 6, 7})]
    assert row["agrees"] is False


def test_a_layer_with_all_keys_off_has_nothing_to_compare() -> None:
    hf = known_network(torch.eye(SIZE))
    with torch.no_grad():
        hf.transformer.h[0].mlp.c_fc.bias.fill_(-1e3)
    model, triggers = search(hf, [[3, 8, 5]], floor=0.0)
    found = key_value_agreement(model, triggers)
    rows = found.table.to_pylist()
    assert [row["top_token"] for row in rows] == list(range(SIZE))
    for row in rows:
        assert (row["agrees"], row["matches"], row["n_targets"], row["n_examples"]) == (
            None,
            0,
            0,
            0,
        )
        assert row["targets"] == row["target_ranks"] == row["target_probs"] == [None, None]
    assert found.layers["agreement"].to_pylist() == [None]


def test_the_end_of_a_unit_is_outside_the_denominators() -> None:
    model, triggers = search(known_network(torch.eye(SIZE)), [[5, 3], [3]])
    row = key_value_agreement(model, triggers).table.slice(3, 1).to_pylist()[0]
    assert (row["agrees"], row["n_targets"], row["n_examples"]) == (None, 0, 2)
    row = key_value_agreement(model, triggers, target="input").table.slice(3, 1).to_pylist()[0]
    assert (row["agrees"], row["n_targets"], row["n_examples"]) == (True, 2, 2)


@pytest.mark.parametrize(
    ("family", "kinds"),
    [("gpt2", ["next"] * 3), ("bert", ["input"] * 3), ("t5", ["input"] * 2 + ["next"] * 3)],
)
def test_default_target_follows_the_stack(family: str, kinds: list[str]) -> None:
    model, triggers = search(tiny_model(family), [[3, 8, 5], [9, 7, 5, 4]])
    targets = Targets.of(triggers)
    default = key_value_agreement(model, triggers)
    assert default.layers["target"].to_pylist() == kinds
    chosen = key_value_agreement(model, triggers, target="next")
    for layer, kind in enumerate(kinds):
        assert torch.equal(column(default, "targets", layer), getattr(targets, kind)[layer])
        assert torch.equal(column(chosen, "targets", layer), targets.next[layer])


def test_targets_are_those_of_the_examples() -> None:
    generator = torch.Generator().manual_seed(1)
    units = [torch.randint(SIZE, (n,), generator=generator).tolist() for n in (1, 2, 7, 5, 1, 9)]
    for family in ("gpt2", "t5"):
        _, triggers = search(tiny_model(family), units, k=8)
        targets = Targets.of(triggers)
        for layer in triggers.layers:
            for dim in triggers.dims:
                examples = triggers.examples(layer, dim)
                missing = [-1] * (8 - len(examples))
                after = [example.next_token for example in examples] + missing
                fired = [example.token for example in examples] + missing
                assert targets.next[layer, dim].tolist() == after
                assert targets.input[layer, dim].tolist() == fired


def test_shuffled_targets_are_those_of_other_keys() -> None:
    first = np.array([7, -1, 8, 9, -1, 10, 11])
    for seed in range(20):
        other = shuffled(first, seed, layer=2)
        assert sorted(other) == sorted(first)
        assert ((other == -1) == (first == -1)).all()
        assert (other != first)[first >= 0].all()
    assert (shuffled(first, 0, 2) == shuffled(first, 0, 2)).all()
    assert any((shuffled(first, 0, 2) != shuffled(first, 0, layer)).any() for layer in range(5))
    assert shuffled(np.array([-1, 5]), 0, 0).tolist() == [-1, -1]
