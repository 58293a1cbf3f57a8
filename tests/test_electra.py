"""ELECTRA: discriminators have no head to read through, small models narrow embeddings."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from attribution_cases import tiny, tokenizer
from prediction_helpers import random_units
from tiny_models import tiny_model

import pyengine
from pyengine import Corpus, PyengineError
from pyengine.analyses.fact_neurons import fact_neurons
from pyengine.facts import Fact
from pyengine.readout import readout
from pyengine.weight_edits import edit, erase

CORPUS = Corpus.from_token_ids(random_units())
FACT = Fact("a", "r", "w1", "w9", ("w1 [MASK] w2",))


@pytest.fixture(params=["electra", "electra_small"])
def discriminator(request: pytest.FixtureRequest, tmp_path: Path) -> pyengine.Model:
    """Load what was saved as a discriminator: it comes as a generator with a random head."""
    hf = transformers.ElectraForPreTraining(tiny_model(request.param).config)
    hf.save_pretrained(tmp_path)
    tokenizer("electra").save_pretrained(tmp_path)
    model = pyengine.load(tmp_path)
    assert "generator_predictions.dense.weight" in model.absent
    assert not any(name.startswith("electra.") for name in model.absent)
    return model


def test_whatever_reads_through_the_head_is_refused(discriminator: pyengine.Model) -> None:
    model, refusal = discriminator, "has no output head|narrower than its residual stream"
    kn = pyengine.KnowledgeNeurons(model)
    found = pyengine.trigger_examples(model, CORPUS, 2)
    asked: dict[str, Any] = {
        "readout": lambda: readout(model, model.layers[0], final_norm=False),
        "logits": lambda: pyengine.run_with_cache(model, [[5, 6]]),
        "predictions": lambda: pyengine.ffn_predictions(model, CORPUS),
        "agreement": lambda: pyengine.key_value_agreement(model, found, head="full"),
        "attribution": lambda: kn.attribute("w1 [MASK] w2", "w9", "midpoint", 2),
        "facts": lambda: fact_neurons(model, [FACT]),
    }
    for name, ask in asked.items():
        with pytest.raises(PyengineError, match=refusal) as error:
            ask()
        assert "\n" not in str(error.value), name


def test_the_body_of_a_discriminator_is_read(discriminator: pyengine.Model, tmp_path: Path) -> None:
    model = discriminator
    body = transformers.ElectraModel.from_pretrained(model.name)
    ids = torch.tensor([[5, 6, 7]])
    _, cache = pyengine.run_with_cache(model, ids, return_type=None)
    with torch.no_grad():
        last = body(ids).last_hidden_state
    assert torch.equal(cache["blocks.2.hook_normalized_resid_post"], last)
    same = pyengine.trigger_examples(pyengine.load((body, None)), CORPUS, 2)
    assert torch.equal(pyengine.trigger_examples(model, CORPUS, 2).scores, same.scores)


def test_heads_of_other_tasks_are_none_to_read_through() -> None:
    hf = transformers.ElectraForPreTraining(tiny_model("electra").config)
    model = pyengine.load((hf, None))
    with pytest.raises(PyengineError, match="no output head; head='embedding' reads through"):
        readout(model, model.layers[0], final_norm=False)
    with pytest.raises(PyengineError, match="no output head, hence no logits"):
        pyengine.run_with_cache(model, [[5, 6]])
    with pytest.raises(PyengineError, match="is a electra: it does not generate"):
        pyengine.generate(model, [[5, 6]])


def test_narrow_embeddings_read_nothing_by_themselves() -> None:
    model = tiny("electra_small", torch.float32)
    assert model.W_U.shape == (12, 97) and model.values(0).shape == (37, 20)
    found = pyengine.trigger_examples(model, CORPUS, 2)
    narrow = "narrower than its residual stream: only head='full'"
    with pytest.raises(PyengineError, match=narrow):
        readout(model, model.layers[0], final_norm=True, head="embedding")
    for mode in ("layer", "value"):
        with pytest.raises(PyengineError, match=narrow):
            pyengine.ffn_predictions(model, CORPUS, mode)
    with pytest.raises(PyengineError, match=narrow):
        pyengine.key_value_agreement(model, found, head="embedding")
    for change in (
        lambda: erase(model, [(0, 3)], "unk"),
        lambda: edit(model, [(0, 3)], old="w1", new="w2"),
    ):
        with pytest.raises(PyengineError, match="narrower than its values: none can be written"):
            change()
    with erase(model, [(0, 3)]):
        assert not model.values(0)[3].any()


def test_a_generator_with_narrow_embeddings_is_read_through_its_head() -> None:
    model = tiny("electra_small")
    ids = torch.tensor([[5, 6, 7]])
    logits, cache = pyengine.run_with_cache(model, ids)
    last = cache["blocks.2.hook_normalized_resid_post"][0]
    read = readout(model, model.layers[-1], final_norm=False)
    torch.testing.assert_close(read.logits(last), logits[0])


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_an_encoder_that_was_made_a_decoder_is_refused(family: str) -> None:
    with pytest.raises(PyengineError, match=f"is a {family} with is_decoder=True"):
        pyengine.load(tiny_model(family, is_decoder=True))
