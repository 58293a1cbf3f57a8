"""extract against plain Hugging Face with plain hooks, one unit at a time; sets of reducers."""

import inspect
from typing import Any

import pytest
import torch
from extract_cases import (
    PLACES,
    SMALL,
    Largest,
    UnitSums,
    by_unit,
    extracted,
    random_units,
    same_bits,
)
from tiny_models import tiny_model, word_tokenizer
from torch import Tensor

import pyengine
from pyengine.corpus import Corpus
from pyengine.extraction.extract import extract
from pyengine.extraction.reducers import Reducer
from pyengine.reducers.moments import Moments
from pyengine.reducers.topk import StreamingTopK, TopK

FAMILIES = tuple(PLACES)
BAND = 1e-5
K = 4


def assert_top(found: TopK, unit_acts: list[Tensor], per: str = "unit") -> None:
    """Compare with all activations, [n_tokens, n] of each unit: scores, and where they are."""
    scale = max(float(acts.abs().max()) for acts in unit_acts)
    best = [acts.amax(0, keepdim=True) if per == "unit" else acts for acts in unit_acts]
    wanted = torch.cat(best).T.sort(dim=1, descending=True).values[:, :K]
    torch.testing.assert_close(found.scores, wanted, rtol=0, atol=BAND * scale)
    for key, row in enumerate(zip(*(part.tolist() for part in found), strict=True)):
        places = [*zip(row[1], row[2], strict=True)]
        assert len(set(places)) == K
        for score, (unit, position) in zip(row[0], places, strict=True):
            assert abs(float(unit_acts[unit][position, key]) - score) <= BAND * scale


@pytest.mark.parametrize("activation", ["fused", "model"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_brute_force_at_every_kind_of_site(family: str, activation: str) -> None:
    hf, units, places = tiny_model(family), random_units(), PLACES[family]
    acts: dict[str, list[Tensor]] = {name: [] for name in places}
    for unit in by_unit(hf, places, units):
        for name, tensor in unit.items():
            acts[name].append(tensor)
    widths = {name: tensors[0].shape[1] for name, tensors in acts.items()}
    reducers = {
        name: [Moments(n, bins=5, range=(-1.0, 1.0)), StreamingTopK(K, n), Largest(n)]
        for name, n in widths.items()
    }
    found = extracted(reducers, family, activation=activation)
    assert [*found] == [*places]
    for key, (moments, topk, largest) in found.items():
        name = str(key)
        every = torch.cat(acts[name]).double()
        scale = float(every.abs().max())
        close: dict[str, Any] = {"rtol": 0, "atol": BAND * scale}
        assert moments.count.tolist() == [len(every)] * len(moments.count)
        torch.testing.assert_close(moments.mean, every.mean(0), **close)
        spread = every.var(0, correction=0)
        torch.testing.assert_close(moments.variance, spread, rtol=0, atol=BAND * scale**2)
        torch.testing.assert_close(moments.min.double(), every.amin(0), **close)
        torch.testing.assert_close(moments.max.double(), every.amax(0), **close)
        assert moments.histogram.sum() == every.numel()
        assert torch.equal(largest.compute(), moments.max)
        assert_top(topk, acts[name])


def test_a_pass_with_many_reducers_gives_the_bits_of_one_pass_for_each() -> None:
    site, other = "blocks.1.mlp.hook_post", "blocks.2.hook_resid_mid"
    asked: list[tuple[str, Any]] = [
        (site, lambda: Moments(37)),
        (site, lambda: StreamingTopK(K, 37, per="prefix", sign="both")),
        (site, lambda: StreamingTopK(K, 37, per="token", exclude=(3, 5, 90), skip_first=2)),
        (site, lambda: Moments(37, exclude=(3, 5, 90), bins=7, range=(-2.0, 2.0))),
        ("blocks.1.mlp.hook_pre", lambda: StreamingTopK(K, 37, sign="min", floor=0.0)),
        (other, lambda: StreamingTopK(K, 20)),
        (other, lambda: UnitSums(60, 20)),
    ]
    together: dict[str, list[Any]] = {}
    for key, make in asked:
        together.setdefault(key, []).append(make())
    whole = extracted(together)
    tensors = whole.tensors()
    for index, (key, make) in enumerate(asked):
        alone = extracted({key: [make()]}).tensors()
        for name, array in alone.items():
            if name.startswith("0."):
                assert tensors[f"{index}.{name[2:]}"].tobytes() == array.tobytes(), (index, name)


def test_who_competes_in_each_reducer() -> None:
    hf, units, site = tiny_model("gpt2"), random_units(), "blocks.1.mlp.hook_post"
    acts = [unit[site] for unit in by_unit(hf, {site: PLACES["gpt2"][site]}, units)]
    exclude, n = (3, 5, 90, units[0][0]), 37
    rules: list[dict[str, Any]] = [{}, {"exclude": exclude, "skip_first": 1}, {"per": "prefix"}]
    found = extracted(
        {
            site: [
                *(StreamingTopK(K, n, **{"per": "token"} | rule) for rule in rules),
                Moments(n, exclude=exclude, skip_first=1),
            ]
        }
    )[site]
    kept: list[list[Tensor]] = [[], [], []]
    seen: set[tuple[int, ...]] = set()
    for unit, tensor in zip(units, acts, strict=True):
        position = torch.arange(len(unit))
        late = (position >= 1) & torch.tensor([token not in exclude for token in unit])
        prefixes = [tuple(unit[: p + 1]) for p in range(len(unit))]
        new = torch.tensor([prefix not in seen for prefix in prefixes])
        seen.update(prefixes)
        for part, mask in zip(kept, (position >= 0, late, new), strict=True):
            part.append(tensor.masked_fill(~mask[:, None], -torch.inf))
    scale = float(torch.cat(acts).abs().max())
    for topk, masked in zip(found, kept, strict=False):
        wanted = torch.cat(masked).T.sort(dim=1, descending=True).values[:, :K]
        torch.testing.assert_close(topk.scores, wanted, rtol=0, atol=BAND * scale)
        entries = zip(topk.units.tolist(), topk.positions.tolist(), strict=True)
        for key, row in enumerate(entries):
            assert all(masked[u][p, key] > -torch.inf for u, p in zip(*row, strict=True))
    assert found[3].count[0] == sum(int((t[:, 0] > -torch.inf).sum()) for t in kept[1])
    assert 0 < found[3].count[0] < sum(map(len, units))


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_pattern_is_one_reducer_over_all_its_sites_like_trigger_examples(family: str) -> None:
    pattern = {"gpt2": "blocks.*.mlp.hook_post", "t5": "*coder_blocks.*.mlp.hook_post"}[family]
    model = pyengine.load((tiny_model(family), None))
    n = model.n_layers * model.d_ff
    found = extracted({pattern: [StreamingTopK(K, n, sign="both")]}, family)
    (key,) = found
    assert isinstance(key, tuple)
    assert found[pattern] is found[key]
    assert found.get("blocks.9.mlp.hook_post") is None
    assert len(key) == model.n_layers
    triggers = pyengine.trigger_examples(
        model, Corpus.from_token_ids(random_units()), k=K, sign="both", **SMALL
    )
    assert triggers.minima is not None
    for side, theirs in (("max", triggers), ("min", triggers.minima)):
        mine = found[key][0][side]
        for part, wanted in zip(mine, (theirs.scores, theirs.units, theirs.positions), strict=True):
            assert torch.equal(part.view(wanted.shape), wanted)
    unit = int(triggers.units[0, 0, 0])
    assert found.unit_tokens(unit) == random_units()[unit]


def test_a_tuple_lays_its_sites_side_by_side_in_its_own_order() -> None:
    names = ("h.2.mlp.act", "blocks.0.hook_resid_pre", "blocks.1.attn.hook_q")
    found = extracted(
        {names: [StreamingTopK(K, 77), UnitSums(60, 77)], "blocks.1.attn.hook_q": [Moments(20)]}
    )
    key = ("blocks.2.mlp.hook_post", "blocks.0.hook_resid_pre", "blocks.1.attn.hook_q")
    assert [*found] == [key, "blocks.1.attn.hook_q"]
    topk, sums = found[key]
    at = 0
    for name, n in zip(key, (37, 20, 20), strict=True):
        alone = extracted({name: [StreamingTopK(K, n), UnitSums(60, n)]})[name]
        for mine, theirs in zip(topk, alone[0], strict=True):
            assert mine[at : at + n].numpy().tobytes() == theirs.numpy().tobytes()
        assert torch.equal(sums.sums[:, at : at + n], alone[1].sums)
        at += n


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
def test_a_reducer_of_our_own_is_told_units_positions_and_tokens(family: str) -> None:
    hf, units = tiny_model(family), random_units()
    name = {"t5": "decoder_blocks.2.mlp.hook_post", "bert": "blocks.0.mlp.hook_post"}.get(
        family, "blocks.1.hook_resid_post"
    )
    acts = [unit[name] for unit in by_unit(hf, {name: PLACES[family][name]}, units)]
    given = UnitSums(60, acts[0].shape[1])
    (found,) = extracted({name: [given]}, family)[name]
    assert isinstance(found, UnitSums)
    wanted = torch.stack([tensor.double().sum(0) for tensor in acts])
    torch.testing.assert_close(found.sums, wanted, rtol=0, atol=1e-4)
    late = sum((t.double() * torch.arange(len(t))[:, None]).sum(0) for t in acts)
    torch.testing.assert_close(found.late, late, rtol=0, atol=1e-3)
    assert found.tokens.tolist() == [sum(unit) for unit in units]
    assert given.updates == 0, "the caller's own instance is not filled"
    assert [*inspect.signature(Reducer.update).parameters] == [
        *inspect.signature(UnitSums.update).parameters
    ]


def test_special_tokens_are_seen_by_the_model_only() -> None:
    hf, tokenizer = tiny_model("gpt2"), word_tokenizer()
    texts = ["w1 w2 w3", "w4", "w5 w5 w6 w7"]
    corpus = Corpus.from_texts(texts, unit="line")
    site = "blocks.1.mlp.hook_post"
    found = extract(
        pyengine.load((hf, tokenizer)), corpus, {site: [UnitSums(3, 37), Moments(37)]}, bos=True
    )[site]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    places = {site: PLACES["gpt2"][site]}
    acts = [unit[site][1:] for unit in by_unit(hf, places, [[2, *unit] for unit in ids])]
    assert tokenizer.bos_token_id == 2
    wanted = torch.stack([tensor.double().sum(0) for tensor in acts])
    torch.testing.assert_close(found[0].sums, wanted, rtol=0, atol=1e-4)
    assert found[0].tokens.tolist() == [sum(unit) for unit in ids]
    assert found[1].count[0] == 8


def test_nan_is_counted_by_site_and_by_key() -> None:
    hf = tiny_model("gpt2")
    with torch.no_grad():
        hf.transformer.h[1].mlp.c_fc.bias[3] = -torch.inf  # gelu(-inf) is NaN
    sites = ("blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post")
    found = extract(
        pyengine.load((hf, None)),
        Corpus.from_token_ids(random_units()),
        {site: [Moments(37), StreamingTopK(K, 37)] for site in sites},
    )
    n = sum(map(len, random_units()))
    assert found.record["n_nan"] == {sites[0]: 0, sites[1]: n}
    moments, topk = found[sites[1]]
    assert moments.n_nan.tolist() == [n if key == 3 else 0 for key in range(37)]
    assert torch.isnan(topk.scores[3]).all()


def test_limits_change_no_bits() -> None:
    site = "blocks.2.hook_resid_mid"
    alone = extracted({site: [StreamingTopK(K, 20)]})
    key = "blocks.*.mlp.hook_*"
    both = extracted({site: [StreamingTopK(K, 20)], key: [StreamingTopK(K, 6 * 37)]})
    for mine, theirs in zip(alone[site][0], both[site][0], strict=True):
        assert torch.equal(mine, theirs)
    again = extracted({site: [StreamingTopK(K, 20)]})
    assert same_bits(alone, again)
