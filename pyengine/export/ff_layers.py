"""The two formats of mega002/ff-layers: JSONL with one line per dim, and a text file per key.

ff-layers counts positions from its start symbol, so that index p both sees token p-1 and predicts
token p: its `token_indice`, and the token that its text files star, is the one *after* the firing
token. It stores the pre-activation; these files hold whatever the run captured, and say so.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from pyengine.analyses.trigger_result import Example, TriggerExamples
from pyengine.files import atomic_folder, atomic_write, atomic_write_text

END_OF_UNIT = "</s>"


def export_jsonl(triggers: TriggerExamples, path: Path) -> None:
    """Write one line per dim: `{"dim", "value", "top_values": [[record, …] per layer]}`.

    A record is `{"rank", "layer_index", "token_indice", "fc1_value", "text"}` as ff-layers writes
    it; `value` is our addition and names what `fc1_value` holds (`post` or `pre`).
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as stream:
            for dim in triggers.dims:
                stream.write(json.dumps(_line(triggers, dim), ensure_ascii=False) + "\n")

    atomic_write(path, write)


def export_text(triggers: TriggerExamples, folder: Path) -> None:
    """Write `{dim}_{layer}.txt` per key: lines `score<TAB>prefix *next token*`, best first.

    The folder holds nothing else, because ff-layers reads every file in it; what the scores are
    is written to `FOLDER.about.json` beside it.

    Raises:
        PyengineError: if the folder exists already and is not empty.
    """

    def write(temporary: Path) -> None:
        for layer in triggers.layers:
            for dim in triggers.dims:
                with (temporary / f"{dim}_{layer}.txt").open("w", encoding="utf-8") as stream:
                    _write_lines(stream, triggers, triggers.examples(layer, dim))

    atomic_folder(folder, write)
    about = {"value": triggers.manifest["question"]["value"], "starred": "next token"}
    atomic_write_text(folder.with_name(f"{folder.name}.about.json"), json.dumps(about) + "\n")


def _line(triggers: TriggerExamples, dim: int) -> dict[str, Any]:
    value = triggers.manifest["question"]["value"]
    layers = [list(_records(triggers, layer, dim)) for layer in triggers.layers]
    return {"dim": dim, "value": value, "top_values": layers}


def _records(triggers: TriggerExamples, layer: int, dim: int) -> Iterator[dict[str, Any]]:
    for example in triggers.examples(layer, dim):
        yield {
            "rank": example.rank,
            "layer_index": layer,
            "token_indice": float(example.position + 1),
            "fc1_value": example.score,
            "text": one_line(triggers.text.decode(triggers.unit_tokens(example.unit))),
        }


def _write_lines(stream: TextIO, triggers: TriggerExamples, examples: list[Example]) -> None:
    for example in examples:
        after = example.next_token
        starred = END_OF_UNIT if after < 0 else triggers.text.token(after).strip()
        stream.write(f"{example.score}\t{one_line(example.text)} *{starred}*\n")


def one_line(text: str) -> str:
    """Turn every run of white space into one space."""
    return " ".join(text.split())
