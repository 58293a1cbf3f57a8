"""How the knowledge neurons of one fact are shown in the terminal."""

from typing import Any

from rich.table import Table
from rich.text import Text

from pyengine.cli.display import (
    add_rows,
    bar,
    columns,
    head,
    one_line,
    out,
    percent,
    quoted,
    signed_percent,
)

BAR = 8
TOKENS = 3
PROMPT = 34

Report = dict[str, Any]


def print_report(report: Report, top: int, by_layer: bool) -> None:
    """Print what the model answers, how exact the scores are, the neurons and their effect."""
    for row in report["prompts"]:
        _print_answer(row, report)
    if by_layer:
        for row in report["prompts"]:
            _print_layers(row, named=len(report["prompts"]) > 1)
    neurons = report["neurons"]
    out.print(f"\n{_counted(report)}")
    if not neurons:
        return
    out.print(_neurons(report, top))
    out.print(
        "writes: the value's best tokens, read through the embedding; share: of the largest score",
        style="dim",
    )
    if len(neurons) > top:
        out.print(f"and {len(neurons) - top:,} more; --top shows more", style="dim")
    out.print()
    out.print(_effects(report))


def _print_answer(row: Report, report: Report) -> None:
    before = row["before"]
    pieces = "" if len(report["tokens"]) == 1 else f" ({len(report['tokens'])} tokens)"
    out.print(row["prompt"], style="bold", markup=False)
    first = (
        f"the model's best answer, {percent(before['probability'])}"
        if before["rank"] == 0
        else f"{percent(before['probability'])}, rank {before['rank']:,}; the model says "
        f"{quoted(before['completion'])}, {percent(before['completion_probability'])}"
    )
    out.print(f"  {quoted(report['target'], 40)}{pieces}: {first}", markup=False)
    out.print(f"  {_exactness(row['layers'])}", style="dim")


def _exactness(layers: list[Report]) -> str:
    """Say how well the scores add up, in the worst of the layers."""
    known = [row for row in layers if row["completeness"] is not None]
    if not known:
        return "a single pass: scores that do not add up to anything"
    largest = max(abs(row["change"]) for row in known)
    worst = max(known, key=lambda row: abs(row["completeness"]))
    relative = abs(worst["completeness"]) / largest if largest else None
    said = (
        f"error of the scores' sums: at most {percent(relative)} of the largest layer's change "
        f"(layer {worst['layer']})"
    )
    open_layers = [str(row["layer"]) for row in known if not row["converged"]]
    return said + (f"; not converged: layer {', '.join(open_layers)}" if open_layers else "")


def _print_layers(row: Report, named: bool) -> None:
    out.print()
    if named:
        out.print(row["prompt"], style="bold", markup=False)
    table = columns("layer", "change", "error", "gradients", "converged")
    for layer in row["layers"]:
        change, error = (
            "–" if layer[name] is None else f"{layer[name]:+.3g}"
            for name in ("change", "completeness")
        )
        done = "yes" if layer["converged"] else "no"
        table.add_row(str(layer["layer"]), change, error, str(layer["nodes"]), done)
    out.print(table)
    out.print(
        "change: of what is attributed, from the baseline to the activations; error: the sum of "
        "the scores minus it",
        style="dim",
    )


def _counted(report: Report) -> str:
    n, prompts = len(report["neurons"]), report["prompts"]
    coarse = " + ".join(f"{row['n_coarse']:,}" for row in prompts)
    excluded = f", {report['n_excluded']:,} taken away by negatives" if report["n_excluded"] else ""
    if len(prompts) == 1:
        said = f"{n:,} neurons stand out{excluded}"
    else:
        said = f"{n:,} neurons are shared (of {coarse} that stand out{excluded})"
    return said if n else f"{said}: a lower --adaptive or --share finds more"


def _neurons(report: Report, top: int) -> Table:
    n_prompts, stacks = len(report["prompts"]), report["stacks"]
    names = ["layer", "dim", "score", "", "share", *(["prompts"] if n_prompts > 1 else [])]
    table = columns(*names, "writes", left=("", "writes"))
    rows = [_neuron(row, n_prompts, stacks) for row in report["neurons"][:top]]
    add_rows(table, rows, out.width)
    return table


def _neuron(row: Report, n_prompts: int, stacks: list[str]) -> list[str]:
    stack = f"{stacks[row['layer']]} " if len({*stacks}) > 1 else ""
    return [
        f"{stack}{row['layer']}",
        str(row["dim"]),
        f"{row['score']:.3g}",
        bar(max(row["share"] or 0, 0), 1, BAR),
        _share(row["share"]),
        *([f"{row['n_prompts']} of {n_prompts}"] if n_prompts > 1 else []),
        " ".join(quoted(token["token"]) for token in row["writes"][:TOKENS]),
    ]


def _share(share: float | None) -> str:
    """A neuron that stands out in some prompts may have a negative mean score."""
    return percent(share) if share is None or share >= 0 else signed_percent(share)


def _effects(report: Report) -> Table:
    several = len(report["prompts"]) > 1
    factor = report["settings"]["factor"]
    table = columns("", "probability", "change", "rank", "says", left=("", "says"))
    for i, row in enumerate(report["prompts"]):
        if several:
            if i:
                table.add_section()
            table.add_row(Text(head(one_line(row["prompt"]), PROMPT), style="dim"))
        for name, what in (
            ("before", "as it is"),
            ("suppressed", "neurons suppressed"),
            ("enhanced", f"neurons × {factor:g}"),
        ):
            table.add_row(what, *_effect(row, name))
    return table


def _effect(row: Report, name: str) -> list[Any]:
    answer, before = row[name], row["before"]["probability"]
    change = answer["probability"] / before - 1 if before else None
    return [
        percent(answer["probability"]),
        "" if name == "before" else signed_percent(change),
        f"{answer['rank']:,}",
        Text(f"{quoted(answer['completion'])} {percent(answer['completion_probability'])}"),
    ]
