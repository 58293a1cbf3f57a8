"""`pyengine heads neurons`: which FFN neurons tell the classes of a task."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli.display import columns, err, number, out, progress
from pyengine.cli.heads_options import BankArgument, open_bank
from pyengine.cli.options import indices

if TYPE_CHECKING:
    from pyengine.analyses.fact_neuron_result import FactNeurons
    from pyengine.heads.ranked_neurons import RankedNeurons

TOP_ROWS = 10
TOPS = "10,100,1000"


def neurons(
    bank: BankArgument,
    table: Annotated[
        Path, typer.Option("--out", help="Parquet file to write; a summary goes beside it, .json.")
    ],
    task: Annotated[str, typer.Option(help="Of classes of single sentences.")],
    layers: given.LayersOption = None,
    l1: Annotated[
        str | None, typer.Option(help="Weights of the L1 norm to choose from.", show_default=False)
    ] = None,
    l2: Annotated[
        str | None,
        typer.Option(help="Weights of the squared L2 norm to choose from.", show_default=False),
    ] = None,
    max_examples: Annotated[
        int | None, typer.Option(min=1, help="Of train, dev and test each; default all.")
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option(help="A run of `pyengine neurons pararel`, to compare with attribution."),
    ] = None,
    top: Annotated[str, typer.Option(help="With --facts: of so many best neurons.")] = TOPS,
    seed: Annotated[int, typer.Option(help="Of the random neurons compared with.")] = 0,
    device: given.DeviceOption = "auto",
    threads: given.ThreadsOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Rank FFN neurons by an elastic-net probe (Durrani et al. 2020), and check the ranking.

    The bank has to hold them: pyengine heads extract ... --location neurons

    Example: pyengine heads neurons runs/bank --task TREC --out neurons.parquet --facts runs/facts
    """
    from pyengine.heads.ranked_neurons import L1, L2, rank_neurons

    if table.suffix.lower() != ".parquet":
        raise typer.BadParameter(f"--out {table} is not a .parquet file")
    given.set_threads(threads)
    found, others = open_bank(bank), _open_facts(facts)
    tops = _numbers("--top", top, int)
    with progress() as advance:
        ranking = rank_neurons(
            found,
            task,
            layers=indices(layers),
            l1=L1 if l1 is None else _numbers("--l1", l1, float),
            l2=L2 if l2 is None else _numbers("--l2", l2, float),
            max_examples=max_examples,
            seed=seed,
            device=device,
            on_progress=advance,
        )
    overlap = [] if others is None else ranking.overlap(others, tops)
    more = {"overlap": overlap} if others is not None else {}
    ranking.save(table, **more)
    if as_json:
        print(json.dumps({"table": str(table), **ranking.summary, **more}))
        return
    _print_probe(ranking.summary)
    _print_neurons(ranking)
    if others is not None:
        _print_overlap(overlap)
    err.print(f"wrote {table} and {table.with_suffix('.json')}")


def _open_facts(path: Path | None) -> "FactNeurons | None":
    from pyengine.analyses.fact_neuron_result import FactNeurons
    from pyengine.errors import PyengineError
    from pyengine.run import open_run

    if path is None:
        return None
    found = open_run(path)
    if not isinstance(found, FactNeurons):
        kind = found.manifest["analysis"]
        raise PyengineError(f"{path} holds {kind}, not a run of `pyengine neurons pararel`")
    return found


def _numbers(option: str, text: str, kind: Any) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{option} {text!r} is not a list of numbers") from error


def _print_probe(summary: dict[str, Any]) -> None:
    """Print what the probe and the ranking are worth, accuracies on test in percent."""
    penalties, ablation, least = (summary[n] for n in ("penalties", "ablation", "minimal_set"))
    out.print(
        f"{summary['task']}: {summary['n_with_weight']:,} of {summary['n_neurons']:,} neurons with "
        f"weight at λ1 {penalties['l1']:g}, λ2 {penalties['l2']:g} (chosen on dev)",
        soft_wrap=True,
    )
    rows = {
        "all neurons": summary["test"],
        f"the best {least['n']:,}, trained anew": least["test"],
        "the top 20 % alone": ablation["top"],
        "a random 20 % alone": ablation["random"],
        "the bottom 20 % alone": ablation["bottom"],
        "train's largest class": summary["majority"],
    }
    table = columns("neurons", "accuracy", left=("neurons",))
    for name, value in rows.items():
        table.add_row(name, number(value, 2))
    out.print(table)
    if not summary["converged"]:
        err.print("warning: the probe had not converged; its weights may still change")


def _print_neurons(ranking: "RankedNeurons") -> None:
    table = columns("rank", "layer", "neuron", "share", "class", left=("class",))
    labels = ranking.summary["labels"]
    for row in ranking.table.slice(0, TOP_ROWS).to_pylist():
        weights = row["weights"]
        largest = max(range(len(weights)), key=lambda i: abs(weights[i]))
        says = f"{labels[largest]} {weights[largest]:+.3f}"
        cells = (str(row[name]) for name in ("rank", "layer", "neuron"))
        table.add_row(*cells, f"{row['share']:.2%}", says)
    out.print()
    out.print(table)


def _print_overlap(rows: list[dict[str, Any]]) -> None:
    table = columns("best", "of facts", "in both", "by chance", "P(so many or more)")
    for row in rows:
        numbers = (number(row[name]) for name in ("n_top", "n_facts", "n_common"))
        table.add_row(*numbers, number(row["expected"], 2), f"{row['probability']:.2g}")
    out.print()
    out.print(table)
