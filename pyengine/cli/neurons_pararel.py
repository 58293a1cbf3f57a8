"""`pyengine neurons pararel`: the knowledge neurons of many facts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli import fact_options as source
from pyengine.cli import neurons_options as asked
from pyengine.cli.display import Advance, err
from pyengine.cli.neurons_view import print_skipped, print_summary, summary
from pyengine.cli.schedule import Took, carry_out, say_estimate, say_next, schedule_of

if TYPE_CHECKING:
    from pyengine.analyses.fact_neuron_result import FactNeurons


def pararel(
    model: given.ModelArgument,
    run: given.RunOption,
    data: source.DataOption = None,
    facts: source.FactsOption = None,
    counterfact: source.CounterFactOption = None,
    relations: Annotated[
        str | None, typer.Option(help="Only these, as P19,P36.", show_default=False)
    ] = None,
    max_facts: Annotated[
        int | None, typer.Option(min=1, help="Only the first N facts of each relation.")
    ] = None,
    method: asked.MethodOption = "adaptive",
    steps: asked.StepsOption = 20,
    adaptive: asked.AdaptiveOption = None,
    threshold: asked.ThresholdOption = None,
    percentile: asked.PercentileOption = None,
    share: asked.ShareOption = "0.5",
    objective: asked.ObjectiveOption = "probability",
    value: asked.ValueOption = "post",
    factor: asked.FactorOption = 2.0,
    seed: Annotated[int, typer.Option(help="Seed of the unrelated facts.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw Figures 3 and 4: .png, .svg or .pdf.")
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
    block_facts: Annotated[
        int | None, typer.Option(help="Facts per block, of which an interruption costs one.")
    ] = None,
    threads: given.ThreadsOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Find the neurons of every fact, and what suppressing and enhancing them does.

    Each fact's neurons are tried on its own prompts and on those of a fact of another relation.

    Example: pyengine neurons pararel bert-base-uncased --data pararel --out runs/facts
    """
    from pyengine.analyses.fact_neurons import fact_neurons
    from pyengine.scale.work import Work

    how = schedule_of(shard, ray, tasks, allow_mixed)
    settings: dict[str, Any] = {
        "method": method,
        "steps": steps,
        "adaptive": adaptive,
        "threshold": threshold,
        "percentile": percentile,
        "share": asked.share_of(share),
        "objective": objective,
        "value": value,
        "factor": factor,
        "seed": seed,
        "block_facts": block_facts,
    }
    given.check_picture(plot)
    path, known = source.read_source(data, facts, counterfact)
    chosen = source.choose_facts(known, relations, max_facts)
    given.set_threads(threads)
    load_settings = {
        "device": device,
        "dtype": dtype,
        "revision": revision,
        "trust_remote_code": trust_remote_code,
    }
    work = Work(fact_neurons, model, chosen, (), settings | {"source": str(path)}, load_settings)
    with asked.warnings_in_a_line():
        if dry_run:
            say_estimate(work, how, as_json)
            return
        # Alone it counts prompts.
        stage = "facts" if how.alone else "all facts"
        found, took = carry_out(work, run, how, stage, _of_checking)
    _report(found, run, took)
    if plot is not None:
        from pyengine.plots import plot_neurons

        plot_neurons(found, plot)
        err.print(f"wrote {plot}")
    if as_json:
        print(json.dumps({"run": str(run), **summary(found)}))
        return
    print_summary(found)
    say_next(
        how,
        lambda: (
            f"pyengine show {run} --fact {found.facts['fact'][0].as_py()}"
            f"   or: pyengine export {run} --format neurons-json --out neurons.json"
        ),
    )


def _of_checking(advance: Advance) -> dict[str, Any]:
    return {"on_checked": lambda done, total: advance("checking", done, total)}


def _report(found: "FactNeurons", run: Path, took: Took) -> None:
    record = found.record
    err.print(
        f"{record['n_facts']:,} facts, {record['n_prompts']:,} prompts "
        f"{took.text(record['n_prompts'], 'prompts')} → {run}"
    )
    print_skipped(found, err)
    _report_errors(found)
    if not record["exact"]:
        err.print("warning: put together from shards of other numerics; the bits may not repeat")


def _report_errors(found: "FactNeurons") -> None:
    """Say which facts' scores did not meet the tolerance."""
    import pyarrow.compute as pc

    n_open = found.facts.num_rows - (pc.sum(found.facts["converged"]).as_py() or 0)
    if n_open:
        worst = pc.max(found.facts["completeness"]).as_py()
        err.print(
            f"note: the scores of {n_open:,} facts did not converge in some layer; their sums miss "
            f"by up to {worst or 0:.2g} of the largest change"
        )
