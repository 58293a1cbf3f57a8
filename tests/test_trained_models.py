"""The search on the trained models that ship with the project, against brute force, over text."""

from pathlib import Path
from typing import Any

import pytest
import torch
from brute_force import candidates, select

import pyengine
from pyengine import Corpus
from pyengine.embedded import EXCERPT, MODEL

MODELS = Path(__file__).parent / "models"
FOLDERS = {name: MODELS / name for name in ("bert", "gpt_neo", "t5")} | {"gpt2": MODEL}

# What the tokenizer puts around a text, by family.
SPECIAL = {"bert": ("[CLS]", "[SEP]"), "t5": (None, "</s>")}


def surroundings(name: str, tokenizer: Any) -> dict[str, Any]:
    before, after = SPECIAL.get(name, (None, None))
    return {
        "prefix": [tokenizer.convert_tokens_to_ids(before)] if before else [],
        "suffix": [tokenizer.convert_tokens_to_ids(after)] if after else [],
    }


@pytest.fixture(scope="module", params=sorted(FOLDERS))
def searched(request: pytest.FixtureRequest) -> tuple[str, Any, Any, list[Any]]:
    """A family's model, its runs for k = 3, and every activation of the same units."""
    name = request.param
    model = pyengine.load(FOLDERS[name])
    corpus = Corpus.from_wikitext(EXCERPT, max_units=20)
    found = pyengine.trigger_examples(model, corpus, k=3, batch_tokens=300)
    texts = [found.text.decode(_tokens(model, corpus, unit)) for unit in range(20)]
    units = [_tokens(model, corpus, unit) for unit in range(20)]
    assert all(texts)
    entries = candidates(model.hf, units, **surroundings(name, model.tokenizer))
    return name, model, (found, corpus, units), entries


def _tokens(model: pyengine.Model, corpus: Corpus, unit: int) -> list[int]:
    from pyengine.store import tokenize

    return tokenize(corpus, model.tokenizer, max_tokens=120).unit_tokens(unit).tolist()


def test_equals_brute_force(searched: tuple[str, Any, Any, list[Any]]) -> None:
    _, model, (found, _, units), entries = searched
    assert found.scores.shape == (model.n_layers, model.d_ff, 3)
    for layer, dims in enumerate(entries):
        scale = max(abs(entry[0]) for dim in dims for entry in dim)
        for dim, column in enumerate(dims):
            best = select(column, 3, units=units)
            scores = torch.tensor([entry[0] for entry in best])
            assert (found.scores[layer, dim] - scores).abs().max() <= 1e-5 * scale
            for rank, (score, unit, _) in enumerate(best):
                near = [e for e in column if abs(e[0] - score) <= 2e-5 * scale]
                if len(near) == 1:
                    assert int(found.units[layer, dim, rank]) == unit


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_close(searched: tuple[str, Any, Any, list[Any]], dtype: str) -> None:
    from pyengine.analyses.compare import compare

    name, _, (found, corpus, _), _ = searched
    model = pyengine.load(FOLDERS[name], dtype=dtype)
    half = pyengine.trigger_examples(model, corpus, k=3, batch_tokens=300)
    for layer in compare(found, half):
        assert layer.overlap > 0.8
        assert layer.band < (0.2 if dtype == "bfloat16" else 0.05)


def test_special_tokens_never_compete(searched: tuple[str, Any, Any, list[Any]]) -> None:
    _, model, (found, _, _), _ = searched
    special = set(model.tokenizer.all_special_ids) - {model.tokenizer.unk_token_id}
    for layer in range(model.n_layers):
        for dim in range(0, model.d_ff, 37):
            assert not {e.token for e in found.examples(layer, dim)} & special
