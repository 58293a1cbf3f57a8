"""`pyengine demo` and `pyengine triggers`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli import options
from pyengine.cli.display import err, example_table, out
from pyengine.cli.schedule import Took, carry_out, say_estimate, say_next, schedule_of
from pyengine.scale.schedule import Schedule

if TYPE_CHECKING:
    from pyengine.analyses.trigger_result import TriggerExamples
    from pyengine.scale.work import Work

DEMO_RUN = Path("pyengine-demo")
DEMO_KEYS = 8
DEMO_ROWS = 4


def demo(
    run: Annotated[Path, typer.Option("--out", help="Run directory to write.")] = DEMO_RUN,
) -> None:
    """Run the main job on the embedded GPT-2 over the embedded WikiText excerpt.

    Example: pyengine demo
    """
    from pyengine.analyses.triggers import trigger_examples
    from pyengine.corpus import Corpus
    from pyengine.embedded import EXCERPT
    from pyengine.scale.work import Work

    # The model is too small to gain from a second thread, and one gives the same bits everywhere.
    given.set_threads(1)
    corpus = Corpus.from_wikitext(EXCERPT, unit="sentence")
    work = Work(trigger_examples, "demo", corpus, settings={"k": 10})
    found = _search(work, run, Schedule())
    for layer, dim in _telling_keys(found, DEMO_KEYS):
        out.print()
        out.print(example_table(found, layer, dim, DEMO_ROWS, out.width - 28))
    out.print(f"\nEvery other key: pyengine show {run} --layer 3 --dim 17")


def triggers(
    model: given.ModelArgument,
    corpus: given.CorpusArgument,
    run: given.RunOption,
    k: Annotated[int, typer.Option(help="Examples per key, 1 to 1024.")] = 50,
    unit: given.UnitOption = "sentence",
    window: given.WindowOption = None,
    max_units: given.MaxUnitsOption = None,
    per: Annotated[str, typer.Option(help="Who competes: unit, token or prefix.")] = "unit",
    value: Annotated[str, typer.Option(help="post or pre activation.")] = "post",
    sign: Annotated[str, typer.Option(help="max, min or both.")] = "max",
    floor: Annotated[float | None, typer.Option(help="Keep only scores above this.")] = None,
    activation: given.ActivationOption = "fused",
    layers: given.LayersOption = None,
    dims: Annotated[str | None, typer.Option(help="Dims, as 0-99,512; default all.")] = None,
    bos: given.BosOption = False,
    long: given.LongOption = "split",
    raw: given.RawOption = False,
    format: given.FormatOption = "auto",
    field: given.FieldOption = "text",
    config: given.ConfigOption = None,
    split: given.SplitOption = "train",
    dtype: given.DtypeOption = "float32",
    device: given.DeviceOption = "auto",
    revision: given.RevisionOption = None,
    trust_remote_code: given.TrustOption = False,
    shard: given.ShardOption = "0/1",
    ray: given.RayOption = None,
    tasks: given.TasksOption = None,
    allow_mixed: given.AllowMixedOption = False,
    dry_run: given.DryRunOption = False,
    batch_tokens: given.BatchTokensOption = None,
    block_tokens: given.BlockTokensOption = None,
    checkpoint_blocks: Annotated[
        int | None, typer.Option(help="Save every N blocks; default every 30 seconds.")
    ] = None,
    threads: given.ThreadsOption = None,
    cache: given.CacheOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Find the k inputs that activate each feed-forward key most.

    Example: pyengine triggers gpt2 wiki.train.tokens --out runs/gpt2 --k 50 --dtype bfloat16
    """
    from pyengine.analyses.triggers import trigger_examples
    from pyengine.scale.work import Work

    how = schedule_of(shard, ray, tasks, allow_mixed)
    options_of_text = {
        "unit": unit,
        "window": window,
        "max_units": max_units,
        "long": long,
        "detokenize": not raw,
    }
    units = given.read_corpus(corpus, format, field, config, split, options_of_text)
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
        "batch_tokens": batch_tokens,
        "block_tokens": block_tokens,
        "checkpoint_blocks": checkpoint_blocks,
        "cache_dir": cache,
    }
    given.set_threads(threads)
    work = Work(trigger_examples, model, units, (), settings, load_settings)
    if dry_run:
        say_estimate(work, how, as_json)
        return
    found = _search(work, run, how)
    if as_json:
        print(json.dumps(_summary(found, run)))
    else:
        say_next(how, lambda: f"pyengine show {run}   or: pyengine export {run} --format parquet")


def _search(work: "Work", run: Path, how: Schedule) -> "TriggerExamples":
    """Load, tokenise and search, with progress; report warnings and the rate."""
    found, took = carry_out(work, run, how, "searching")
    _report(found, run, took)
    return cast("TriggerExamples", found)


def _report(found: "TriggerExamples", run: Path, took: Took) -> None:
    record = found.record
    keys = found.scores.shape[0] * found.scores.shape[1]
    err.print(
        f"{keys:,} keys × {found.k} examples from {record['n_tokens']:,} tokens "
        f"{took.text(record['n_tokens'], 'tokens')} → {run}"
    )
    given.report_run(found.manifest, record)
    for layer, n_nan in enumerate(record["n_nan"]):
        if n_nan:
            err.print(f"warning: layer {layer} had {n_nan:,} NaN activations; none is kept")


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
