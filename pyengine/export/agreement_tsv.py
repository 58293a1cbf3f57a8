"""An agreement in the files of ff-layers' `key_value_agreement.py`, and as Parquet."""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from pyengine.analyses.agreement_result import Agreement, write_table
from pyengine.files import atomic_write, atomic_write_text

COLUMNS = (
    "layer",
    "W2_dim",
    "max_prob",
    "embedding_index",
    "embedding_token",
    "embedding_token_target_count",
    "target_rankings",
)
_READ = ("layer", "dim", "top_prob", "top_token", "top_text", "matches", "n_examples")
_LISTS = ("targets", "target_ranks")

# A row is one line: what would end it is written as Python writes it.
_ESCAPES = {ord("\\"): "\\\\", ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"}


def export_tsv(agreement: Agreement, path: Path) -> None:
    """Write `{base}.tsv`, one row per value, and `{base}_max_probs.json`.

    `path` is the base, with or without `.tsv`.

    The columns of the original: `max_prob` and `embedding_index` of the top token;
    `embedding_token`; `embedding_token_target_count`, how many of the key's targets equal it (-1:
    the key has no example); `target_rankings`, a Python list of the targets' 0-based ranks, one
    per target, equal targets together, most frequent first, then first seen. Examples without a
    target are left out. The original always compared with the token that the key fired on; these
    files hold whatever the agreement compared with.

    Tokens hold white space and quotes, which the original's words never did. A token is written
    as it stands in a sentence (its leading space included), with backslash, tab, newline and
    carriage return as `\\\\`, `\\t`, `\\n`, `\\r`; a field with a double quote is put in double
    quotes and its quotes doubled, as Python's `csv` and pandas read it. In pandas, say
    `keep_default_na=False`: some tokens read `nan` or `null`.

    The JSON file holds a list per layer with the top probability of each of its values.
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(_rows(agreement))

    base = path.name.removesuffix(".tsv")
    atomic_write(path.with_name(f"{base}.tsv"), write)
    rows = zip(*_columns(agreement, ("layer", "top_prob")), strict=True)
    probs = [[prob for _, prob in layer] for _, layer in groupby(rows, key=lambda row: row[0])]
    atomic_write_text(path.with_name(f"{base}_max_probs.json"), json.dumps(probs, indent=4))


def export_agreement_parquet(agreement: Agreement, path: Path) -> None:
    """Write the table of values; the same agreement gives the same bytes."""
    write_table(agreement.table, path)


def _rows(agreement: Agreement) -> Iterator[list[Any]]:
    columns = _columns(agreement, _READ + _LISTS)
    for layer, dim, prob, token, text, matches, n_examples, targets, ranks in zip(
        *columns, strict=True
    ):
        count = matches if n_examples else -1
        shown = None if text is None else text.translate(_ESCAPES)
        yield [layer, dim, prob, token, shown, count, str(_rankings(targets, ranks))]


def _rankings(targets: list[int | None], ranks: list[int | None]) -> list[int | None]:
    rank_of = dict(zip(targets, ranks, strict=True))
    counts = Counter(target for target in targets if target is not None)
    # `most_common` keeps the order of first appearance among equal counts.
    return [rank_of[target] for target, count in counts.most_common() for _ in range(count)]


def _columns(agreement: Agreement, names: tuple[str, ...]) -> list[list[Any]]:
    return [agreement.table[name].to_pylist() for name in names]
