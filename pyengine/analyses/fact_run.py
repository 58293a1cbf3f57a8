"""Blocks of facts as part files of a run, and from there to the result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyengine.analyses.agreement_result import read_table, write_table
from pyengine.analyses.fact_neuron_result import FactNeurons
from pyengine.analyses.fact_pass import Block, FactPass
from pyengine.analyses.fact_tables import FILES
from pyengine.parts import FOLDER, Part, find_parts, finish_part, part_path

COUNTERS = ("n_facts", "n_prompts", "n_skipped")


class Progress:
    """Adds up the prompts that are done, and reports (done, in all)."""

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._report = 0, total, report

    def add(self, n_prompts: int) -> None:
        """Report prompts that are done for good."""
        self._done += n_prompts
        self._at(self._done)

    def run(self, search: FactPass, block: int) -> Block:
        """Compute a block, reporting on the way."""
        n_prompts = search.n_prompts(block)
        return search.run(block, lambda i, n: self._at(self._done + n_prompts * i // (n + 1)))

    def _at(self, n_prompts: int) -> None:
        if self._report is not None:
            self._report(n_prompts, self._total)


def run_in_memory(search: FactPass, blocks: range, progress: Progress) -> list[Block]:
    """Compute blocks and keep them."""
    progress.add(0)
    found = []
    for block in blocks:
        found.append(progress.run(search, block))
        progress.add(search.n_prompts(block))
    return found


def run_into_parts(search: FactPass, blocks: range, folder: Path, progress: Progress) -> list[Part]:
    """Compute the blocks that are not in the run directory yet; a kill costs the one at work."""
    done = {part.block: part for part in find_parts(folder)}
    parts = [done[block] for block in blocks if block in done]
    progress.add(sum(part.record["n_prompts"] for part in parts))
    for block in blocks:
        if block not in done:
            parts.append(_write(progress.run(search, block), search, block, folder / FOLDER))
            progress.add(search.n_prompts(block))
    return sorted(parts, key=lambda part: part.block)


def _write(found: Block, search: FactPass, block: int, folder: Path) -> Part:
    for name, file in FILES.items():
        write_table(found.tables[name], part_path(folder, block, file))
    return finish_part(folder, block, search.units(block), FILES.values(), found.record)


def from_blocks(blocks: list[Block], manifest: dict[str, Any]) -> FactNeurons:
    """Make a result of blocks in memory."""
    tables = {name: [block.tables[name] for block in blocks] for name in FILES}
    return FactNeurons.of(tables, manifest, _record([block.record for block in blocks]))


def from_parts(parts: list[Part], manifest: dict[str, Any], *, mixed: bool = False) -> FactNeurons:
    """Make a result of part files, in order of their facts.

    Args:
        parts: of one run.
        manifest: of the run.
        mixed: whether the parts differ in numerics; the result is then not exact.

    Raises:
        PyengineError: if a part is damaged.
    """
    for part in parts:
        part.check()
    tables = {name: [read_table(part.path(file)) for part in parts] for name, file in FILES.items()}
    record = _record([part.record for part in parts])
    return FactNeurons.of(tables, manifest, record | {"exact": record["exact"] and not mixed})


def _record(records: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {name: sum(record[name] for record in records) for name in COUNTERS}
    return found | {"exact": all(record["exact"] for record in records)}
