"""`pyengine cache MODEL CORPUS`: the pass over a corpus, with its need of room and progress."""

import json
from pathlib import Path

from pyengine.analyses.cached_activations_result import CachedActivations
from pyengine.analyses.cached_activations_settings import DiskNeed, size_text
from pyengine.cli import corpus_options as given
from pyengine.cli.cache_view import print_kept, run_summary
from pyengine.cli.display import err, human
from pyengine.cli.schedule import carry_out, say_next
from pyengine.scale.schedule import Schedule
from pyengine.scale.work import Work


def cache_corpus(work: Work, run: Path, how: Schedule, as_json: bool) -> None:
    """Keep sites over a corpus, with progress; `work` is of `cache_activations`."""
    found, seconds = carry_out(work, run, how, "caching", lambda _: {"on_need": _say_need})
    _report(found, run, seconds)
    if as_json:
        print(json.dumps({"run": str(run), **run_summary(found)}))
        return
    print_kept(found)
    say_next(
        how, lambda: f'pyengine.open_run("{run}") in Python   or: pyengine show {run} --unit 0'
    )


def _say_need(need: DiskNeed) -> None:
    per_token = size_text(need.n_bytes / max(need.n_tokens, 1))
    resumed = "" if need.left == need.n_bytes else f", {size_text(need.left)} of it still to write"
    err.print(
        f"{need.n_tokens:,} tokens × {per_token} = {size_text(need.n_bytes)}{resumed}; "
        f"{size_text(need.free)} free"
    )


def _report(found: CachedActivations, run: Path, seconds: float) -> None:
    n_tokens = found.record["n_tokens"]
    err.print(
        f"{n_tokens:,} tokens of {found.record['n_units']:,} units in {seconds:.1f} s "
        f"({human(n_tokens / max(seconds, 1e-9))} tokens/s) → {run}"
    )
    given.report_run(found.manifest, found.record)
    if n_overflow := found.record["n_overflow"]:
        err.print(
            f"warning: {n_overflow:,} numbers are too large for the dtype they are saved in, and "
            "infinite there; --save-dtype bfloat16 has the range of float32"
        )
