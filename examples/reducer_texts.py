"""What the reducer examples share: sentences to read, and a way to show what was found."""

from typing import Any

from pyengine import StreamingTopK
from pyengine.embedded import EXCERPT
from pyengine.text import wikitext_sentences

N_SENTENCES = 48


def sentences() -> list[str]:
    """Return the first sentences of the WikiText excerpt that ships with pyengine."""
    lines = EXCERPT.read_text(encoding="utf-8").splitlines()
    return [text for line in lines for text in wikitext_sentences(line)][:N_SENTENCES]


def show(topk: StreamingTopK, tokenizer: Any, inputs: list[str], keys: range = range(3)) -> None:
    """Print the best examples of a few keys: the text as far as the token that fired."""
    best = topk.compute()
    for key in keys:
        print(f"key {key}")
        for score, unit, position in zip(*(column[key].tolist() for column in best), strict=True):
            if unit >= 0:
                tokens = tokenizer(inputs[unit]).input_ids[: position + 1]
                before, fired = tokenizer.decode(tokens[:-1]), tokenizer.decode(tokens[-1:])
                print(f"  {score:8.4f}  {before}[{fired}]")
