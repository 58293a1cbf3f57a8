"""What a pass is said to hold, against the tensors that it does hold."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import fact_helpers
import numpy as np
import pytest
import torch
from live_tensors import Live
from tiny_models import FAMILIES, VOCAB, supports, tiny_model, word_tokenizer

import pyengine
from pyengine.analyses.cached_activations_pass import CachePass
from pyengine.analyses.fact_prompts import FactPrompts
from pyengine.analyses.prediction_pass import PredictionPass
from pyengine.analyses.prediction_settings import PredictionSettings
from pyengine.analyses.trigger_search import Settings, trigger_search
from pyengine.batch_bound import batch_shapes
from pyengine.engine import BLOCK_TOKENS
from pyengine.extraction.run import Extractor, make_plan
from pyengine.memory_parts import tensor_bytes
from pyengine.memory_plan import MemoryPlan, memory_plan
from pyengine.model_batches import model_batches
from pyengine.reducers.moments import Moments
from pyengine.reducers.topk import StreamingTopK
from pyengine.scale.work import Work
from pyengine.shards import load_shard
from pyengine.store import TokenStore, tokenize

LENGTHS = np.random.default_rng(0).integers(1, 31, 150).tolist()


def store() -> TokenStore:
    rng = np.random.default_rng(1)
    units = [rng.integers(4, VOCAB, n).tolist() for n in LENGTHS]
    return tokenize(pyengine.Corpus.from_token_ids(units), max_tokens=32)


def tiny(family: str = "gpt2", **overrides: Any) -> pyengine.Model:
    return pyengine.load((tiny_model(family, **overrides), word_tokenizer()))


def plan_of(
    function: Callable[..., Any], model: pyengine.Model, *arguments: Any, **settings: Any
) -> MemoryPlan:
    found = memory_plan(Work(function, model, store(), arguments, settings), model)
    assert found is not None
    return found


def sizes(held: Any) -> dict[str, int]:
    return {each.what: each.n_bytes for each in held}


@pytest.mark.parametrize("backend", [None, "torch"])
@pytest.mark.parametrize(
    "settings",
    [
        {"k": 5},
        {"k": 50, "sign": "both"},
        {"k": 200, "per": "prefix", "layers": [0, 2]},
        {"k": 96, "per": "token", "dims": [0, 3, 5], "floor": 0.0},
    ],
)
def test_heaps_are_exact(
    settings: dict[str, Any], backend: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend is not None:
        monkeypatch.setenv("PYENGINE_BACKEND", backend)
    model = tiny()
    device = sizes(plan_of(pyengine.trigger_examples, model, **settings).device)
    full = {**settings, "layers": tuple(settings.get("layers", range(model.n_layers)))}
    if "dims" in full:
        full["dims"] = tuple(full["dims"])
    (feed,) = trigger_search(model, Settings(**full), store(), (0, 1)).feeds
    held = tensor_bytes(feed.reducer)
    assert device["heaps"] + device["candidates"] == held
    assert device["undo"] == tensor_bytes([feed.reducer, feed.snapshot()]) - held
    topk: Any = feed.reducer
    assert device["heaps"] == sum(tensor.nbytes for tensor in topk._tensors().values())
    assert device["model"] == sum(p.nbytes for p in model.hf.parameters())


@pytest.mark.gpu
def test_heaps_on_a_gpu_are_exact() -> None:
    model = pyengine.load((tiny_model("gpt2").to("cuda"), None))
    device = sizes(plan_of(pyengine.trigger_examples, model, k=50).device)
    full = Settings(k=50, layers=tuple(range(model.n_layers)))
    (feed,) = trigger_search(model, full, store(), (0, 1)).feeds
    assert device["heaps"] + device["candidates"] == tensor_bytes(feed.reducer)
    assert device["undo"] == tensor_bytes(feed.snapshot())


def test_nothing_large_is_allocated_to_know_it() -> None:
    model = tiny(n_inner=100_000, n_layer=1)
    with Live() as live:
        found = plan_of(pyengine.trigger_examples, model, k=1000)
    assert sizes(found.device)["heaps"] == 800_000_000
    assert live.peak < 1e6


class Own:
    """A reducer of the user's."""

    def __init__(self, n_keys: int) -> None:
        self.total = torch.zeros(n_keys, dtype=torch.float64)

    def update(self, acts: Any, unit_ids: Any, mask: Any, token_ids: Any) -> None:
        self.total += (acts * mask[:, :, None]).sum((0, 1))

    def merge(self, other: "Own") -> None:
        self.total += other.total

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"total": self.total}

    def load_state_dict(self, state: Any) -> None:
        self.total = state["total"]


def test_reducers_of_an_extraction_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    model, built = tiny(), list[Extractor]()
    reducers: dict[str, list[Any]] = {
        "blocks.*.mlp.hook_post": [StreamingTopK(k=7, n_keys=3 * 37, sign="both")],
        "blocks.1.hook_resid_post": [Moments(n_keys=20, bins=9, range=(-1, 1)), Own(20)],
    }
    found = plan_of(pyengine.extract, model, reducers)
    original = Extractor.__init__

    def init(self: Extractor, *arguments: Any, **settings: Any) -> None:
        original(self, *arguments, **settings)
        built.append(self)

    monkeypatch.setattr(Extractor, "__init__", init)
    pyengine.extract(model, store(), reducers)
    topk, moments, own = cast("list[Any]", [feed.reducer for feed in built[0].feeds])
    device, host = sizes(found.device), sizes(found.host)
    assert device["heaps"] + device["candidates"] == tensor_bytes(StreamingTopK(**topk._settings()))
    assert device["Moments"] == tensor_bytes(moments.snapshot())
    assert device["Own"] == tensor_bytes(own._reducer.total) == 160
    kept = [array for feed in built[0].feeds[1:] for array in feed.state(0).values()]
    assert sum(array.nbytes for array in kept) <= host["partial sums"]


@pytest.mark.parametrize("sign", ["max", "both"])
def test_files_are_exact(tmp_path: Path, sign: str) -> None:
    model = tiny()
    disk = sizes(plan_of(pyengine.trigger_examples, model, 6, sign=sign).disk)
    out = tmp_path / "run"
    pyengine.trigger_examples(model, store(), 6, sign=sign, out=out, shard=(0, 2))
    (file,) = (out / "shards").glob("*.safetensors")
    assert disk["checkpoint"] == tensor_bytes(load_shard(file).states)
    found = pyengine.trigger_examples(model, store(), 6, sign=sign).tensors()
    arrays = [a for name, a in found.items() if name.endswith(("scores", "units", "positions"))]
    own = [a for a in arrays if a.ndim == 3]
    assert disk["result"] == sum(a.nbytes for a in own)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_batches_stay_below_their_bound(family: str, attention: str) -> None:
    if not supports(family, attention):
        pytest.skip(f"{family} has no {attention} attention")
    model = tiny(family, attn_implementation=attention)
    for activation in ("fused", "model"):
        settings: dict[str, Any] = {"batch_tokens": 512, "activation": activation}
        bound = sizes(plan_of(pyengine.trigger_examples, model, 3, **settings).device)
        text = store()
        with Live() as live:
            pyengine.trigger_examples(model, text, 3, **settings)
        assert live.peak <= bound["a batch"] < 8 * live.peak


@pytest.mark.parametrize("position", ["random", "all"])
@pytest.mark.parametrize("mode", ["layer", "value"])
@pytest.mark.parametrize("family", ["gpt2", "bert", "t5_gated"])
def test_predictions_stay_below_their_bound(family: str, mode: str, position: str) -> None:
    model, text = tiny(family), store()
    settings: dict[str, Any] = {
        "mode": mode,
        "position": position,
        "block_tokens": 512,
        "batch_tokens": 256,
    }
    found = plan_of(pyengine.ffn_predictions, model, **settings)
    with Live() as live:
        search = PredictionPass(model, PredictionSettings(**settings).resolved(model), text)
        block = search.run(0)
    assert live.peak <= found.device_bytes
    table = sum(array.nbytes for array in block.table.values())
    assert table <= sizes(found.host)["a block's table"]


def test_cached_activations(tmp_path: Path) -> None:
    model, names = tiny(), ["blocks.*.mlp.hook_post", "blocks.0.attn.hook_q"]
    settings: dict[str, Any] = {"names": names, "save_dtype": "float16", "block_tokens": 512}
    found = plan_of(pyengine.cache_activations, model, **settings)
    per_token = 2 * (3 * 37 + 20)
    assert sizes(found.disk) == {"activations": sum(LENGTHS) * per_token}
    blocks = list[int]()
    original = CachePass.run

    def run(self: CachePass, *arguments: Any) -> Any:
        block = original(self, *arguments)
        blocks.append(tensor_bytes(block.tensors))
        return block

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CachePass, "run", run)
        pyengine.cache_activations(model, store(), out=tmp_path / "run", **settings)
    assert sum(blocks) == sizes(found.disk)["activations"]
    assert 512 * per_token <= max(blocks) <= sizes(found.host)["a block"]


@pytest.mark.parametrize("method", ["adaptive", "left", "max_activation"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "bert", "t5_gated"])
def test_facts_stay_below_their_bound(family: str, method: str) -> None:
    model, facts = fact_helpers.load(family), fact_helpers.facts(9)
    values = ("post", "pre") if family == "gpt2" else ("post",)
    for value in values:
        settings: dict[str, Any] = {"method": method, "steps": 5, "value": value, "block_facts": 4}
        work = Work(pyengine.fact_neurons, model, facts, settings=settings)
        found = memory_plan(work, model)
        assert found is not None
        with Live() as live:
            pyengine.fact_neurons(model, facts, **settings)
        (scores,) = found.host
        assert live.peak <= found.device_bytes
        largest = max(sum(len(f.prompts) for f in facts[i : i + 4]) for i in range(0, 9, 4))
        assert scores.n_bytes == 2 * largest * model.n_layers * model.d_ff * 4


def test_facts_that_are_checked_and_settings_that_are_refused() -> None:
    model, facts = fact_helpers.load(), fact_helpers.facts(9)
    checked = FactPrompts.of(model, facts)
    plans = [
        memory_plan(Work(pyengine.fact_neurons, model, one), model) for one in (facts, checked)
    ]
    assert plans[0] is not None and plans[1] is not None
    assert plans[0] == plans[1]
    assert plans[0].line().startswith("memory: model ") and " + a batch ≤ " in plans[0].line()
    with pytest.raises(pyengine.PyengineError, match="share must be from 0"):
        memory_plan(Work(pyengine.fact_neurons, model, facts, settings={"share": 2.0}), model)


def test_line_and_unknown_analyses() -> None:
    model = tiny()
    line = plan_of(pyengine.trigger_examples, model, 5).line()
    assert line.startswith("memory: model 50 kB + heaps 4.44 kB + candidates ")
    assert " + a batch ≤ " in line and "; disk: checkpoint 6.66 kB + " in line
    assert memory_plan(Work(pyengine.mean_activations, model, store()), model) is None
    on_gpu = replace(plan_of(pyengine.trigger_examples, model, 5), device_type="cuda")
    assert on_gpu.line().startswith("device: model 50 kB + ") and "; host: result " in on_gpu.line()


def test_corpus_that_is_not_tokenised_gives_wider_bounds() -> None:
    model = tiny()
    corpus = pyengine.Corpus.from_token_ids([[5, 6], [7]])
    wide = memory_plan(Work(pyengine.trigger_examples, model, corpus), model)
    narrow = memory_plan(
        Work(pyengine.trigger_examples, model, tokenize(corpus, max_tokens=32)), model
    )
    assert wide is not None and narrow is not None
    assert sizes(wide.device)["a batch"] > 100 * sizes(narrow.device)["a batch"]
    assert sizes(wide.device)["heaps"] == sizes(narrow.device)["heaps"]


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_shapes_are_those_of_the_batches(family: str) -> None:
    model, text = tiny(family), store()
    plan = make_plan(text, (0, 1), batch_tokens=256, block_tokens=700, bos=False)
    real = [
        batch.input_ids.shape
        for first, last in zip(plan.boundaries[:-1], plan.boundaries[1:], strict=True)
        for batch, _ in model_batches(model, text, (int(first), int(last)), batch_tokens=256)
    ]
    assert list(batch_shapes(text, 0, batch_tokens=256, block_tokens=700)) == real
    assert len(real) > 5 and BLOCK_TOKENS["cpu"] > 700
