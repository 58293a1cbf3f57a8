"""Places are the tensors that they name, in every family."""

from typing import Any

import pytest
import torch
from heads_context_cases import batch, every_family, model_of, values_of
from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.heads.places import BLOCK, CROSS, FFN, HEAD, NEURONS, places_of


@every_family
def test_places_are_where_they_say(family: str) -> None:
    """Blocks' and FFNs' outputs are what Hugging Face's own modules return."""
    model = model_of(family)
    inputs = batch(model)
    locations = (HEAD, BLOCK, FFN, NEURONS)
    places = places_of(model, locations)
    assert [(p.location, p.layer) for p in places] == [
        (location, layer) for location in locations for layer in range(model.n_layers)
    ]
    assert len({place.site.name for place in places}) == len(places)
    assert [place.name for place in places[: model.n_layers]] == [
        f"head.{layer}" for layer in range(model.n_layers)
    ]
    seen: dict[tuple[str, int], Tensor] = {}
    handles = []
    for layer in model.layers:

        def keep(key: tuple[str, int], value: Any) -> None:
            seen[key] = value[0] if isinstance(value, tuple | list) else value

        block = layer.module(model.body, f"{layer.stack.blocks}.{{}}")
        down = layer.module(model.body, layer.stack.value)
        handles += [
            block.register_forward_hook(lambda _m, _i, o, n=layer.index: keep((BLOCK, n), o)),
            down.register_forward_hook(lambda _m, _i, o, n=layer.index: keep((FFN, n), o)),
            down.register_forward_pre_hook(lambda _m, i, n=layer.index: keep((NEURONS, n), i)),
        ]
    with torch.no_grad():
        model.hf(**inputs)
    for handle in handles:
        handle.remove()
    found = values_of(model, places, inputs)
    for place in places:
        if place.location != HEAD:
            assert place.n_parts == 1
            assert torch.equal(found[place.site.name], seen[place.location, place.layer])


def test_cross_attention_is_a_place_of_decoders_alone() -> None:
    model = model_of("t5")
    assert [(p.name, p.layer, p.n_parts) for p in places_of(model, (CROSS,))] == [
        (f"cross.{layer}", layer, 3) for layer in (2, 3, 4)
    ]
    heads = [place.site.name for place in places_of(model, (HEAD,))]
    assert heads[1:3] == ["encoder_blocks.1.attn.hook_z", "decoder_blocks.0.self_attn.hook_z"]
    for family in ("gpt2", "openai-gpt", "electra"):
        with pytest.raises(PyengineError, match=r"has no location 'cross'"):
            places_of(model_of(family), (CROSS,))
    with pytest.raises(PyengineError, match="unknown location 'fc'"):
        places_of(model, ("fc",))
