"""CounterFact (Meng et al. 2022): facts whose prompts end in the object, for causal models."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyengine.errors import PyengineError
from pyengine.facts import Fact, parse_object, texts, with_mask
from pyengine.lines import check_files, read_bytes, read_lines


def read_counterfact(path: str | Path, *, paraphrases: bool = True) -> list[Fact]:
    """Read CounterFact: the true object of every record, in its prompt and paraphrases.

    Args:
        path: the published JSON list, or the same records as JSON lines (`.jsonl`, `.jsonl.gz`,
            `.jsonl.zst`).
        paraphrases: also take `paraphrase_prompts`. Each begins with an unrelated sentence.

    Returns:
        Facts named `counterfact-{case_id}`, their relation the record's `relation_id`.

    Raises:
        PyengineError: if the file or a record cannot be read.
    """
    (file,) = check_files(path)
    records = _records(file)
    return [_fact(record, paraphrases, f"{file}: record {i}") for i, record in enumerate(records)]


def _records(path: Path) -> list[Any]:
    if ".jsonl" in path.suffixes:
        lines = [(line, number) for line, number, _ in read_lines(path) if line.strip()]
        return [parse_object(line, f"{path}:{number}") for line, number in lines]
    try:
        records = json.loads(read_bytes(path))
    except ValueError as error:
        raise PyengineError(f"{path}: not JSON: {error}") from error
    if not isinstance(records, list):
        raise PyengineError(f"{path} is not CounterFact: expected a list of records")
    return records


def _fact(record: Any, paraphrases: bool, where: str) -> Fact:
    try:
        rewrite: Mapping[str, Any] = record["requested_rewrite"]
        subject, target = rewrite["subject"], rewrite["target_true"]["str"]
        relation, case = rewrite["relation_id"], record["case_id"]
        prompts = [rewrite["prompt"].replace("{}", subject)]
        if paraphrases:
            prompts += record.get("paraphrase_prompts", [])
    except (AttributeError, KeyError, TypeError) as error:
        raise PyengineError(f"{where} is not of CounterFact: {error!r}") from error
    found = texts([subject, target, relation, *prompts], where)
    subject, target, relation = found[:3]
    asked = tuple(with_mask(prompt) for prompt in found[3:])
    return Fact(f"counterfact-{case}", relation, subject, target.strip(), asked)
