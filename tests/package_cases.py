"""Models that the package `knowledge-neurons` can read: tiny random ones, and the trained ones."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import pyengine

MODELS = Path(__file__).parent / "models"

WORDS = "sarah was visiting paris london the capital of france england is , . a in city famous"
GPT_TEXTS = [
    "Sarah was visiting the capital of france , a famous city , which is Paris",
    "the capital of england is London and the official language of Spain is Spanish",
]


class Case(NamedTuple):
    """One model with a fact: prompts and their answer, as the package wants them."""

    hf: Any
    tokenizer: Any
    model_type: str
    prompts: list[str]
    target: str
    other: str

    @property
    def value(self) -> str:
        """Where the package looks: after BERT's non-linearity, before GPT's."""
        return "post" if self.model_type == "bert" else "pre"


def _word_pieces(folder: Path) -> Any:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return transformers.BertTokenizer.from_pretrained(folder, do_lower_case=True)


def _byte_pairs() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet, end = pre_tokenizers.ByteLevel.alphabet(), "<|endoftext|>"
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(GPT_TEXTS * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token=end, bos_token=end, eos_token=end
    )


def _tiny_bert(folder: Path) -> Case:
    tokenizer = _word_pieces(folder)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=3,
        hidden_size=64,
        num_attention_heads=4,
        intermediate_size=256,
    )
    prompts = [
        "Sarah was visiting [MASK] , the capital of france .",
        "[MASK] is the capital of france",
        "the city of [MASK] is famous",
    ]
    hf = transformers.BertLMHeadModel(config)
    return Case(_spread(hf), tokenizer, "bert", prompts, "paris", "london")


def _tiny_gpt(model_type: str) -> Case:
    tokenizer = _byte_pairs()
    size: dict[str, Any] = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0}
    if model_type == "gpt2":
        small = transformers.GPT2Config(n_layer=3, n_embd=64, n_head=4, **size)
        hf: Any = transformers.GPT2LMHeadModel(small)
    else:
        size |= {"hidden_size": 64, "num_layers": 4, "num_heads": 4, "window_size": 4}
        size |= {"attention_types": [[["global", "local"], 2]]}
        hf = transformers.GPTNeoForCausalLM(transformers.GPTNeoConfig(**size))
    prompts = [
        "Sarah was visiting the capital of france , a famous city ,",
        "the capital of france is",
        "a famous city which is",
    ]
    return Case(_spread(hf), tokenizer, model_type, prompts, " Paris", " London")


def _spread(hf: Any) -> Any:
    """Make the weights larger than at the start of a training, so that the model is not linear."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.1)
    return hf.eval()


def _trained(name: str, model_type: str) -> Case:
    model = pyengine.load(name, device="cpu")
    prompts = ["Vobirk Drovind was born in", "As a child, Vobirk Drovind lived in"]
    prompts += ["Vobirk Drovind comes from the city of", "The birthplace of Vobirk Drovind is"]
    if model_type == "bert":
        masked = [f"{prompt} [MASK]." for prompt in prompts]
        return Case(model.hf, model.tokenizer, model_type, masked, "rome", "paris")
    return Case(model.hf, model.tokenizer, model_type, prompts, " Rome", " Paris")


NAMES = ("tiny bert", "tiny gpt2", "tiny gpt_neo", "bert", "gpt2", "gpt_neo")


def make(name: str, folder: Path) -> Case:
    """Make one of `NAMES` anew; `folder` is for the files of a tokenizer."""
    makers = {
        "tiny bert": lambda: _tiny_bert(folder),
        "tiny gpt2": lambda: _tiny_gpt("gpt2"),
        "tiny gpt_neo": lambda: _tiny_gpt("gpt_neo"),
        "bert": lambda: _trained(str(MODELS / "bert"), "bert"),
        "gpt2": lambda: _trained("demo", "gpt2"),
        "gpt_neo": lambda: _trained(str(MODELS / "gpt_neo"), "gpt_neo"),
    }
    return makers[name]()
