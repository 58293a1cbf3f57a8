"""The host never waits for the GPU inside the block loop: asserted of its design, on the CPU.

The Triton kernels are replaced by ones that leave the numbers out, so that all around them is run
as on CUDA. `tests/gpu/test_gpu_no_wait.py` counts the real thing.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, VOCAB, supports, tiny_model
from waiting import Waits

import pyengine
from pyengine import ops, topk_state, triton_ops
from pyengine.attention_masks import GIVEN
from pyengine.capture import ACTIVATION_MODES
from pyengine.engine import Pass
from pyengine.kernels import ffn_capture as capture_kernel
from pyengine.kernels._launch import BLOCK_ROWS

ONCE_A_SEGMENT = {
    "pyengine.engine.Pass._after",
    "pyengine.reducers.heaps.RowHeap.take_overflow",
}


def empty_capture(
    pre: torch.Tensor,
    ids: torch.Tensor,
    *,
    act: str,
    up: torch.Tensor | None = None,
    value: str = "post",
    signs: tuple[int, ...] = (1,),
) -> Any:
    out = pre if act == "identity" and up is None else torch.empty_like(pre)
    maxima = torch.empty(len(signs), -(-ids.numel() // BLOCK_ROWS), pre.shape[2])
    return out, pre if value == "pre" else out, maxima, torch.zeros(1, dtype=torch.int64)


def nothing(*tensors: torch.Tensor, **settings: Any) -> None:
    """Stand for a kernel that works in place."""


@pytest.fixture(autouse=True)
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (ops, topk_state):
        monkeypatch.setattr(module, "backend_for", lambda device, *, cpu="torch": "triton")
    monkeypatch.setattr(capture_kernel, "ffn_capture", empty_capture)
    monkeypatch.setattr(triton_ops, "topk_append", nothing)
    monkeypatch.setattr(triton_ops, "topk_merge", nothing)
    yield


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """What is waited for in every call of the block loop, and of a whole segment."""
    found: dict[str, list[list[str]]] = {"_fold_once": [], "_run_segment": []}
    for name, calls in found.items():
        inner = getattr(Pass, name)

        def watched(self: Pass, *args: Any, _inner: Any = inner, _calls: Any = calls) -> None:
            with Waits() as seen:
                _inner(self, *args)
            _calls.append(seen.found)

        monkeypatch.setattr(Pass, name, watched)
    return found


def corpus(n: int = 30) -> pyengine.Corpus:
    chance = np.random.default_rng(0)
    return pyengine.Corpus.from_token_ids(
        [chance.integers(1, VOCAB, chance.integers(2, 20)).tolist() for _ in range(n)]
    )


def search(model: Any, **settings: Any) -> None:
    options = {"k": 3, "batch_tokens": 128, "block_tokens": 300} | settings
    with torch.random.fork_rng():
        pyengine.trigger_examples(pyengine.load((model, None)), corpus(), **options)


@pytest.mark.parametrize("activation", ACTIVATION_MODES)
@pytest.mark.parametrize("per", ["unit", "token", "prefix"])
@pytest.mark.parametrize("how", GIVEN)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_block_loop_never_waits(
    family: str, how: str, per: str, activation: str, waits: dict[str, list[list[str]]]
) -> None:
    if not supports(family, how):
        pytest.skip("transformers has no such attention")
    model = tiny_model(family, attn_implementation=how)
    if per == "prefix" and not pyengine.load((model, None)).family.causal:
        pytest.skip("prefixes are for causal models")
    search(model, per=per, sign="both", activation=activation)
    assert len(waits["_fold_once"]) > 2
    assert not any(waits["_fold_once"])


@pytest.mark.parametrize("settings", [{"k": 200}, {"dims": (0, 5)}, {"value": "pre"}])
def test_neither_do_other_settings(
    settings: dict[str, Any], waits: dict[str, list[list[str]]]
) -> None:
    search(tiny_model("gpt2"), **settings)
    assert waits["_fold_once"] and not any(waits["_fold_once"])


@pytest.mark.parametrize(("sign", "n_heaps"), [("max", 1), ("both", 2)])
def test_a_segment_is_waited_for_at_its_end(
    sign: str, n_heaps: int, waits: dict[str, list[list[str]]]
) -> None:
    """One look at each overflow flag, one copy of the numbers of NaN: all after the last batch."""
    search(tiny_model("gpt2"), sign=sign)
    for found in waits["_run_segment"]:
        places = [place.split(" in ")[1] for place in found]
        assert set(places) == ONCE_A_SEGMENT
        assert sum(place.startswith("cpu in ") for place in found) == 1
        assert sum(place.startswith("item in ") for place in found) == n_heaps


@pytest.mark.parametrize(
    ("what", "wait"),
    [
        ("item", lambda x: x.sum().item()),
        ("bool", lambda x: bool((x > 0).any())),
        ("nonzero", lambda x: x.nonzero()),
        ("mask", lambda x: x[x > 0]),
        ("put", lambda x: x.index_put_((x > 0,), torch.tensor(1.0))),
        ("cpu", lambda x: x.cpu()),
        ("list", lambda x: x.tolist()),
        ("constant", lambda x: x + torch.tensor(1.0)),
    ],
)
def test_waiting_is_recognised(what: str, wait: Any) -> None:
    x = torch.randn(4)
    with Waits() as waits, torch.inference_mode():
        wait(x)
    assert waits.found
    with Waits() as waits, torch.inference_mode():
        (x[1:] * 2).where(x[1:] > 0, 1.0).masked_fill(x[1:] < 0, 2.0)[torch.arange(2)].clone()
    assert not waits.found
