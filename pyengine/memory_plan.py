"""What a pass over a corpus will hold in memory and on disk, known before it starts.

What reducers hold is exact; what a batch takes is an upper bound, for the largest that can come.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pyengine.analyses.cached_activations import cache_activations
from pyengine.analyses.cached_activations_pass import CachePass
from pyengine.analyses.cached_activations_settings import CacheSettings, size_text, token_sites
from pyengine.analyses.fact_neurons import fact_neurons
from pyengine.analyses.prediction_settings import PredictionSettings
from pyengine.analyses.prediction_tables import schema
from pyengine.analyses.predictions import ffn_predictions
from pyengine.analyses.trigger_search import Settings
from pyengine.analyses.triggers import trigger_examples
from pyengine.batch_bound import batch_bytes, batch_shapes, n_special
from pyengine.batches import plan_blocks
from pyengine.engine import BATCH_TOKENS
from pyengine.extraction.extract import extract
from pyengine.extraction.sites import site_width, sites_of_key
from pyengine.extraction.specs import Spec
from pyengine.heads.extract import extract_heads
from pyengine.heads.extract_memory import vectors_plan
from pyengine.memory_facts import facts_plan
from pyengine.memory_parts import Holding, Plan, heaps_plan, summary_plan, tensor_bytes
from pyengine.models import Model
from pyengine.scale.work import Work
from pyengine.segments import SEGMENT_BATCHES, SEGMENTS_AHEAD
from pyengine.shortcuts.fit import fit_shortcuts
from pyengine.shortcuts.fit_memory import fit_plan
from pyengine.store import Report, TokenStore
from pyengine.torch_vocab import LOGIT_BYTES

AHEAD_BYTES = 24  # of a token that waits on the device: its id, its mask, its place


@dataclass(frozen=True)
class MemoryPlan:
    """What a pass will hold.

    Attributes:
        device_type: `cpu` or `cuda`.
        device: in the memory of the device.
        host: in that of the host; where both are one, beside `device`.
        disk: in the run directory.
    """

    device_type: str
    device: tuple[Holding, ...]
    host: tuple[Holding, ...]
    disk: tuple[Holding, ...]

    @property
    def device_bytes(self) -> int:
        """All that the device has to hold."""
        return sum(held.n_bytes for held in (*self.device, *(self.host if self._shared else ())))

    @property
    def disk_bytes(self) -> int:
        """All that the run directory holds at most."""
        return sum(held.n_bytes for held in self.disk)

    @property
    def _shared(self) -> bool:
        return self.device_type == "cpu"

    def line(self) -> str:
        """Say it in one line."""
        places = {"memory": (*self.device, *self.host), "disk": self.disk}
        if not self._shared:
            places = {"device": self.device, "host": self.host, "disk": self.disk}
        return "; ".join(f"{place}: {_listed(held)}" for place, held in places.items() if held)


def memory_plan(work: Work, model: Model) -> MemoryPlan | None:
    """Say what a pass will hold; None for an analysis that is not known here.

    Args:
        work: of `trigger_examples`, `extract`, `ffn_predictions`, `cache_activations`,
            `fit_shortcuts`, `fact_neurons` or `extract_heads`. Over a token store, or sentences,
            bounds are tighter, and the disk of what grows with the corpus is known.
        model: loaded.

    Raises:
        PyengineError: where the analysis itself would refuse its settings.
    """
    if work.function not in PLANNERS:
        return None
    asked = arguments_of(work, model)
    planned = PLANNERS[work.function](model, asked)
    batches = _batches(model, asked) if "corpus" in asked else []
    weights = Holding("model", tensor_bytes([*model.hf.parameters(), *model.hf.buffers()]))
    return MemoryPlan(
        model.device.type,
        (weights, *_joined(planned["device"]), *batches),
        tuple(_joined(planned["host"])),
        tuple(_joined(planned["disk"])),
    )


def arguments_of(work: Work, model: Model) -> dict[str, Any]:
    """Return the arguments of the call that a piece of work stands for, defaults included."""
    signature = inspect.signature(work.function)
    bound = signature.bind(model, work.corpus, *work.arguments, **{"out": "", **work.settings})
    bound.apply_defaults()
    return dict(bound.arguments)


def _trigger_search(model: Model, asked: Mapping[str, Any]) -> Plan:
    settings = Settings.checked(model, **{each.name: asked[each.name] for each in fields(Settings)})
    n_dims = model.d_ff if settings.dims is None else len(settings.dims)
    names = ("k", "sign", "floor", "per")
    heaps = {name: getattr(settings, name) for name in names}
    planned = heaps_plan(model, heaps, len(settings.layers) * n_dims)
    if settings.per == "prefix" and isinstance(asked["corpus"], TokenStore):
        planned["host"].append(Holding("prefixes", 4 * asked["corpus"].n_units))
    return planned


def _extraction(model: Model, asked: Mapping[str, Any]) -> Plan:
    planned: Plan = {"device": [], "host": [], "disk": []}
    for key, reducers in asked["reducers"].items():
        sites = sites_of_key(model, key)
        n_keys = sum(site_width(model, site) for site in sites)
        for reducer in reducers:
            spec = Spec.of(tuple(site.name for site in sites), reducer, key)
            plan = heaps_plan if spec.is_topk else summary_plan
            settings = spec.settings if spec.is_topk else {"spec": spec, "fresh": reducer}
            for place, held in plan(model, settings, n_keys).items():
                planned[place] += held
    return planned


def prediction_settings(model: Model, asked: Mapping[str, Any]) -> PredictionSettings:
    """Return the settings of `ffn_predictions` for its arguments, defaults filled in."""
    given = {field.name: asked[field.name] for field in fields(PredictionSettings)}
    layers = None if asked["layers"] is None else tuple(asked["layers"])
    return PredictionSettings(**{**given, "layers": layers}).resolved(model)


def _prediction_pass(model: Model, asked: Mapping[str, Any]) -> Plan:
    settings = prediction_settings(model, asked)
    assert settings.block_tokens and settings.batch_tokens and settings.layers
    n_layers = len(settings.layers)
    columns = schema(settings.mode, settings.all_values)
    lists = [field.name for field in columns if field.name.startswith(("top_", "all_"))]
    row = 4 * (len(columns) - len(lists)) + 3 * 4  # unit, position and layer are of 8 bytes
    row += 4 * sum(model.d_ff if name.startswith("all_") else settings.n for name in lists)
    in_block, in_batch = _most_positions(model, asked["corpus"], settings)
    # Of a position: two vectors a layer, who is active; of one layer what that is found by.
    width = model.values(0).shape[1]
    kept = n_layers * (8 * width + model.d_ff) + 64 * model.d_ff
    return {
        "device": [
            Holding("values", n_layers * model.d_ff * 12),  # norms, best and lowest tokens
            Holding("logits", 4 * LOGIT_BYTES[model.device.type], bound=True),
            Holding("positions", in_batch * kept, bound=True),
        ],
        "host": [Holding("a block's table", in_block * n_layers * row, bound=True)],
        "disk": [],
    }


def _most_positions(model: Model, corpus: Any, settings: PredictionSettings) -> tuple[int, int]:
    """Return how many positions a block, and a batch, have at most."""
    assert settings.block_tokens and settings.batch_tokens
    # A block ends with the unit that fills it; a longer unit makes a batch of its own.
    in_block = settings.block_tokens + model.max_positions
    in_batch = max(settings.batch_tokens, model.max_positions)
    if not isinstance(corpus, TokenStore):
        return in_block, in_batch
    if settings.position == "all":
        return min(in_block, corpus.n_tokens), min(in_batch, corpus.n_tokens)
    sizes = {"batch_tokens": settings.batch_tokens, "block_tokens": settings.block_tokens}
    shapes = batch_shapes(corpus, n_special(model, corpus, settings.bos), **sizes)
    units = np.diff(plan_blocks(corpus.offsets, settings.block_tokens))
    return int(units.max()), max(rows for rows, _ in shapes)


def cache_pass(model: Model, asked: Mapping[str, Any]) -> CachePass:
    """Return the pass of `cache_activations` for its arguments, over a corpus of one token."""
    names = ("save_dtype", "bos", "batch_tokens", "block_tokens")
    settings = CacheSettings.checked(model, *(asked[name] for name in names))
    one = TokenStore.in_memory(np.zeros(1, np.uint16), np.array([0, 1]), Report(), False)
    return CachePass(model, token_sites(model, asked["names"]), one, settings)


def _cache_pass(model: Model, asked: Mapping[str, Any]) -> Plan:
    search, corpus = cache_pass(model, asked), asked["corpus"]
    per_token = search.layout.token_bytes
    store = corpus if isinstance(corpus, TokenStore) else None
    most = search.block_tokens + model.max_positions
    n_tokens = most if store is None else min(most, store.n_tokens)
    return {
        "device": [],
        "host": [Holding("a block", n_tokens * per_token, bound=True)],
        "disk": [] if store is None else [Holding("activations", store.n_tokens * per_token)],
    }


Planner = Callable[[Model, Mapping[str, Any]], Plan]
PLANNERS: dict[Callable[..., Any], Planner] = {
    trigger_examples: _trigger_search,
    extract: _extraction,
    ffn_predictions: _prediction_pass,
    cache_activations: _cache_pass,
    fit_shortcuts: fit_plan,
    fact_neurons: facts_plan,
    extract_heads: vectors_plan,
}


def _joined(held: Sequence[Holding]) -> list[Holding]:
    """Add up what has one name."""
    found: dict[str, Holding] = {}
    for what, n_bytes, bound in held:
        before = found.get(what, Holding(what, 0))
        found[what] = Holding(what, before.n_bytes + n_bytes, before.bound or bound)
    return list(found.values())


def _batches(model: Model, asked: Mapping[str, Any]) -> list[Holding]:
    device = model.device.type
    batch_tokens = asked["batch_tokens"] or BATCH_TOKENS[device]
    n_bytes = batch_bytes(model, asked["corpus"], batch_tokens, asked["bos"])
    held = [Holding("a batch", n_bytes, bound=True)]
    if ahead := SEGMENTS_AHEAD[device]:
        n_batches = (ahead + 1) * SEGMENT_BATCHES[device] * len(model.family.stacks)
        held.append(Holding("batches ahead", n_batches * batch_tokens * AHEAD_BYTES, bound=True))
    return held


def _listed(held: Iterable[Holding]) -> str:
    return " + ".join(f"{h.what} {'≤ ' if h.bound else ''}{size_text(h.n_bytes)}" for h in held)
