"""`pyengine demo` and `pyengine triggers`."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli import options
from pyengine.cli.display import err, example_table, human, out, progress
from pyengine.errors import Interrupted

if TYPE_CHECKING:
    from pyengine.analyses.trigger_result import TriggerExamples
    from pyengine.corpus import Corpus

DEMO_RUN = Path("pyengine-demo")
DEMO_KEYS = 8
DEMO_ROWS = 4


def demo(
    run: Annotated[Path, typer.Option("--out", help="Run directory to write.")] = DEMO_RUN,
) -> None:
    """Run the main job on the embedded GPT-2 over the embedded WikiText excerpt.

    Example: pyengine demo
    """
    from pyengine.corpus import Corpus
    from pyengine.embedded import EXCERPT

    # The model is too small to gain from a second thread, and one gives the same bits everywhere.
    _set_threads(1)
    corpus = Corpus.from_wikitext(EXCERPT, unit="sentence")
    found = _search("demo", corpus, run, {}, {"k": 10})
    for layer, dim in _telling_keys(found, DEMO_KEYS):
        out.print()
        out.print(example_table(found, layer, dim, DEMO_ROWS, out.width - 28))
    out.print(f"\nEvery other key: pyengine show {run} --layer 3 --dim 17")


def triggers(
    model: Annotated[str, typer.Argument(help="Hub name, local folder, or 'demo'.")],
    corpus: Annotated[str, typer.Argument(help="File, or dataset name with --format dataset.")],
    run: Annotated[Path, typer.Option("--out", help="Run directory; an unfinished one resumes.")],
    k: Annotated[int, typer.Option(help="Examples per key, 1 to 1024.")] = 50,
    unit: Annotated[str, typer.Option(help="line, sentence or window.")] = "sentence",
    window: Annotated[int | None, typer.Option(help="Tokens per window.")] = None,
    max_units: Annotated[int | None, typer.Option(help="Only the first N units.")] = None,
    per: Annotated[str, typer.Option(help="Who competes: unit, token or prefix.")] = "unit",
    value: Annotated[str, typer.Option(help="post or pre activation.")] = "post",
    sign: Annotated[str, typer.Option(help="max, min or both.")] = "max",
    floor: Annotated[float | None, typer.Option(help="Keep only scores above this.")] = None,
    activation: Annotated[
        str, typer.Option(help="fused (fast) or model (bit-equal to Hugging Face).")
    ] = "fused",
    layers: Annotated[str | None, typer.Option(help="Layers, as 0-3,7; default all.")] = None,
    dims: Annotated[str | None, typer.Option(help="Dims, as 0-99,512; default all.")] = None,
    bos: Annotated[bool, typer.Option("--bos", help="Put BOS before each unit.")] = False,
    long: Annotated[str, typer.Option(help="Over-long units: split or drop.")] = "split",
    raw: Annotated[bool, typer.Option("--raw", help="Keep WikiText's tokenisation.")] = False,
    format: Annotated[
        str, typer.Option(help="auto, wikitext, text, jsonl, tokens or dataset.")
    ] = "auto",
    field: Annotated[str, typer.Option(help="Text field of JSONL and datasets.")] = "text",
    config: Annotated[str | None, typer.Option(help="Dataset configuration.")] = None,
    split: Annotated[str, typer.Option(help="Dataset split.")] = "train",
    dtype: Annotated[str, typer.Option(help="float32, tf32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Hub revision of the model.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the model brings.")
    ] = False,
    shard: Annotated[str, typer.Option(help="i/n: the i-th of n parts, from 0.")] = "0/1",
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens per batch.")] = None,
    block_tokens: Annotated[int | None, typer.Option(help="Tokens per block.")] = None,
    checkpoint_blocks: Annotated[
        int | None, typer.Option(help="Save every N blocks; default every 30 seconds.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where tokenised corpora are kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Find the k inputs that activate each feed-forward key most.

    Example: pyengine triggers gpt2 wiki.train.tokens --out runs/gpt2 --k 50 --dtype bfloat16
    """
    options_of_text = {
        "unit": unit,
        "window": window,
        "max_units": max_units,
        "long": long,
        "detokenize": not raw,
    }
    units = _corpus(corpus, format, field, config, split, options_of_text)
    load_settings = {
        "device": device,
        "dtype": dtype,
        "revision": revision,
        "trust_remote_code": trust_remote_code,
    }
    settings: dict[str, Any] = {
        "k": k,
        "per": per,
        "value": value,
        "sign": sign,
        "floor": floor,
        "activation": activation,
        "layers": options.indices(layers),
        "dims": options.indices(dims),
        "bos": bos,
        "shard": options.shard(shard),
        "batch_tokens": batch_tokens,
        "block_tokens": block_tokens,
        "checkpoint_blocks": checkpoint_blocks,
        "cache_dir": cache,
    }
    if threads is not None:
        _set_threads(threads)
    found = _search(model, units, run, load_settings, settings)
    if as_json:
        print(json.dumps(_summary(found, run)))
    elif settings["shard"][1] == 1:
        err.print(f"next: pyengine show {run}   or: pyengine export {run} --format parquet")
    else:
        err.print(f"shard {shard} is done; merge with: pyengine merge RUN_1 RUN_2 … --out RUN")


def _corpus(
    source: str, format: str, field: str, config: str | None, split: str, text: dict[str, Any]
) -> "Corpus":
    """Describe the corpus; token files have units of their own."""
    from pyengine.corpus import Corpus

    if format == "dataset":
        return Corpus.from_dataset(source, config, split=split, field=field, **text)
    token_file = Path(source.removesuffix(".gz")).suffix in (".npy", ".safetensors")
    if format == "tokens" or (format == "auto" and token_file):
        return Corpus.from_path(source, format="tokens", **text | {"unit": None})
    return Corpus.from_path(source, format=format, field=field, **text)


def _search(
    model_name: str,
    corpus: "Corpus",
    run: Path,
    load_settings: dict[str, Any],
    settings: dict[str, Any],
) -> "TriggerExamples":
    """Load, tokenise and search, with progress; report warnings and the rate."""
    from pyengine.analyses.triggers import trigger_examples
    from pyengine.loading import load

    model = load(model_name, **load_settings)
    started = time.monotonic()
    try:
        with progress() as advance:
            found = trigger_examples(
                model,
                corpus,
                out=run,
                on_tokenized=lambda done, total: advance("tokenising", done, total),
                on_segment=lambda done, plan: advance("searching", done.n_tokens, plan.n_tokens),
                **settings,
            )
    except KeyboardInterrupt as stop:
        raise Interrupted(
            f"interrupted; what was done is saved in {run}: run the same command again to resume"
        ) from stop
    _report(found, run, time.monotonic() - started)
    return found


def _set_threads(threads: int) -> None:
    import torch

    if threads < 1:
        raise typer.BadParameter(f"threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)


def _report(found: "TriggerExamples", run: Path, seconds: float) -> None:
    record = found.record
    keys = found.scores.shape[0] * found.scores.shape[1]
    err.print(
        f"{keys:,} keys × {found.k} examples from {record['n_tokens']:,} tokens in {seconds:.1f} s "
        f"({human(record['n_tokens'] / max(seconds, 1e-9))} tokens/s) → {run}"
    )
    for name in ("split", "dropped"):
        if count := found.manifest["corpus"][f"{name}_units"]:
            err.print(f"note: {count:,} over-long units were {name}")
    for layer, n_nan in enumerate(record["n_nan"]):
        if n_nan:
            err.print(f"warning: layer {layer} had {n_nan:,} NaN activations; none is kept")
    if not record["exact"]:
        err.print("warning: memory ran out and batches were halved; the bits may not repeat")


def _summary(found: "TriggerExamples", run: Path) -> dict[str, Any]:
    return {
        "run": str(run),
        "n_layers": len(found.layers),
        "n_dims": len(found.dims),
        "k": found.k,
        "n_units": found.manifest["corpus"]["n_units"],
        **{name: found.record[name] for name in ("n_tokens", "n_computed", "n_nan", "exact")},
    }


def _telling_keys(found: "TriggerExamples", n: int) -> list[tuple[int, int]]:
    """Choose keys to show, spread over the layers: those that fire on few, whole words."""
    per_layer = -(-n // len(found.layers))
    chosen: list[tuple[int, int]] = []
    for layer in found.layers:
        by_variety = sorted(found.dims, key=lambda dim: (_variety(found, layer, dim), dim))
        chosen += [(layer, dim) for dim in by_variety[:per_layer]]
    return chosen[:n]


def _variety(found: "TriggerExamples", layer: int, dim: int) -> float:
    """Distinct firing tokens per distinct prefix; tokens that are no words count as many."""
    examples = found.examples(layer, dim)
    firing = {example.token for example in examples}
    fragments = sum(not _is_word(found.text.token(token)) for token in firing)
    return (len(firing) + 3 * fragments) / max(len({example.text for example in examples}), 1)


def _is_word(token: str) -> bool:
    return token.startswith(" ") and len(token) > 3 and token.strip().isalpha()
