"""From a corpus of WikiText-103's size to padded batches: speed, memory, and starting again.

Each stage runs in a process of its own, on one core. Tokenising is killed half-way and started
again. Memory is what a process has of its own (`RssAnon`; the kernel takes back the pages of mapped
files when it needs them), and its growth is counted after the first tenth.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks._corpus_text import MAX_TOKENS, check_store, paragraphs_in, write_corpus
from benchmarks._values_agreement import process_status
from pyengine import tokenizing
from pyengine.batches import Batch, form_batches, plan_blocks, shard_blocks
from pyengine.corpus import Corpus
from pyengine.engine import BATCH_TOKENS, BLOCK_TOKENS
from pyengine.store import TokenStore, tokenize

N_SHARDS = 16
FLAT_BYTES = 64 << 20


@dataclass(frozen=True)
class Scale:
    """What is measured.

    Attributes:
        paragraphs: a WikiText file, or a folder of them.
        words: of the corpus.
        seed: of the drawing.
        tokenizer: a folder.
        chunk_units: units that are tokenised at once.
    """

    paragraphs: str
    words: int
    seed: int
    tokenizer: str
    chunk_units: int = tokenizing.CHUNK_UNITS

    @property
    def loaded_tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.tokenizer)


def measure(scale: Scale, folder: Path) -> dict[str, Any]:
    """Carry out all stages in a folder, and return what they took.

    Raises:
        RuntimeError: if the store or a batch is not what it must be.
    """
    paragraphs = paragraphs_in(Path(scale.paragraphs))
    text = folder / f"drawn-{scale.words}-{scale.seed}.tokens"
    if not text.exists():
        write_corpus(text, paragraphs, scale.words, scale.seed)
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        if _stage("tokenised", scale, text, cache, 0.5) is not None:
            raise RuntimeError("tokenising should have been killed half-way")
        found = _stage("tokenised", scale, text, cache, 2.0)
        assert found is not None
        stores = [path for path in (Path(cache) / "tokens").iterdir() if path.is_dir()]
        if len(stores) != 1:
            raise RuntimeError(f"{len(stores)} folders where one store should be")
        store = TokenStore.open(stores[0])
        tokenizer = scale.loaded_tokenizer
        check_store(store, paragraphs, scale.words, scale.seed, tokenizer, Path(cache))
        found |= {"units": store.n_units, "tokens": store.n_tokens}
        for device in BATCH_TOKENS:
            found[f"batches_{device}"] = _batches(str(stores[0]), device)
    return found


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Say what was measured."""
    tokens = found["tokens"]
    yield f"{found['units']:,} units, {tokens:,} tokens"
    yield _line("tokenised after a kill half-way, right", found, tokens, 0.3)
    for device, n_tokens in BATCH_TOKENS.items():
        what = f"batches of {n_tokens:,}, the same from the middle on"
        yield _line(what, found[f"batches_{device}"], tokens, 10.0)
        yield f"    {found[f'batches_{device}']['padding']:.3f} computed per real token"


def _line(what: str, found: dict[str, Any], tokens: int, target: float) -> str:
    rate, growth = tokens / found["cpu_seconds"] / 1e6, found["growth_bytes"]
    return (
        f"{what}: {rate:.2f}M tokens/s/core (target {target}M: "
        f"{'met' if rate >= target else 'MISSED'}), {found['seconds']:.0f} s; memory "
        f"{found['peak_bytes'] / 1e6:.0f} MB, growth {growth / 1e6:.0f} MB "
        f"({'flat' if growth <= FLAT_BYTES else 'NOT FLAT'})"
    )


def _batches(store: str, device: str) -> dict[str, Any]:
    whole, rest = _stage("batched", store, device, 0.0), _stage("batched", store, device, 0.5)
    assert whole is not None and rest is not None
    hashes = whole.pop("hashes")
    if hashes[-len(rest["hashes"]) :] != rest["hashes"]:
        raise RuntimeError("a pass from the middle on gives other batches")
    return whole


def _stage(name: str, *arguments: Any) -> dict[str, Any] | None:
    """Run a stage in a process of its own; None if that was killed."""
    given = [asdict(a) if isinstance(a, Scale) else str(a) for a in arguments]
    code = "import sys; from benchmarks._corpus_scale import _child as c; c(*sys.argv[1:])"
    command = [sys.executable, "-c", code, name, json.dumps(given)]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == -signal.SIGKILL:
        return None
    done.check_returncode()
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _child(name: str, arguments: str) -> None:
    stages: dict[str, Callable[..., dict[str, Any]]] = {
        "tokenised": _tokenised,
        "batched": _batched,
    }
    print(json.dumps(stages[name](*json.loads(arguments))))


class _Watch:
    """The time of a stage, and its memory along the way."""

    def __init__(self) -> None:
        self._memory: list[tuple[float, int]] = []
        self._start, self._cpu = time.perf_counter(), time.process_time()

    def look(self, share: float) -> None:
        self._memory.append((share, process_status("RssAnon")))

    def figures(self) -> dict[str, Any]:
        seconds, cpu = time.perf_counter() - self._start, time.process_time() - self._cpu
        peak = max(memory for _, memory in self._memory)
        after_tenth = next(memory for share, memory in self._memory if share >= 0.1)
        growth = peak - after_tenth
        return {
            "seconds": seconds,
            "cpu_seconds": cpu,
            "peak_bytes": peak,
            "growth_bytes": max(0, growth),
        }


def _tokenised(settings: dict[str, Any], text: str, cache: str, kill_at: str) -> dict[str, Any]:
    scale = Scale(**settings)
    tokenizing.CHUNK_UNITS = scale.chunk_units
    tokenizer, watch = scale.loaded_tokenizer, _Watch()

    def progress(done: int, size: int) -> None:
        watch.look(done / size)
        if done / size >= float(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

    corpus = Corpus.from_wikitext(text)
    tokenize(corpus, tokenizer, max_tokens=MAX_TOKENS, cache_dir=cache, progress=progress)
    return watch.figures()


def _batched(folder: str, device: str, start: str) -> dict[str, Any]:
    store = TokenStore.open(folder)
    cuts = plan_blocks(store.offsets, BLOCK_TOKENS[device])
    blocks = list(pairwise(cuts.tolist()))
    todo = [
        block
        for shard in range(N_SHARDS)
        for block in shard_blocks(len(blocks), shard, N_SHARDS)
        if block >= int(float(start) * len(blocks))
    ]
    form = partial(form_batches, store, batch_tokens=BATCH_TOKENS[device])
    watch, computed, real = _Watch(), 0, 0
    for block in todo:
        for batch in form(blocks[block]):
            computed, real = computed + batch.n_computed, real + batch.n_tokens
        watch.look((block + 1) / len(blocks))
    figures = watch.figures() | {"padding": computed / real}
    return figures | {"hashes": [_hash(form(blocks[block])) for block in todo]}


def _hash(batches: Iterator[Batch]) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        for array in (batch.input_ids, batch.attention_mask, batch.ids, batch.units):
            digest.update(str(array.shape).encode() + array.tobytes())
    return digest.hexdigest()
