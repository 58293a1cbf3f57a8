"""Where facts come from: the options of the commands over many of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyengine.errors import PyengineError

if TYPE_CHECKING:
    from pyengine.facts import Fact

DataOption = Annotated[
    Path | None,
    typer.Option(
        help="ParaRel: a folder with patterns/ and facts/, the original repository, or "
        "pararel.json.",
        show_default=False,
    ),
]
FactsOption = Annotated[
    Path | None,
    typer.Option(
        help="JSON lines with relation, target and prompts (uid, subject).", show_default=False
    ),
]
CounterFactOption = Annotated[
    Path | None, typer.Option(help="CounterFact's JSON file.", show_default=False)
]


def read_source(
    data: Path | None, facts: Path | None, counterfact: Path | None = None
) -> "tuple[Path, list[Fact]]":
    """Read the facts of the one source that was given.

    Raises:
        typer.BadParameter: unless exactly one is given.
    """
    from pyengine.counterfact import read_counterfact
    from pyengine.facts import read_facts
    from pyengine.pararel import read_pararel

    readers = ((data, read_pararel), (facts, read_facts), (counterfact, read_counterfact))
    given = [(path, read) for path, read in readers if path is not None]
    if len(given) != 1:
        raise typer.BadParameter("give one of --data, --facts and --counterfact")
    path, read = given[0]
    return path, read(path)


def choose_facts(facts: "list[Fact]", relations: str | None, max_facts: int | None) -> "list[Fact]":
    """Keep the named relations (`P19,P36`), and of each relation its first facts.

    Raises:
        PyengineError: for a relation that no fact has.
    """
    known = dict.fromkeys(fact.relation for fact in facts)
    names = [*known] if relations is None else [name.strip() for name in relations.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise PyengineError(f"no fact has relation {unknown[0]!r}; known are: {', '.join(known)}")
    left = dict.fromkeys(names, len(facts) if max_facts is None else max_facts)
    chosen = []
    for fact in facts:
        if left.get(fact.relation, 0) > 0:
            left[fact.relation] -= 1
            chosen.append(fact)
    return chosen
