"""`pyengine.scale_out`: any analysis of a corpus on all GPUs of a machine, or on many machines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyengine.errors import PyengineError
from pyengine.scale.schedule import Schedule
from pyengine.scale.work import Report, Work


def scale_out(
    function: Callable[..., Any],
    model: Any,
    corpus: Any,
    *arguments: Any,
    out: str | Path,
    ray: str | None = None,
    tasks: int | None = None,
    allow_mixed: bool = False,
    load_settings: dict[str, Any] | None = None,
    on_tokenized: Report | None = None,
    on_progress: Report | None = None,
    **settings: Any,
) -> Any:
    """Carry out an analysis of a corpus on everything there is: GPUs, machines, this process.

    In a script that `torchrun` started, the ranks share the work; with `ray`, the workers of a Ray
    cluster do; else this process does it alone. The result has the same bits each time. For example
    `torchrun --nproc-per-node 8 search.py` uses all GPUs of a machine with this search.py::

        import pyengine

        corpus = pyengine.Corpus.from_wikitext("wiki.train.tokens", unit="sentence")
        found = pyengine.scale_out(
            pyengine.trigger_examples, "gpt2", corpus, k=50, out="runs/gpt2",
            load_settings={"dtype": "bfloat16"},
        )

    and with reducers, your own included::

        reducers = {"blocks.5.hook_resid_post": [pyengine.Moments(n_keys=768)]}
        pyengine.scale_out(pyengine.extract, "gpt2", corpus, reducers, out="runs/x", ray="auto")

    Args:
        function: `trigger_examples`, `extract`, `ffn_predictions`, `cache_activations`,
            `fact_neurons`, `fit_shortcuts` or `extract_heads`.
        model: what `pyengine.load` takes; a name or folder unless all is done in this process, or
            every rank has loaded it.
        corpus: what the function reads: a `Corpus`, a `TokenStore`, facts, or tasks.
        arguments, settings: its own; not `shard`.
        out: the run directory. The same call takes an interrupted run up, and opens a complete one.
            The ranks of several machines need one that all of them share.
        ray: `local` starts Ray on this machine, `auto` finds the cluster this machine belongs to,
            `any` is `auto` where there is one, else `local`; `host:port` or `ray://host:port` names
            one. Not inside torchrun.
        tasks: into how many tasks the work is cut, with ranks or Ray; a death costs what its
            task did since the last checkpoint. None: by the size of the corpus. It does not
            change the result, but a run is taken up only with the number it was begun with.
        allow_mixed: let Ray's workers differ in device or versions; the result is then recorded as
            not bit-exact.
        load_settings: how the model is loaded: `dtype`, `device`, ... `auto` and `cuda` give each
            rank the GPU of its own number.
        on_tokenized: called with (bytes done, bytes in all), on rank 0.
        on_progress: called with (content tokens or facts done, in all), on rank 0.

    Returns:
        What the function returns for the whole corpus; on every rank.

    Raises:
        PyengineError: for what the function refuses, settings that exclude each other, Ray that is
            not installed, or a run begun with other settings.
    """
    schedule = Schedule(ray=ray, tasks=tasks, allow_mixed=allow_mixed)
    if "shard" in settings:
        raise PyengineError("scale_out cuts the work itself; leave shard out")
    work = Work(function, model, corpus, arguments, settings, load_settings or {})
    return schedule.carry_out(work, Path(out), on_tokenized=on_tokenized, on_progress=on_progress)
