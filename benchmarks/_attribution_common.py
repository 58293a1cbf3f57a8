"""What the parts of the attribution benchmark share: its sizes, its models, the ways to compare.

Every way is given the same Hugging Face model and tokenizer in memory.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

import pyengine
from pyengine.embedded import EXCERPT

FAMILIES = ("bert", "gpt2")
NAMES = {"bert": "BERT-base", "gpt2": "GPT-2 small"}
SMALL = {"gpt2": "demo", "bert": "tests/models/bert", "gpt_neo": "tests/models/gpt_neo"}
ROOT, FACTS = Path(__file__).resolve().parents[1], EXCERPT.parent / "facts.jsonl"
PACKAGE, SAME_RULE, ADAPTIVE = "package 0.0.2", "same rule", "adaptive"
OWN_NEURONS = f"{ADAPTIVE}, post-activation"  # by default; GPT's in the package are pre-
LOOSE = 1e-2

# A dozen tokens for either tokenizer, and what lengthens them.
QUESTIONS = {
    "bert": ("Sarah was visiting [MASK] , the capital of france .", "paris"),
    "gpt2": ("Sarah was visiting the capital of france , a famous city ,", " Paris"),
}
MORE = " the capital of england is London and the official language of Spain is Spanish"
TINY: dict[str, dict[str, int]] = {
    "bert": {
        "num_hidden_layers": 3,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "intermediate_size": 256,
    },
    "gpt2": {"n_layer": 3, "n_embd": 64, "n_head": 4},
}


@dataclass(frozen=True)
class Scale:
    """How much is measured; the defaults are the benchmark.

    Attributes:
        steps: nodes of the package's rule.
        lengths: tokens of a prompt, at least 12.
        rounds: repetitions of ours.
        package_rounds: repetitions of the package, for each length.
        facts: prompts that errors are measured on.
        reference_nodes: of the Gauss-Legendre rule that they are measured against.
        prompts: in a batch.
        dense_prompts: in a batch of BERT-base.
        tiny: narrow models of three layers, for the tests of this code.
    """

    steps: int = 20
    lengths: tuple[int, ...] = (12, 40)
    rounds: int = 3
    package_rounds: tuple[int, ...] = (3, 2)
    facts: int = 30
    reference_nodes: int = 64
    prompts: int = 64
    dense_prompts: int = 8
    tiny: bool = False


class Question(NamedTuple):
    """A prompt as both the package and ours read it, and its answer of one token."""

    prompt: str
    target: str


class Scored(NamedTuple):
    """Scores [n_layers, d_ff], and gradients evaluated per layer, on average."""

    scores: Tensor
    nodes: float


@dataclass(frozen=True, eq=False)
class Case:
    """A model that the package can read.

    Attributes:
        name: for people.
        family: as the package calls it.
        hf, tokenizer: Hugging Face's.
    """

    name: str
    family: str
    hf: Any
    tokenizer: Any

    @property
    def value(self) -> str:
        """Return where the package looks: after BERT's non-linearity, before GPT's."""
        return "post" if self.family == "bert" else "pre"

    def ours(self) -> pyengine.KnowledgeNeurons:
        return pyengine.KnowledgeNeurons((self.hf, self.tokenizer))

    def package(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from knowledge_neurons import KnowledgeNeurons
        return KnowledgeNeurons(self.hf, self.tokenizer, model_type=self.family, device="cpu")

    def ways(self, steps: int, batch_size: int | None = None) -> dict[str, "Way"]:
        """Return the ways to score a question, by name; the package's is the first.

        Args:
            steps: nodes of the package's rule.
            batch_size: of the package; None: all steps at once, which is fastest.
        """
        theirs = self.package()

        def package(asked: Question) -> Scored:
            how = {"batch_size": batch_size or steps, "steps": steps, "pbar": False}
            return Scored(theirs.get_scores(*asked, **how).detach(), steps)

        own = partial(scored, self.ours(), self.value)
        return {
            PACKAGE: package,
            SAME_RULE: partial(own, method="package", steps=steps),
            ADAPTIVE: own,
            f"{ADAPTIVE}, tolerance {LOOSE}": partial(own, tolerance=LOOSE),
        }


Way = Callable[[Question], Scored]


def scored(kn: pyengine.KnowledgeNeurons, value: str, asked: Question, **settings: Any) -> Scored:
    """Score a question our way."""
    found = kn.attribute(*asked, value=value, **settings)
    return Scored(found.scores[0], found.nodes.double().mean().item())


def base(family: str, tiny: bool) -> Case:
    """Make a random model of BERT-base's or GPT-2 small's size, with a tokenizer for it."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()  # of BERT without a decoder
    torch.manual_seed(0)
    sizes: dict[str, Any] = TINY[family] if tiny else {}
    hf: Any
    if family == "bert":
        hf = transformers.BertLMHeadModel(transformers.BertConfig(**sizes))
        tokenizer = _word_pieces(hf.config.vocab_size)
    else:
        hf = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
        tokenizer = _byte_pairs()
    return Case(NAMES[family], family, hf.eval(), tokenizer)


def question(case: Case, n_tokens: int) -> Question:
    """Return a question of so many tokens, which stands in the vocabulary of `base`."""
    text, target = QUESTIONS[case.family]
    short = len(case.tokenizer(text)["input_ids"])
    words = (MORE.split() * n_tokens)[: max(0, n_tokens - short)]
    prompt = " ".join([text, *words])
    if (found := len(case.tokenizer(prompt)["input_ids"])) != n_tokens:
        raise RuntimeError(f"a prompt of {n_tokens} tokens has {found}")
    return Question(prompt, target)


def small(family: str, double: bool = False) -> Case:
    """Load a small model that was trained on the facts."""
    name = SMALL[family]
    source = name if name == "demo" else ROOT / name
    model = pyengine.load(source, device="cpu", dtype="float64" if double else "float32")
    return Case(f"trained {family}", family, model.hf, model.tokenizer)


def known(family: str, n: int) -> list[Question]:
    """Return questions about n of the facts, evenly spaced, in different wordings."""
    lines = FACTS.read_text(encoding="utf-8").splitlines()
    found = []
    for i in range(n):
        fact = json.loads(lines[i * len(lines) // n])
        prompts = [*fact["prompts"].values()]
        prompt, target = prompts[i % len(prompts)], fact["object"]
        if family == "bert":
            found.append(Question(f"{prompt} [MASK].", target.lower()))
        else:
            found.append(Question(prompt, f" {target}"))
    return found


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest score."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def prompt_lengths(n: int) -> np.ndarray:
    """Draw lengths of 8 to 20 tokens, the shorter the more frequent; 12 on average."""
    return 8 + np.random.default_rng(0).integers(0, 13, (n, 2)).min(1)


def _word_pieces(vocab_size: int) -> Any:
    words = " ".join([*QUESTIONS["bert"], MORE]).lower().replace("[mask]", "").split()
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(words)]
    tokens += [f"[unused{i}]" for i in range(vocab_size - len(tokens))]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
        return transformers.BertTokenizer.from_pretrained(folder, do_lower_case=True)


def _byte_pairs() -> Any:
    """Train byte pairs until every word of the questions is one token."""
    text, target = QUESTIONS["gpt2"]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet, end = pre_tokenizers.ByteLevel.alphabet(), "<|endoftext|>"
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([text + MORE + target] * 20, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token=end, bos_token=end, eos_token=end
    )
