"""Trigger examples from the files of mega002/ff-layers, and from our own in its formats."""

import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pyengine.analyses.targets import Targets
from pyengine.errors import PyengineError
from pyengine.ff_layers_words import TokenFinder, unescape, word_spans
from pyengine.lines import read_lines
from pyengine.models import Model
from pyengine.token_text import TokenText

BATCH = 65_536  # examples per call of the tokenizer
END_OF_UNIT = "</s>"

_NAME = re.compile(r"(\d+)_(\d+)\.txt")
_STARRED = re.compile(r"(?:(.*) )?\*(.*)\*", re.DOTALL)

Key = tuple[int, int]  # layer, dim


class _Example(NamedTuple):
    """One example: `place` lies between the token that fired and the next one.

    An offset in characters of the text, or in tokens; at the text's end there is no next one.
    """

    key: Key
    rank: int
    text: str
    place: int


class _Source(NamedTuple):
    """What a path holds, and whether its places count tokens, not characters."""

    keys: list[Key]
    examples: Iterator[_Example]
    in_tokens: bool


def read_ff_layers(path: str | Path, model: Model) -> Targets:
    """Read trigger examples that ff-layers, or our export, has written.

    A directory of `{dim}_{layer}.txt`, lines `score<TAB>words *starred*`: the starred word is the
    one *after* the firing position; a line of one word fired on the start symbol; `</s>`, which
    only our export writes, ends the unit. A JSONL file, one line per dim: `token_indice` p counts
    from the start symbol, so that position p saw word p - 1 and is followed by word p; the words
    are Moses' (see `pyengine.ff_layers_words`). Lines of our own JSONL, told by their field
    `value`, count the model's tokens instead.

    Words become the model's tokens by tokenising the text: `next` is the first token at or after
    the starred word, `input` the one before it. Our text files write word pieces as words, so
    that those come back changed; our JSONL does not lose them.

    ff-layers keeps only scores above 0 and fills up with placeholders of score 0.0 (with the text
    of its first sentence): examples of score exactly 0.0 at the end of a list are left out. Our
    files have none, and nothing in them is escaped; a directory is ours if `DIRECTORY.about.json`
    lies beside it.

    Args:
        path: the directory, or the JSONL file (may be .gz or .zst).
        model: whose tokens to map to; needs a tokenizer.

    Returns:
        Targets without a manifest; fewer than k examples of a key are filled up with -1.

    Raises:
        PyengineError: for a stray or malformed file, a key that is missing from the rectangle of
            layers and dims, a layer or dim that the model lacks, or a model without tokenizer.
    """
    path = Path(path)
    if model.tokenizer is None:
        raise PyengineError(f"{path} holds text, and {model.name} has no tokenizer to read it")
    if path.is_dir():
        source = _folder(path)
    elif path.is_file():
        source = _jsonl(path)
    else:
        raise PyengineError(f"no such file or directory: {path}")
    layers, dims = _rectangle(path, source.keys)
    for name, found, n in (("layer", layers, model.n_layers), ("dim", dims, model.d_ff)):
        if found[-1] >= n:
            raise PyengineError(
                f"{path} holds {name} {found[-1]}, but {model.name} has {name}s 0 to {n - 1}"
            )
    finder = TokenFinder(model.tokenizer)
    find = finder.at_token if source.in_tokens else finder.at_character
    after, fired = _tokens(source.examples, layers, dims, find)
    text = TokenText.of(model.tokenizer)
    return Targets(layers, dims, after, fired, text, source=str(path))


def _folder(path: Path) -> _Source:
    files: dict[Key, Path] = {}
    for file in sorted(path.iterdir()):
        match = _NAME.fullmatch(file.name)
        if match is None:
            raise PyengineError(
                f"{file} does not belong here: files are named {{dim}}_{{layer}}.txt"
            )
        key = int(match[2]), int(match[1])
        if key in files:
            raise PyengineError(f"{file} and {files[key].name} are the same key")
        files[key] = file
    if not files:
        raise PyengineError(f"{path} is empty: no {{dim}}_{{layer}}.txt in it")
    ours = path.with_name(f"{path.name}.about.json").exists()
    examples = (example for key, file in files.items() for example in _lines(key, file, ours))
    return _Source([*files], examples, in_tokens=False)


def _lines(key: Key, path: Path, ours: bool) -> list[_Example]:
    scores: list[float] = []
    found: list[_Example] = []
    for line, number, _ in read_lines(path):
        score, tab, text = line.rstrip("\r\n").partition("\t")
        starred = _STARRED.fullmatch(text)
        if not tab or starred is None:
            raise PyengineError(f"{path}:{number}: not `score<TAB>words *starred*`: {line[:60]!r}")
        scores.append(_number(score, f"{path}:{number}"))
        before, word = starred[1] or "", starred[2]
        if not ours:
            before, word = unescape(before), unescape(word)
        parts = (before,) if word == END_OF_UNIT else (before, word)
        whole = " ".join(filter(None, parts))
        found.append(_Example(key, len(found), whole, len(before)))
    return found if ours else found[: _real(scores)]


def _jsonl(path: Path) -> _Source:
    """Read the keys in a first pass, and the examples, which may be many, in a second."""
    layers: list[int | None] = []
    dims: list[int] = []
    ours = set()
    for record, where in _records(path):
        lists = record["top_values"]
        layers = layers or [None] * len(lists)
        if len(lists) != len(layers):
            raise PyengineError(f"{where}: {len(lists)} layers, but {len(layers)} before")
        for index, examples in enumerate(lists):
            found = {example["layer_index"] for example in examples} | {layers[index]} - {None}
            if len(found) > 1:
                both = " and ".join(sorted(map(str, found)))
                raise PyengineError(f"{where}: list {index} holds layers {both}")
            layers[index] = next(iter(found), None)
        dims.append(record["dim"])
        ours.add("value" in record)
    if not dims or not layers:
        raise PyengineError(f"{path} holds no keys")
    # A layer without any example is known by its place only.
    named = [index if layer is None else layer for index, layer in enumerate(layers)]
    if len(set(dims)) < len(dims) or len(set(named)) < len(named):
        raise PyengineError(f"{path} holds a dim or a layer twice")
    if len(ours) > 1:
        raise PyengineError(f"{path} mixes lines with and without the field 'value'")
    keys = [(layer, dim) for layer in named for dim in dims]
    return _Source(keys, _jsonl_examples(path, named, True in ours), in_tokens=True in ours)


def _jsonl_examples(path: Path, layers: list[int], ours: bool) -> Iterator[_Example]:
    for record, where in _records(path):
        for layer, examples in zip(layers, record["top_values"], strict=True):
            key = layer, record["dim"]
            scores = [_number(example["fc1_value"], where) for example in examples]
            n = len(scores) if ours else _real(scores)
            for rank, example in enumerate(examples[:n]):
                text, position = example["text"], int(example["token_indice"])
                place = position if ours else _place(text, position)
                yield _Example(key, rank, text, place)


def _records(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    for line, number, _ in read_lines(path):
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
            whole = isinstance(record["dim"], int) and all(
                isinstance(example["text"], str)
                and {"layer_index", "token_indice", "fc1_value"} <= example.keys()
                for examples in record["top_values"]
                for example in examples
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PyengineError(f"{where}: not a line of ff-layers' JSONL: {error}") from error
        if not whole:
            raise PyengineError(f"{where}: not a line of ff-layers' JSONL: a field is missing")
        yield record, where


def _place(text: str, position: int) -> int:
    """Return where the words that position p has seen end."""
    seen = word_spans(text)[:position]
    return seen[-1][1] if seen else 0


def _number(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise PyengineError(f"{where}: {value!r} is not a score") from error


def _real(scores: list[float]) -> int:
    """Count the examples before the placeholders."""
    n = len(scores)
    while n and scores[n - 1] == 0:
        n -= 1
    return n


def _rectangle(path: Path, keys: list[Key]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    layers, dims = (tuple(sorted(set(part))) for part in zip(*keys, strict=True))
    if len(keys) < len(layers) * len(dims):
        known = set(keys)
        layer, dim = next((la, d) for la in layers for d in dims if (la, d) not in known)
        raise PyengineError(f"{path} lacks dim {dim} of layer {layer} ({dim}_{layer}.txt)")
    return layers, dims


def _tokens(
    examples: Iterator[_Example],
    layers: tuple[int, ...],
    dims: tuple[int, ...],
    find: Callable[..., Iterator[tuple[int, int]]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (next, input), int64 [layers, dims, k]."""
    row = {layer: i * len(dims) for i, layer in enumerate(layers)}
    column = {dim: i for i, dim in enumerate(dims)}
    parts = [np.zeros((0, 4), np.int64)]  # key, rank, input, next
    while batch := list(islice(examples, BATCH)):
        found = find([example.text for example in batch], [example.place for example in batch])
        places = ((row[e.key[0]] + column[e.key[1]], e.rank) for e in batch)
        both = [place + around for place, around in zip(places, found, strict=True)]
        parts.append(np.array(both, np.int64))
    key, rank, fired, after = np.concatenate(parts).T
    shape = (len(layers) * len(dims), int(rank.max(initial=0)) + 1)
    arrays = np.full((2, *shape), -1, np.int64)
    arrays[0, key, rank], arrays[1, key, rank] = after, fired
    tensors = torch.from_numpy(arrays).view(2, len(layers), len(dims), shape[1])
    return tensors[0], tensors[1]
