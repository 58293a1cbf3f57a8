"""`extract_heads`: one vector for each head, block or FFN, of every sentence of some tasks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyengine.batches import shard_blocks
from pyengine.cache_files import write_tensors
from pyengine.heads.bank import HeadBank
from pyengine.heads.bank_files import VECTORS, write_tables
from pyengine.heads.extract_pass import HeadPass
from pyengine.heads.extract_settings import LOCATIONS, DiskNeed, ExtractSettings
from pyengine.heads.pooling import Pooling
from pyengine.heads.sentences import Sentences
from pyengine.heads.task import Task
from pyengine.loading import load
from pyengine.manifest import MANIFEST, describe
from pyengine.parts import FOLDER, Part, counting, finish_part, part_path, parts_done
from pyengine.run import RunFolder, open_run


def extract_heads(
    model: Any,
    tasks: Sequence[Task] | Sentences,
    *,
    out: str | Path,
    locations: Sequence[str] = LOCATIONS,
    pooling: Pooling = "auto",
    save_dtype: str | None = None,
    activation: str = "fused",
    batch_tokens: int | None = None,
    block_tokens: int | None = None,
    shard: tuple[int, int] = (0, 1),
    on_tokenized: Callable[[int, int], None] | None = None,
    on_need: Callable[[DiskNeed], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> HeadBank:
    """Keep sentence vectors of every head of a model, for all tasks in one pass.

    Equal sentences are read once, whatever tasks and parts they are in. Each is a unit: what is
    longer than the model reads loses its end, and is counted. Vectors are pooled on the device.
    They have the same bits for any number of shards, and wherever the pass was interrupted.

    Args:
        model: from `pyengine.load`, or what it takes; never changed. T5's decoder reads the same
            text as its encoder, shifted right.
        tasks: from `pyengine.read_task`, whose order decides that of the sentences; or
            `Sentences.of` them, for this model and pooling.
        out: a run directory; the same call resumes it, block by block.
        locations: `head`, the context of self-attention before its output projection, head by
            head; `cross`, that of T5's cross-attention; `block`, the residual stream after a block
            (where norms come after the additions, normalised); `ffn`, the output of the
            feed-forward layer; `neurons`, its coefficients after the non-linearity.
        pooling: `first`, `last` (the last token, special ones included), `mean` (over all tokens,
            special ones included) or `pad` (causal models: token id 0 is put after the sentence,
            and read), or one by each stack's name; `auto` as
            `pyengine.heads.pooling.pooling_of` says. Causal models read no BOS, whatever their
            tokenizer adds.
        save_dtype: `float32` (None), `float16` or `bfloat16`, rounded to the nearest (ties to even;
            what is too large for float16 becomes infinite, and is counted).
        activation: `fused`, our kernel computes the coefficients, or `model`, the model's own
            modules, bit for bit.
        batch_tokens: tokens per batch, padding included; part of what decides the last bits.
            Default: 4096 on the CPU, 16384 on CUDA.
        block_tokens: tokens per block, inside which sentences are sorted by length, and of which a
            kill costs one. Default: about 256 MiB of vectors on the CPU, 1 GiB on CUDA.
        shard: (i, n) takes the i-th of n parts of the sentences, from 0; merge with
            `pyengine merge`.
        on_tokenized: called with (characters done, in all) while the sentences are tokenised.
        on_need: called with the room that is needed, before the pass.
        on_progress: called with (tokens done, in all) after each batch.

    Returns:
        The bank (of this shard only when there are several).

    Raises:
        PyengineError: for a model without a tokenizer, settings that cannot be, a run directory
            made with other settings, or one whose file system has too little room.
    """
    model, folder = load(model), Path(out)
    how = (locations, pooling, save_dtype, activation, batch_tokens, block_tokens)
    settings = ExtractSettings.checked(model, *how)
    if isinstance(tasks, Sentences):
        tasks.check_fit(model, settings.n_around(model))
        sentences = tasks
    else:
        sentences = Sentences.of(model, tasks, pooling, on_tokenized)
    search = HeadPass(model, sentences, settings)
    blocks = shard_blocks(len(search.boundaries) - 1, *shard)
    manifest = _manifest(search)
    if (folder / MANIFEST).exists() and RunFolder.begin(folder, manifest).complete:
        found: HeadBank = open_run(folder)
        return found
    done = parts_done(folder, blocks)
    n_units = {block: search.units(block)[1] - search.units(block)[0] for block in blocks}
    n_left = sum(n for block, n in n_units.items() if block not in done)
    # Before the directory is made: other settings would be refused in it.
    need = settings.need(folder, sum(n_units.values()), n_left)
    if on_need is not None:
        on_need(need)
    need.check(folder)
    run = RunFolder.begin(folder, manifest)
    write_tables(run.path, sentences.table, sentences.tasks)
    with run.lock(*shard):
        on_batch = counting(sum(map(search.n_tokens, blocks)), on_progress)
        bank = from_parts(
            _run_into_parts(search, blocks, done, run.path, on_batch), run.path, run.manifest
        )
        if shard[1] > 1:
            return bank
        bank.write(run)
    return HeadBank.open(run.path, run.manifest)


def _manifest(search: HeadPass) -> dict[str, Any]:
    """Describe the run of a pass."""
    settings = search.settings
    numerics = {
        "activation": settings.activation,
        "batch_tokens": settings.batch_tokens,
        "block_tokens": search.block_tokens,
    }
    corpus = search.sentences.describe()
    return describe("heads", settings.question(), numerics, search.model, corpus)


def from_parts(
    parts: list[Part], folder: Path, manifest: dict[str, Any], *, mixed: bool = False
) -> HeadBank:
    """Make a bank of part files, in order of their sentences; they are not read yet.

    Args:
        parts: of one run.
        folder: a directory of it.
        manifest: of the run.
        mixed: whether the parts differ in numerics; the result is then not exact.
    """
    records = [part.record for part in parts]
    sums = ("n_sentences", "n_tokens", "n_computed", "n_overflow", "n_nan")
    record: dict[str, Any] = {name: sum(each[name] for each in records) for name in sums}
    record["exact"] = all(each["exact"] for each in records) and not mixed
    return HeadBank(folder, tuple(part.path(VECTORS) for part in parts), manifest, record)


def _run_into_parts(
    search: HeadPass,
    blocks: range,
    done: dict[int, Part],
    folder: Path,
    on_batch: Callable[[int], None],
) -> list[Part]:
    """Compute the blocks that are not done and write their files; a kill costs the one at work."""
    on_batch(sum(part.record["n_tokens"] for part in done.values()))
    return [
        done[block] if block in done else _run_part(search, block, folder / FOLDER, on_batch)
        for block in blocks
    ]


def _run_part(search: HeadPass, block: int, folder: Path, on_batch: Callable[[int], None]) -> Part:
    found = search.run(block, on_batch)
    write_tensors(part_path(folder, block, VECTORS), found.tensors)
    return finish_part(folder, block, search.units(block), (VECTORS,), found.record)
