"""How many kernels a forward pass launches, and below how many tokens launching them is the limit.

    python -m benchmarks launches

Counted on the CPU, on models of the usual depth and little width (neither changes the number): the
operations that are kernels on CUDA, as the engine runs the body with the fused activation, with our
kernels of capture and search beside them. Times are computed, not measured: 5 µs for a launch from
Python, and the floors of `pyengine.floors` on one H100.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

import pyengine
from benchmarks._machine import write_result
from pyengine.batches import Batch
from pyengine.capture import Capture, Maxima, coefficient_sites
from pyengine.engine import BATCH_TOKENS
from pyengine.floors import BodyShape, whole
from pyengine.forward import Forward
from pyengine.fused import formula_of
from pyengine.models import Model
from pyengine.peaks import H100, SUSTAINED

LAUNCH_S = 5e-6
LENGTH = 29  # GPT-2 tokens of a sentence of WikiText-103
# Capture and its counter of NaN, and what appends candidates; merging is one more a batch.
OURS_PER_LAYER, OURS_PER_BATCH = 3, 1
DTYPES = {"float32": 4, "tf32": 4, "bfloat16": 2}

# Tensors are made without a kernel by these.
FREE = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view"})


class Size(NamedTuple):
    """A model: its class, its own size, and one of the same depth and little width."""

    kind: Any
    own: dict[str, Any]
    narrow: dict[str, Any]


SIZES = {
    "GPT-2 small": Size(transformers.GPT2LMHeadModel, {}, {"n_embd": 24}),
    "BERT-base": Size(
        transformers.BertForMaskedLM, {}, {"hidden_size": 24, "intermediate_size": 96}
    ),
    "GPT-Neo 125M": Size(
        transformers.GPTNeoForCausalLM,
        {
            "hidden_size": 768,
            "num_layers": 12,
            "num_heads": 12,
            "attention_types": [[["global", "local"], 6]],
        },
        {"hidden_size": 24},
    ),
    "T5-small": Size(
        transformers.T5ForConditionalGeneration,
        {"decoder_start_token_id": 0},
        {"d_model": 24, "d_kv": 6, "d_ff": 96},
    ),
}


class Kernels(TorchDispatchMode):
    """Counts operations that compute or copy, after taking composite ones apart."""

    n = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func._can_decompose() and torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), "CompositeImplicitAutograd"
        ):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        shares = [returned.alias_info for returned in func._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in shares)
        self.n += not is_view and func.overloadpacket.__name__ not in FREE
        return func(*args, **(kwargs or {}))


def counted(run: Callable[[], object]) -> int:
    """Return the number of kernels."""
    with Kernels() as kernels:
        run()
    return kernels.n


def launches(size: Size) -> dict[str, int]:
    """Count one batch of padded rows: with the model's activations, and as a search runs it."""
    config = size.kind.config_class(**size.own | size.narrow)
    model = pyengine.load((size.kind(config).eval(), None))
    batch = _batch()
    decoder = batch.shifted(0) if model.family.encoder_decoder else None
    with torch.inference_mode():
        plain = counted(lambda: Forward(model).run(batch, decoder))
    ours = OURS_PER_LAYER * model.n_layers + OURS_PER_BATCH
    return {"model": plain, "search": _counted_search(model, batch, decoder) + ours}


def _counted_search(model: Model, batch: Batch, decoder: Batch | None) -> int:
    """Count the body up to the last site; the fused activation is C++ here, or one operation."""
    sites = dict.fromkeys(coefficient_sites(model, range(model.n_layers)), Maxima(None))
    capture = Capture(model, sites, lambda *_: None)
    activation = model.layers[0].module(model.body, model.layers[0].stack.activation)
    counted_already = formula_of(activation) != "gelu_tanh"
    found = counted(lambda: capture.run(batch, decoder))
    return found - (model.n_layers if counted_already else 0)


def _batch() -> Batch:
    lengths = np.array([LENGTH, LENGTH - 3], np.int32)
    mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int64)
    ids = np.where(mask > 0, np.arange(mask.size).reshape(mask.shape), -1)
    return Batch(8 * mask, mask, ids, np.arange(2), lengths, 0, 0)


def floors(size: Size) -> dict[str, float]:
    """Return the least seconds a token takes on an H100, by dtype."""
    with torch.device("meta"):
        hf = size.kind(size.kind.config_class(**size.own))
    decoder = [LENGTH] if hf.config.is_encoder_decoder else None
    cost = whole(BodyShape.of(hf).costs([LENGTH], decoder, to_last_activation=True))
    n_bytes = SUSTAINED["NVIDIA H100 80GB HBM3"][1]
    return {
        dtype: max(cost.flops / H100[dtype], cost.numbers * itemsize / n_bytes) / LENGTH
        for dtype, itemsize in DTYPES.items()
    }


def main(argv: Sequence[str]) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks launches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(argv)
    figures: dict[str, Any] = {}
    print(f"{'':14}kernels a batch     launch-bound below, tokens a batch")
    print(f"{'':14}  model  search    {'  '.join(f'{dtype:>9}' for dtype in DTYPES)}")
    for name, size in SIZES.items():
        n = launches(size)
        least = floors(size)
        below = {dtype: round(n["search"] * LAUNCH_S / each) for dtype, each in least.items()}
        figures[name] = {"kernels": n, "floor_s_per_token": least, "launch_bound_below": below}
        numbers = "  ".join(f"{tokens:>9,}" for tokens in below.values())
        print(f"{name:14}{n['model']:>7}{n['search']:>8}    {numbers}")
    print(f"a batch has {BATCH_TOKENS['cuda']:,} tokens on CUDA unless told otherwise")
    print(f"wrote {write_result('launches', figures, 'python -m benchmarks launches')}")
