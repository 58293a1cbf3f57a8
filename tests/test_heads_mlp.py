"""MLP probes are SentEval's, dropout included: nn.Dropout's draws are repeated on the CPU."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from heads_probe_cases import drawn, of_head

from benchmarks._heads_procedure import fit, split
from pyengine.heads.probe.goals import Classes
from pyengine.heads.probe.layers import backward, forward
from pyengine.heads.probe.protocols import probe_classes
from pyengine.heads.probe.training import STEP_BYTES, Probes
from pyengine.heads.probe_settings import ProbeSettings
from pyengine.heads.task import SPLIT

MLP = ProbeSettings(hidden=11, batch_size=32, regularisers=(1e-5, 1e-3), max_epochs=20)


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_an_mlp_is_that_of_the_procedure(dropout: float, optimizer: str) -> None:
    settings = replace(MLP, dropout=dropout, optimizer=optimizer)
    x, parts = drawn({"train": 157, "dev": 53, "test": 59}, 3, 7, 3, seed=8)
    found = probe_classes(x, parts, 3, SPLIT, settings)
    assert found.weights is None and found.bias is None
    for head in range(3):
        own = [of_head(x, parts[name], head) for name in ("train", "dev", "test")]
        expected = split(own[0], own[1], own[2], 3, settings)
        assert (found.regulariser[head], found.dev[head], found.test[head]) == expected


def test_weights_of_an_mlp_with_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(MLP, dropout=0.3, regularisers=(1e-3,), max_epochs=4)
    x, parts = drawn({"train": 75, "dev": 30}, 2, 5, 2, seed=9)
    order = np.concatenate([rows[:, 0] for rows, _ in parts.values()])
    y = np.concatenate([targets for _, targets in parts.values()])
    probes = Probes(torch.from_numpy(x[order]), Classes(y, 2, torch.device("cpu")), settings)
    ours = probes.train(np.arange(75), np.arange(75, 105), np.full((2, 2), 1e-3))
    monkeypatch.setitem(STEP_BYTES, "cpu", 1)  # a probe of each head at a time
    again = probes.train(np.arange(75), np.arange(75, 105), np.full((2, 2), 1e-3))
    for layer, other in zip(ours.layers, again.layers, strict=True):
        torch.testing.assert_close(layer, other, atol=1e-5, rtol=0)
    for head in range(2):
        own = [of_head(x, parts[name], head) for name in ("train", "dev")]
        plain = fit(own[0], own[1], 2, 1e-3, settings)
        wanted = [parameter.detach() for parameter in plain.model.parameters()]
        for layer, weights, bias in zip(ours.layers, wanted[::2], wanted[1::2], strict=True):
            expected = torch.cat([weights, bias[:, None]], dim=1)
            torch.testing.assert_close(layer[head, 0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("hidden", [0, 4])
def test_gradients_are_those_of_autograd(hidden: int) -> None:
    generator = torch.Generator().manual_seed(0)
    n_heads, n_probes, n_classes, batch, width = 3, 2, 5, 7, 6
    widths = [width, *([hidden] if hidden else []), n_classes]
    layers = [
        torch.randn(n_heads, n_probes, n_out, n_in + 1, generator=generator, dtype=torch.float64)
        for n_in, n_out in pairwise(widths)
    ]
    x = torch.randn(n_heads, batch, width, generator=generator, dtype=torch.float64)
    noise = torch.rand(hidden, batch, generator=generator, dtype=torch.float64) if hidden else None
    y = torch.randint(0, n_classes, (batch,), generator=generator)
    passed = forward(layers, x, noise)
    goal = Classes(y.numpy(), n_classes, torch.device("cpu"))
    found = backward(layers, x, passed, goal.gradient(passed.logits, torch.arange(batch)), noise)
    wanted = [layer.clone().requires_grad_() for layer in layers]
    state = torch.einsum("hbi,hkoi->hkob", x, wanted[0][..., :-1]) + wanted[0][..., -1:]
    if noise is not None:
        state = torch.sigmoid(state * noise)
        state = torch.einsum("hkib,hkoi->hkob", state, wanted[1][..., :-1]) + wanted[1][..., -1:]
    torch.testing.assert_close(passed.logits, state.detach())
    (-torch.log_softmax(state, 2)[:, :, y, torch.arange(batch)]).sum().backward()
    for gradient, layer in zip(found, wanted, strict=True):
        assert layer.grad is not None
        torch.testing.assert_close(gradient, layer.grad)
