"""What the tests of fact runs share: a tokenizer, facts, a cheap attribution, and calls."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import pyengine
from pyengine.analyses import fact_pass
from pyengine.analyses.attribution import Attribution
from pyengine.analyses.attribution_settings import AttributionSettings
from pyengine.analyses.fact_neurons import fact_neurons
from pyengine.cloze import Cloze
from pyengine.facts import Fact

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<extra_id_0>", "."]
N_WORDS = 80
RESULT_FILES = {
    f"{name}.parquet" for name in ("facts", "neurons", "effects", "skipped", "relations", "layers")
}


def tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer of words `w0` ... `w79` that every family can use."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(N_WORDS))])}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    tokens.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
    )


def load(family: str = "gpt2", seed: int = 0) -> pyengine.Model:
    return pyengine.load((tiny_model(family, seed), tokenizer()))


def facts(n: int = 17, seed: int = 0) -> list[Fact]:
    """Facts of three relations, of 1 to 4 prompts; some objects have two words.

    Number 3 has an unknown object; number 5 has no prompt that ends in the object.
    """
    rng = np.random.default_rng(seed)

    def words(least: int, most: int) -> str:
        return " ".join(f"w{i}" for i in rng.integers(0, N_WORDS, rng.integers(least, most + 1)))

    found = []
    for number in range(n):
        target = "unknown" if number == 3 else words(1, 1 + (number % 4 == 0))
        prompts = [f"{words(1, 6)} [MASK] ." for _ in range(1 + number % 4)]
        inside = [f"{words(1, 3)} [MASK] {words(1, 3)} ."]
        prompts = inside if number == 5 else prompts + inside * (number % 2)
        relation = f"r{number * 3 // n}"
        found.append(Fact(f"fact-{number}", relation, words(1, 2), target, tuple(prompts)))
    return found


def fake_attribute(
    model: pyengine.Model,
    prompts: Sequence[Sequence[Cloze]],
    settings: AttributionSettings,
    on_progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Score neurons at random, but alike for the same target, and the same in every batch."""

    def draw(ids: Sequence[int]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(hash(tuple(ids)) % 2**31)
        return torch.randn(model.n_layers, model.d_ff, generator=generator)

    scores = []
    for done, items in enumerate(prompts):
        scores.append(draw([cloze.target for cloze in items]) ** 3 + draw(items[0].input_ids))
        if on_progress is not None:
            on_progress(done + 1, len(prompts))
    n, shape = len(prompts), (len(prompts), model.n_layers)
    return Attribution(
        scores=torch.stack(scores),
        completeness=torch.full(shape, 0.01),
        change=torch.full(shape, -0.5),
        nodes=torch.full(shape, 9, dtype=torch.int32),
        converged=torch.arange(n * model.n_layers).reshape(shape) >= 0,
        probability=torch.full((n,), 0.5),
        targets=[tuple(cloze.target for cloze in items) for items in prompts],
        exact=True,
        settings=settings.record(),
    )


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the attribution, which is not what is tested."""
    monkeypatch.setattr(fact_pass, "attribute", fake_attribute)


def find(out: Path | None = None, family: str = "gpt2", **more: Any) -> Any:
    """Run over the facts; `facts`, `model_seed` and settings may be given."""
    chosen = more.pop("facts", None) or facts()
    model = load(family, more.pop("model_seed", 0))
    settings: dict[str, Any] = {"block_facts": 2, "share": 0.4}
    return fact_neurons(model, chosen, out=out, **settings | more)


def result_hashes(run: Path) -> dict[str, str]:
    """Return the checksums of a run's results, after checking that nothing else lies around."""
    found = {file.name for file in run.iterdir()}
    assert found == RESULT_FILES | {"manifest.json", "provenance.json"}
    return {
        name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in sorted(RESULT_FILES)
    }
