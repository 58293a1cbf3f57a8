"""ParaRel as the package `knowledge-neurons` keeps it: two JSON files, made on first use.

To read a folder of ParaRel's own files see `pyengine.pararel`.
"""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyengine.errors import PyengineError
from pyengine.files import atomic_write

PARAREL_RELATION_NAMES = [
    *("P39", "P264", "P37", "P108", "P131", "P103", "P176", "P30", "P178", "P138"),
    *("P47", "P17", "P413", "P27", "P463", "P364", "P495", "P449", "P20", "P1376"),
    *("P1001", "P361", "P36", "P1303", "P530", "P19", "P190", "P740", "P136", "P127"),
    *("P1412", "P407", "P140", "P279", "P276", "P159", "P106", "P101", "P937"),
]

# What the package calls them, and where they lie in ParaRel's repository.
FILES = {"graphs": "pattern_data/graphs_json", "vocab": "trex_lms_vocab"}
SOURCE = "https://raw.githubusercontent.com/yanaiela/pararel/main/data"


def pararel(data_path: str = "datasets/pararel.json") -> dict[str, Any]:
    """Return {relation: {"graphs": [...], "vocab": [...]}}: ParaRel's patterns and facts.

    Read from `data_path`; where there is no such file it is made, from 78 small files of ParaRel's
    repository (about 3 MB).

    Raises:
        PyengineError: if they cannot be fetched.
    """
    return _kept(Path(data_path), _download)


def pararel_expanded(
    data_path: str = "datasets/pararel_expanded.json", obj_label_replacement: Any = None
) -> dict[str, Any]:
    """Return {uuid: {"sentences", "relation_name", "obj_label"}}, sentences with `[MASK]`.

    Args:
        data_path: read if it is there, else made from `pararel`, whose file lies beside it.
        obj_label_replacement: without effect, as in the package.

    Raises:
        PyengineError: as `pararel`.
    """
    path = Path(data_path)
    return _kept(path, lambda: _expand(pararel(str(path.with_name("pararel.json")))))


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not path.exists():
        text = json.dumps(make())

        def write(temporary: Path) -> None:
            temporary.write_text(text, encoding="utf-8")

        atomic_write(path, write)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _download() -> dict[str, Any]:
    return {
        relation: {
            name: _json_lines(f"{SOURCE}/{folder}/{relation}.jsonl")
            for name, folder in FILES.items()
        }
        for relation in PARAREL_RELATION_NAMES
    }


def _json_lines(url: str) -> list[Any]:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            text = answer.read().decode()
    except OSError as error:
        raise PyengineError(f"cannot fetch {url}: {error}") from error
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _expand(relations: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name, relation in relations.items():
        for fact in relation["vocab"]:
            sentences = [
                graph["pattern"].replace("[X]", fact["sub_label"]).replace("[Y]", "[MASK]")
                for graph in relation["graphs"]
            ]
            known = facts.setdefault(
                fact["uuid"],
                {"sentences": [], "relation_name": name, "obj_label": fact["obj_label"]},
            )
            known["sentences"] += sentences
    return facts
