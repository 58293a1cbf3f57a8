"""`pyengine cache`: the activations of texts, or of a whole corpus, as files."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli.schedule import say_estimate, schedule_of

# What only one of the two ways of calling it understands, by parameter.
_OF_TEXTS = ("target", "pos", "stop_at_layer", "padding", "overlong")
_OF_A_CORPUS = (
    *("save_dtype", "unit", "window", "max_units", "bos", "long", "raw", "format", "field"),
    *("config", "split", "shard", "ray", "tasks", "allow_mixed", "dry_run", "cache"),
    *("batch_tokens", "block_tokens"),
)


def cache(
    context: typer.Context,
    model: given.ModelArgument,
    corpus: Annotated[
        str | None,
        typer.Argument(help="File, or dataset name with --format dataset; or else --text."),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A text to run the model on; may be repeated.")
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(help="Site or pattern, as 'blocks.*.mlp.hook_post'; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Texts: safetensors file to write. Corpus: run directory; it resumes."),
    ] = None,
    list_sites: Annotated[
        bool, typer.Option("--list", help="List the model's sites (or --names) and exit.")
    ] = False,
    target: Annotated[
        list[str] | None, typer.Option(help="Texts, T5: what the decoder reads; one per --text.")
    ] = None,
    pos: Annotated[
        list[int] | None, typer.Option(help="Texts: keep this position (-1: the last); repeat.")
    ] = None,
    stop_at_layer: Annotated[
        int | None, typer.Option(help="Texts: run only the layers before this one.")
    ] = None,
    padding: Annotated[
        str, typer.Option(help="Texts: side of the padding, right or left.")
    ] = "right",
    overlong: Annotated[
        str, typer.Option(help="Texts the model cannot hold: refuse, or window (cut into rows).")
    ] = "refuse",
    save_dtype: Annotated[
        str | None,
        typer.Option(help="Corpus: float32, float16 or bfloat16; default as computed."),
    ] = None,
    unit: given.UnitOption = "sentence",
    window: given.WindowOption = None,
    max_units: given.MaxUnitsOption = None,
    bos: given.BosOption = False,
    long: given.LongOption = "split",
    raw: given.RawOption = False,
    format: given.FormatOption = "auto",
    field: given.FieldOption = "text",
    config: given.ConfigOption = None,
    split: given.SplitOption = "train",
    attention: Annotated[
        str | None,
        typer.Option(help="eager (the only one with hook_pattern) or sdpa; default the model's."),
    ] = None,
    dtype: given.ReadoutDtypeOption = "float32",
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
    threads: given.ThreadsOption = None,
    cache: given.CacheOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Keep the values of named sites: of texts in one file, of a corpus in a run directory.

    Example: pyengine cache gpt2 --text "The cat sat" --names 'blocks.*.hook_resid_post' --out
    cat.safetensors

    Example: pyengine cache gpt2 wiki.valid.tokens --names blocks.5.mlp.hook_post --out runs/acts
    """
    from pyengine.loading import load

    _check_way(context, corpus, text, names, out, list_sites)
    given.set_threads(threads)
    load_settings: dict[str, Any] = {
        "device": device,
        "dtype": dtype,
        "revision": revision,
        "attn_implementation": attention,
        "trust_remote_code": trust_remote_code,
    }
    if corpus is not None and not list_sites:
        from pyengine.analyses.cached_activations import cache_activations
        from pyengine.cli.cache_corpus import cache_corpus
        from pyengine.scale.work import Work

        how = schedule_of(shard, ray, tasks, allow_mixed)
        kind = {"unit": unit, "window": window, "max_units": max_units, "long": long}
        units = given.read_corpus(
            corpus, format, field, config, split, kind | {"detokenize": not raw}
        )
        assert out is not None and names is not None
        settings: dict[str, Any] = {
            "save_dtype": save_dtype,
            "bos": bos,
            "batch_tokens": batch_tokens,
            "block_tokens": block_tokens,
            "cache_dir": cache,
        }
        work = Work(cache_activations, model, units, (names,), settings, load_settings)
        if dry_run:
            say_estimate(work, how, as_json)
        else:
            cache_corpus(work, out, how, as_json)
        return
    loaded = load(model, **load_settings)
    if list_sites:
        from pyengine.cli.cache_view import print_sites

        print_sites(loaded, names, as_json)
        return
    from pyengine.cli.cache_text import cache_text

    assert text is not None
    cache_text(
        loaded,
        text,
        out,
        as_json,
        target=target,
        padding=padding,
        overlong=overlong,
        names_filter=names,
        pos_slice=pos,
        stop_at_layer=stop_at_layer,
    )


def _check_way(
    context: typer.Context,
    corpus: str | None,
    text: list[str] | None,
    names: list[str] | None,
    out: Path | None,
    list_sites: bool,
) -> None:
    """Refuse arguments that do not go together.

    Raises:
        typer.BadParameter: with what is missing or too much.
    """
    if list_sites:
        return
    if (corpus is None) == (text is None):
        raise typer.BadParameter("give --text, or a corpus, or --list to see the sites")
    if corpus is not None and (names is None or out is None):
        raise typer.BadParameter("a corpus needs --names and --out (--list shows the sites)")
    wrong = _OF_TEXTS if text is None else _OF_A_CORPUS
    for name in wrong:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"{option} is for {'texts' if text is None else 'a corpus'}")
