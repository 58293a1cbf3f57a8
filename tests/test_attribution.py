"""Attribution: what comes back, what is left alone, what is refused."""

import warnings
from typing import Any

import attribution_cases as cases
import pytest
import torch
from tiny_models import FAMILIES

import pyengine
from pyengine.analyses.attribution import Attribution

families = pytest.mark.parametrize("family", FAMILIES)


def attribute(model: pyengine.Model, **settings: Any) -> Attribution:
    kn = pyengine.KnowledgeNeurons(model)
    return kn.attribute(cases.prompts(model), cases.TARGETS, **{"steps": 3, **settings})


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result(family: str, dtype: torch.dtype) -> None:
    model = cases.tiny(family, dtype)
    found = attribute(model, method="midpoint")
    assert found.scores.dtype == dtype
    assert found.scores.shape == (3, model.n_layers, model.d_ff)
    assert found.scores.device.type == "cpu"
    assert not found.scores.requires_grad
    for table in (found.completeness, found.change, found.nodes, found.converged):
        assert table.shape == (3, model.n_layers)
        assert not table.requires_grad
    assert found.nodes.dtype == torch.int32
    assert found.converged.dtype == torch.bool
    ids = [tuple(cloze.target for cloze in items) for items in cases.items(model)]
    assert [*found.targets] == ids
    assert found.settings["method"] == "midpoint"
    assert found.settings["steps"] == 3
    kn = pyengine.KnowledgeNeurons(model)
    single = kn.attribute(cases.prompts(model)[0], cases.TARGETS[0], "midpoint", 3)
    assert single.scores.shape[0] == 1
    torch.testing.assert_close(single.scores[0], found.scores[0], rtol=1e-4, atol=1e-6)


@families
def test_the_model_is_left_alone(family: str) -> None:
    model = cases.tiny(family)
    expected = attribute(model).scores
    hf = model.hf.train()
    module = next(m for m in hf.modules() if type(m).__name__ == "Dropout")
    module.eval()  # a mixed mode must come back as it was
    frozen = next(hf.parameters()).requires_grad_(False)
    gradients = {}
    for name, parameter in hf.named_parameters():
        if parameter.requires_grad:
            gradients[name] = parameter.grad = torch.ones_like(parameter)
    modes = {name: m.training for name, m in hf.named_modules()}
    state = {name: tensor.clone() for name, tensor in hf.state_dict().items()}
    modules = {name: id(m) for name, m in hf.named_modules()}
    for method in ("adaptive", "package", "max_activation", "gradient_x_activation"):
        attribute(model, method=method)
    assert torch.equal(attribute(model).scores, expected), "dropout"
    assert {name: m.training for name, m in hf.named_modules()} == modes
    assert {name: id(m) for name, m in hf.named_modules()} == modules
    assert not frozen.requires_grad
    for name, parameter in hf.named_parameters():
        assert parameter.requires_grad == (name in gradients)
        assert parameter.grad is gradients.get(name)
        assert parameter.grad is None or bool((parameter.grad == 1).all())
    assert all(torch.equal(tensor, state[name]) for name, tensor in hf.state_dict().items())
    for part in hf.modules():
        assert not any((part._forward_hooks, part._forward_pre_hooks, part._backward_hooks))


@families
def test_works_without_gradients_of_the_caller(family: str) -> None:
    model = cases.tiny(family)
    expected = attribute(model).scores
    with torch.no_grad():
        assert torch.equal(attribute(model).scores, expected)
    with torch.inference_mode():
        assert torch.equal(attribute(model).scores, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "simpson"}, "unknown method 'simpson'"),
        ({"steps": 0}, "steps"),
        ({"objective": "loss"}, "unknown objective 'loss'"),
        ({"value": "middle"}, "unknown value 'middle'"),
        ({"baseline": "median"}, "unknown baseline 'median'"),
        ({"baseline": torch.zeros(2, 2)}, "baseline"),
        ({"conditioning": "beam"}, "unknown conditioning 'beam'"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"budget": 0}, "budget"),
    ],
)
def test_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    model = cases.tiny("bert")
    with pytest.raises(pyengine.PyengineError, match=message):
        attribute(model, **settings)


def test_prompts_and_targets_must_pair() -> None:
    kn = pyengine.KnowledgeNeurons(cases.tiny("gpt2"))
    with pytest.raises(pyengine.PyengineError, match=r"2 prompts.*1 target"):
        kn.attribute(["w1", "w2"], ["w3"])


def test_no_warning_of_our_own() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attribute(cases.tiny("gpt2"))
