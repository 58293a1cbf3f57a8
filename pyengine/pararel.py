"""ParaRel (Elazar et al. 2021): facts of T-REx, each asked in several paraphrases."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyengine.cloze import MASK
from pyengine.errors import PyengineError
from pyengine.facts import Fact, field, parse_object, texts
from pyengine.lines import read_bytes, read_lines

# Folders of patterns and of facts: as a plain pair, and as in the original repository.
LAYOUTS = (
    ("patterns", "facts"),
    ("data/pattern_data/graphs_json", "data/trex_lms_vocab"),
    ("pattern_data/graphs_json", "trex_lms_vocab"),
)


def read_pararel(path: str | Path, relations: Collection[str] | None = None) -> list[Fact]:
    """Read ParaRel: every fact of a relation in every pattern of it.

    Args:
        path: a folder with `patterns/P*.jsonl` and `facts/P*.jsonl`, or the original repository;
            or a JSON file: `pararel.json` or `pararel_expanded.json` of the knowledge-neurons
            package, or a list of bags of [prompt, object, relation] as Dai et al. publish it.
        relations: the names of those to read (`P36`, ...); None takes all. Relations without
            patterns are left out.

    Returns:
        Facts by relation (ascending by number), in the order of the files. Prompts are the patterns
        with [X] replaced by the subject and [Y] by `[MASK]`.

    Raises:
        PyengineError: if nothing of the kind is there, a line cannot be read, or a relation is not
            known.
    """
    path = Path(path)
    facts = _read_file(path) if path.is_file() else _read_folder(path)
    known = dict.fromkeys(fact.relation for fact in facts)
    if unknown := [name for name in relations or () if name not in known]:
        raise PyengineError(f"unknown relation {unknown[0]!r}; known are: {', '.join(known)}")
    return [fact for fact in facts if relations is None or fact.relation in relations]


def _read_folder(folder: Path) -> list[Fact]:
    patterns, facts = _find_layout(folder)
    names = {path.name for path in patterns.glob("*.jsonl")}
    names &= {path.name for path in facts.glob("*.jsonl")}
    found = []
    for name in sorted(names, key=_number):
        relation = name.removesuffix(".jsonl")
        graphs, vocabulary = _records(patterns / name), _records(facts / name)
        found += _expand(relation, graphs, vocabulary, str(facts / name))
    return found


def _find_layout(folder: Path) -> tuple[Path, Path]:
    for patterns, facts in LAYOUTS:
        if any((folder / patterns).glob("*.jsonl")) and any((folder / facts).glob("*.jsonl")):
            return folder / patterns, folder / facts
    wanted = " or ".join(f"{patterns}/ and {facts}/" for patterns, facts in LAYOUTS[:2])
    raise PyengineError(f"{folder} is not ParaRel: it needs {wanted} with P*.jsonl files")


def _number(name: str) -> tuple[int, str]:
    digits = "".join(filter(str.isdigit, name))
    return int(digits or 0), name


def _records(path: Path) -> list[dict[str, Any]]:
    lines = [(line, number) for line, number, _ in read_lines(path) if line.strip()]
    return [parse_object(line, f"{path}:{number}") for line, number in lines]


def _expand(
    relation: str, graphs: Sequence[Any], vocabulary: Sequence[Any], where: str
) -> list[Fact]:
    """Put every fact of a relation into every pattern."""
    patterns = [field(graph, ("pattern",), f"{where}: {relation}") for graph in graphs]
    facts = []
    for number, record in enumerate(vocabulary, 1):
        at = f"{where}: fact {number}"
        subject = field(record, ("sub_label",), at)
        prompts = (text.replace("[X]", subject).replace("[Y]", MASK) for text in patterns)
        uid, target = field(record, ("uuid",), at), field(record, ("obj_label",), at)
        facts.append(Fact(uid, relation, subject, target, tuple(prompts)))
    return facts


def _read_file(path: Path) -> list[Fact]:
    try:
        data = json.loads(read_bytes(path))
    except ValueError as error:
        raise PyengineError(f"{path}: not JSON: {error}") from error
    if isinstance(data, list):
        return _from_bags(data, path)
    if isinstance(data, dict):
        first = next(iter(data.values()), None)
        if isinstance(first, Mapping) and "graphs" in first:
            parts = (_expand(name, d["graphs"], d["vocab"], str(path)) for name, d in data.items())
            return [fact for part in parts for fact in part]
        return _from_sentences(data, path)
    raise PyengineError(f"{path} is not ParaRel: it holds {type(data).__name__}")


def _from_sentences(data: Mapping[str, Any], path: Path) -> list[Fact]:
    """Read {uuid: {sentences, relation_name, obj_label}}."""
    facts = []
    for uid, record in data.items():
        where = f"{path}: {uid}"
        if not isinstance(record, Mapping):
            raise PyengineError(f"{where}: expected sentences, relation_name and obj_label")
        prompts = texts(record.get("sentences"), f"{where}: sentences")
        relation = field(record, ("relation_name",), where)
        target = field(record, ("obj_label",), where)
        facts.append(Fact(uid, relation, "", target, tuple(prompts)))
    return facts


def _from_bags(data: Sequence[Any], path: Path) -> list[Fact]:
    """Read [[[prompt, object, relation], ...], ...]; a relation reads `P1376(capital of)`."""
    facts = []
    for number, bag in enumerate(data):
        try:
            prompts, targets, relations = zip(*bag, strict=True)
            relation = relations[0].partition("(")[0]
            target = targets[0]
        except (AttributeError, TypeError, ValueError) as error:
            raise PyengineError(
                f"{path}: bag {number} is not a list of [prompt, object, relation]"
            ) from error
        facts.append(Fact(f"{relation}-{number:05d}", relation, "", target, prompts))
    return facts
