"""Several target tokens as EleutherAI's package reads them: after what the model says itself.

Token i is read after the prompt and the model's own i best tokens before it, decoded to text,
appended, and tokenised again; where texts merge, positions shift. Kept for comparison: teacher
forcing (`pyengine.cloze`) is what probabilities of a sequence mean.
"""

from functools import partial
from typing import Any

from pyengine.answer_tokens import Target
from pyengine.answers import answers
from pyengine.cloze import Cloze, Prompt, clozes
from pyengine.errors import PyengineError
from pyengine.models import Model


def greedy_clozes(model: Model, prompt: Prompt, target: Target) -> list[Cloze]:
    """Return one cloze per target token of a causal model; runs the model once for each.

    Raises:
        PyengineError: as `pyengine.cloze.clozes`; and for a prompt that is not text.
    """
    if not isinstance(prompt, str):
        raise PyengineError("conditioning='greedy' appends text; give the prompt as text")
    teacher = clozes(model, prompt, target)
    found = teacher[:1]
    tokenizer: Any = model.tokenizer
    decode = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    text = decode(list(found[0].input_ids))
    for wanted in teacher[1:]:
        text += decode(answers(model, found[-1:]).top_token.tolist())
        found += clozes(model, text, wanted.target)
    return found
