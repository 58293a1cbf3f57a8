"""Facts to ask a model about: one relation of a subject and an object, in several prompts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from pyengine.cloze import MASK
from pyengine.errors import PyengineError
from pyengine.lines import check_files, check_text, hash_texts, read_lines

# What may follow the object in a prompt that still ends in it.

# Spellings of the same field, the first that is there counts.
_UID = ("uid", "uuid", "id")
_OBJECT = ("target", "object", "obj_label")
_SUBJECT = ("subject", "sub_label")


@dataclass(frozen=True)
class Fact:
    """One fact.

    Attributes:
        uid: its name, unique among the facts of a run.
        relation: facts of the same relation differ in subject and object only.
        subject: may be empty where it is not known.
        object: what the model is to answer.
        prompts: the same question in several words, `[MASK]` standing for the object.
    """

    uid: str
    relation: str
    subject: str
    object: str
    prompts: tuple[str, ...]


def read_facts(paths: str | Path | Sequence[str | Path]) -> list[Fact]:
    """Read facts from JSON lines (`.jsonl`, plain, `.gz` or `.zst`), one object per line.

    A line holds `relation`, `target` (or `object`), `prompts` and, if wanted, `uid` (or `id`; by
    default the relation and the line's number) and `subject`. A prompt without `[MASK]` is the text
    before the answer. `templates`, whole sentences that name the object, may stand for `prompts`;
    where a line has both, they count. Both are lists, or objects whose values are taken.

    Raises:
        PyengineError: for a file or line that cannot be read, with its number.
    """
    facts = []
    for path in check_files(paths):
        for line, number, _ in read_lines(path):
            if line.strip():
                facts.append(_fact(line, number, f"{path}:{number}"))
    if not facts:
        raise PyengineError(f"{paths} holds no fact")
    return facts


def check_facts(facts: Sequence[Fact]) -> None:
    """Check facts for a run.

    Raises:
        PyengineError: if there is none, a name is used twice, or one has no prompt or a prompt
            without a place for the object.
    """
    if not facts:
        raise PyengineError("there are no facts; give at least one")
    seen: set[str] = set()
    for fact in facts:
        if fact.uid in seen:
            raise PyengineError(f"two facts are called {fact.uid!r}; names must differ")
        seen.add(fact.uid)
        if not fact.prompts:
            raise PyengineError(f"fact {fact.uid!r} has no prompts")
        for prompt in fact.prompts:
            if MASK not in prompt:
                raise PyengineError(f"fact {fact.uid!r}: the prompt {prompt!r} has no {MASK}")


def by_relation(facts: Sequence[Fact]) -> list[Fact]:
    """Put the facts of each relation side by side; relations in order of first appearance."""
    groups: dict[str, list[Fact]] = {}
    for fact in facts:
        groups.setdefault(fact.relation, []).append(fact)
    return [fact for group in groups.values() for fact in group]


def describe_facts(facts: Sequence[Fact], source: str) -> dict[str, Any]:
    """Return the manifest's section on facts; `source` is for display."""
    return {
        "source": source,
        "sha256": hash_texts(json.dumps(astuple(fact)) for fact in facts),
        "n_facts": len(facts),
        "n_prompts": sum(len(fact.prompts) for fact in facts),
        "n_relations": len({fact.relation for fact in facts}),
    }


def with_mask(prompt: str) -> str:
    """Give a text that stops before the answer its `[MASK]`."""
    return prompt if MASK in prompt else f"{prompt.rstrip()} {MASK}"


def field(record: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    """Return the first of some fields that a record has, as text.

    Raises:
        PyengineError: if it has none of them, or it is empty or not text.
    """
    for name in names:
        if name in record:
            text = check_text(record[name], f"{where}: {name}")
            if not text.strip():
                raise PyengineError(f"{where}: {name} is empty")
            return text
    raise PyengineError(f"{where}: the field {names[0]!r} is missing")


def texts(values: Any, where: str) -> list[str]:
    """Return a list of texts, or the values of an object, as they are.

    Raises:
        PyengineError: if it is something else.
    """
    listed = [*values.values()] if isinstance(values, Mapping) else values
    if not isinstance(listed, list):
        raise PyengineError(f"{where} must be a list of texts, not {type(values).__name__}")
    return [check_text(text, where) for text in listed]


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Parse one JSON object.

    Raises:
        PyengineError: if it is none.
    """
    try:
        record = json.loads(text)
    except ValueError as error:
        raise PyengineError(f"{where}: not JSON: {error}") from error
    if not isinstance(record, dict):
        raise PyengineError(f"{where}: expected a JSON object, got {type(record).__name__}")
    return record


def _fact(line: str, number: int, where: str) -> Fact:
    record = parse_object(line, where)
    relation = field(record, ("relation",), where)
    target = field(record, _OBJECT, where)
    if "templates" in record:
        sentences = texts(record["templates"], f"{where}: templates")
        prompts = [_masked(sentence, target, where) for sentence in sentences]
    elif "prompts" in record:
        prompts = [with_mask(text) for text in texts(record["prompts"], f"{where}: prompts")]
    else:
        raise PyengineError(f"{where}: the field 'prompts' is missing")
    return Fact(
        uid=_uid(record, f"{relation}-{number:05d}"),
        relation=relation,
        subject=next((str(record[name]) for name in _SUBJECT if name in record), ""),
        object=target,
        prompts=tuple(prompts),
    )


def _uid(record: Mapping[str, Any], default: str) -> str:
    return next((str(record[name]) for name in _UID if name in record), default)


def _masked(sentence: str, target: str, where: str) -> str:
    """Put `[MASK]` where a sentence names the object for the last time."""
    before, found, after = sentence.rpartition(target)
    if not found:
        raise PyengineError(f"{where}: the template {sentence!r} does not name {target!r}")
    return f"{before}{MASK}{after}"
