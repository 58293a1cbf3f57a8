"""The table resolves every part of every real configuration, without its weights."""

from typing import Any

import pytest
import torch
import transformers
from tiny_models import D_FF, EVERY, tiny_model

import pyengine
from pyengine.families import family_of
from pyengine.layers import body_of, layers_of


def _weight(module: Any) -> torch.Tensor:
    return module.weight


def _gpt2(d_model: int, n_layer: int, n_head: int) -> Any:
    return transformers.GPT2Config(n_embd=d_model, n_layer=n_layer, n_head=n_head)


def _bert(d_model: int, n_layer: int, n_head: int, vocab: int) -> Any:
    return transformers.BertConfig(
        hidden_size=d_model,
        num_hidden_layers=n_layer,
        num_attention_heads=n_head,
        intermediate_size=4 * d_model,
        vocab_size=vocab,
    )


def _neo(d_model: int, n_layer: int, n_head: int) -> Any:
    return transformers.GPTNeoConfig(
        hidden_size=d_model,
        num_layers=n_layer,
        num_heads=n_head,
        attention_types=[[["global", "local"], n_layer // 2]],
    )


def _t5(d_model: int, d_ff: int, n_layer: int, n_head: int, d_kv: int = 64, **more: Any) -> Any:
    return transformers.T5Config(
        d_model=d_model, d_ff=d_ff, num_layers=n_layer, num_heads=n_head, d_kv=d_kv, **more
    )


def _electra(size: int, d_model: int, n_layer: int, n_head: int, d_ff: int) -> Any:
    return transformers.ElectraConfig(
        embedding_size=size,
        hidden_size=d_model,
        num_hidden_layers=n_layer,
        num_attention_heads=n_head,
        intermediate_size=d_ff,
    )


V1_1: dict[str, Any] = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}

# name -> (configuration, layers, d_ff)
REAL = {
    "gpt2": (_gpt2(768, 12, 12), 12, 3072),
    "gpt2-medium": (_gpt2(1024, 24, 16), 24, 4096),
    "gpt2-large": (_gpt2(1280, 36, 20), 36, 5120),
    "gpt2-xl": (_gpt2(1600, 48, 25), 48, 6400),
    "bert-base-uncased": (_bert(768, 12, 12, 30522), 12, 3072),
    "bert-large-uncased": (_bert(1024, 24, 16, 30522), 24, 4096),
    "bert-base-multilingual-cased": (_bert(768, 12, 12, 119547), 12, 3072),
    "EleutherAI/gpt-neo-125M": (_neo(768, 12, 12), 12, 3072),
    "EleutherAI/gpt-neo-1.3B": (_neo(2048, 24, 16), 24, 8192),
    "EleutherAI/gpt-neo-2.7B": (_neo(2560, 32, 20), 32, 10240),
    "openai-community/openai-gpt": (transformers.OpenAIGPTConfig(), 12, 3072),
    "google/electra-small-discriminator": (_electra(128, 256, 12, 4, 1024), 12, 1024),
    "google/electra-base-discriminator": (_electra(768, 768, 12, 12, 3072), 12, 3072),
    "google/electra-large-discriminator": (_electra(1024, 1024, 24, 16, 4096), 24, 4096),
    "google/electra-small-generator": (_electra(128, 256, 12, 4, 1024), 12, 1024),
    "google/electra-base-generator": (_electra(768, 256, 12, 4, 1024), 12, 1024),
    "t5-small": (_t5(512, 2048, 6, 8), 12, 2048),
    "t5-base": (_t5(768, 3072, 12, 12), 24, 3072),
    "t5-large": (_t5(1024, 4096, 24, 16), 48, 4096),
    "t5-3b": (_t5(1024, 16384, 24, 32, d_kv=128), 48, 16384),
    "google/t5-v1_1-small": (_t5(512, 1024, 8, 6, **V1_1), 16, 1024),
    "google/t5-v1_1-base": (_t5(768, 2048, 12, 12, **V1_1), 24, 2048),
    "google/t5-v1_1-large": (_t5(1024, 2816, 24, 16, **V1_1), 48, 2816),
    "google/t5-v1_1-xl": (_t5(2048, 5120, 24, 32, **V1_1), 48, 5120),
}


@pytest.mark.parametrize("name", REAL)
def test_every_part_of_a_real_configuration_resolves(name: str) -> None:
    config, n_layers, d_ff = REAL[name]
    family = family_of(config)
    with torch.device("meta"):
        hf = getattr(transformers, family.auto_class).from_config(config)
    body = body_of(hf)
    layers = layers_of(family, body)
    assert [layer.index for layer in layers] == list(range(n_layers))
    d_model = config.hidden_size
    embedding_size = getattr(config, "embedding_size", d_model)
    assert _weight(body.get_submodule(family.embedding)).shape[1] == embedding_size
    for layer in layers:
        stack = layer.stack
        for key in filter(None, (layer.key(body), layer.up(body))):
            assert sorted(_weight(key).shape) == sorted((d_model, d_ff))
        assert sorted(_weight(layer.module(body, stack.value)).shape) == sorted((d_model, d_ff))
        assert not list(layer.module(body, stack.activation).parameters())
        for part in stack.attention:
            assert d_model in _weight(layer.module(body, part)).shape
        for part in (*stack.norms, *filter(None, [stack.final_norm])):
            assert _weight(layer.module(body, part)).shape == (d_model,)
    gated = getattr(config, "is_gated_act", False)
    assert all((layer.up(body) is not None) == gated for layer in layers)
    head = hf.get_submodule(family.unembedding)
    assert head is hf.get_output_embeddings()
    assert head.weight.shape == (config.vocab_size, embedding_size)


@pytest.mark.parametrize("family", EVERY)
def test_model_knows_its_sizes(family: str) -> None:
    model = pyengine.load((tiny_model(family), None))
    assert model.d_ff == D_FF[family]
    assert model.vocab_size == 97 and model.max_positions == (512 if "t5" in family else 32)
    assert model.n_layers == {"gpt_neo": 4, "t5": 5, "t5_gated": 5}.get(family, 3)


def test_headless_bodies_are_accepted() -> None:
    bert = transformers.BertModel(tiny_model("bert").config)
    assert pyengine.load((bert, None)).n_layers == 3
    encoder = transformers.T5EncoderModel(tiny_model("t5").config)
    assert pyengine.load((encoder, None)).n_layers == 2


def test_unknown_architecture_is_refused_by_name() -> None:
    config = transformers.OPTConfig(
        vocab_size=10, hidden_size=8, num_hidden_layers=1, ffn_dim=8, num_attention_heads=2
    )
    config.word_embed_proj_dim = 8
    with pytest.raises(
        pyengine.PyengineError, match=r"'opt'.*bert, electra, gpt2, gpt_neo, openai-gpt, t5"
    ):
        pyengine.load((transformers.OPTForCausalLM(config), None))
