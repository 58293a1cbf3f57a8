"""`pyengine cache MODEL CORPUS`: the pass over a corpus, with its need of room and progress."""

import json
from pathlib import Path

from pyengine.analyses.cached_activations_result import CachedActivations
from pyengine.cli import corpus_options as given
from pyengine.cli.cache_view import print_kept, run_summary
from pyengine.cli.display import err
from pyengine.cli.schedule import Took, carry_out, say_need, say_next
from pyengine.scale.schedule import Schedule
from pyengine.scale.work import Work


def cache_corpus(work: Work, run: Path, how: Schedule, as_json: bool) -> None:
    """Keep sites over a corpus, with progress; `work` is of `cache_activations`."""
    found, took = carry_out(work, run, how, "caching", lambda _: {"on_need": say_need})
    _report(found, run, took)
    if as_json:
        print(json.dumps({"run": str(run), **run_summary(found)}))
        return
    print_kept(found)
    say_next(
        how, lambda: f'pyengine.open_run("{run}") in Python   or: pyengine show {run} --unit 0'
    )


def _report(found: CachedActivations, run: Path, took: Took) -> None:
    n_tokens = found.record["n_tokens"]
    err.print(
        f"{n_tokens:,} tokens of {found.record['n_units']:,} units "
        f"{took.text(n_tokens, 'tokens')} → {run}"
    )
    given.report_run(found.manifest, found.record)
    if n_overflow := found.record["n_overflow"]:
        err.print(
            f"warning: {n_overflow:,} numbers are too large for the dtype they are saved in, and "
            "infinite there; --save-dtype bfloat16 has the range of float32"
        )
