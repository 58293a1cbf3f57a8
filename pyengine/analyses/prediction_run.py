"""Blocks of predictions as part files of a run, and from there to the result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pyengine.analyses.prediction_pass import Block, PredictionPass
from pyengine.analyses.prediction_result import (
    DISTRIBUTION_FILE,
    EXAMPLES_FILE,
    TABLE_FILE,
    Predictions,
)
from pyengine.analyses.prediction_tables import EXAMPLES, Groups, schema, to_tables
from pyengine.distributions import create_distributions
from pyengine.files import atomic_write
from pyengine.parts import FOLDER, Part, find_parts, finish_part, part_path
from pyengine.token_text import TokenText

OnBatch = Callable[[int], None]


def run_in_memory(search: PredictionPass, blocks: range, on_batch: OnBatch) -> list[Block]:
    """Compute blocks and keep them."""
    on_batch(0)
    return [search.run(block, on_batch=on_batch) for block in blocks]


def run_into_parts(
    search: PredictionPass, blocks: range, folder: Path, on_batch: OnBatch
) -> list[Part]:
    """Compute the blocks that are not in the run directory yet; a kill costs the one at work.

    `on_batch` is called with the content tokens of what has been done, now or before.
    """
    done = {part.block: part for part in find_parts(folder)}
    parts = [done[block] for block in blocks if block in done]
    on_batch(sum(part.record["n_tokens"] for part in parts))
    for block in blocks:
        if block not in done:
            parts.append(_run_part(search, block, folder / FOLDER, on_batch))
    return sorted(parts, key=lambda part: part.block)


def _run_part(search: PredictionPass, block: int, folder: Path, on_batch: OnBatch) -> Part:
    settings = search.settings
    kinds = [TABLE_FILE, EXAMPLES_FILE]
    if settings.output_dist:
        kinds.append(DISTRIBUTION_FILE)
        found = _with_distributions(search, block, folder, on_batch)
    else:
        found = search.run(block, on_batch=on_batch)
    table = schema(settings.mode, settings.all_values)
    Groups(table, to_tables(found.table, table)).write(part_path(folder, block, TABLE_FILE))
    examples = Groups(EXAMPLES, to_tables(found.examples, EXAMPLES))
    examples.write(part_path(folder, block, EXAMPLES_FILE))
    return finish_part(folder, block, search.units(block), kinds, found.record)


def _with_distributions(
    search: PredictionPass, block: int, folder: Path, on_batch: OnBatch
) -> Block:
    found: list[Block] = []
    shape = (len(search.examples(block).units), search.model.vocab_size)

    def write(temporary: Path) -> None:
        rows = create_distributions(temporary, shape)
        found.append(search.run(block, rows, on_batch))
        if isinstance(rows, np.memmap):
            rows.flush()

    atomic_write(part_path(folder, block, DISTRIBUTION_FILE), write)
    return found[0]


def from_blocks(blocks: list[Block], text: TokenText, manifest: dict[str, Any]) -> Predictions:
    """Make a result of blocks in memory."""
    question = manifest["question"]
    wanted = schema(question["mode"], question["all_values"])
    tables = [table for block in blocks for table in to_tables(block.table, wanted)]
    examples = [table for block in blocks for table in to_tables(block.examples, EXAMPLES)]
    return Predictions(
        Groups(wanted, tuple(tables)),
        Groups(EXAMPLES, tuple(examples)),
        (),
        text,
        manifest,
        _record([block.record for block in blocks], manifest),
    )


def from_parts(
    parts: list[Part], text: TokenText, manifest: dict[str, Any], *, mixed: bool = False
) -> Predictions:
    """Make a result of part files, in order of their units; they are not read yet.

    Args:
        parts: of one run.
        text, manifest: of the run.
        mixed: whether the parts differ in numerics; the result is then not exact.

    Raises:
        PyengineError: if a part is damaged.
    """
    for part in parts:
        part.check()
    question = manifest["question"]
    wanted = schema(question["mode"], question["all_values"])
    kinds = [DISTRIBUTION_FILE] if question["output_dist"] else []
    record = _record([part.record for part in parts], manifest)
    return Predictions(
        Groups(wanted, tuple(part.path(TABLE_FILE) for part in parts)),
        Groups(EXAMPLES, tuple(part.path(EXAMPLES_FILE) for part in parts)),
        tuple(part.path(kind) for part in parts for kind in kinds),
        text,
        manifest,
        record | {"exact": record["exact"] and not mixed},
    )


def _record(records: list[dict[str, Any]], manifest: dict[str, Any]) -> dict[str, Any]:
    sums = ("n_examples", "n_tokens", "n_computed")
    n_nan = np.zeros(manifest["model"]["n_layers"], np.int64)
    for record in records:
        n_nan += record["n_nan"]
    found = {name: sum(record[name] for record in records) for name in sums}
    exact = all(record["exact"] for record in records)
    return found | {"n_nan": n_nan.tolist(), "exact": exact}
