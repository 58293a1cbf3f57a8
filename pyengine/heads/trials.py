"""Which probes are to be trained: trials, and the groups that are trained side by side."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pyengine.errors import PyengineError
from pyengine.heads.bank import BankPlace, HeadBank

# Parts that are trained side by side: few enough for results to be saved now and then, and so many
# that launching their kernels is not what takes the time. Vectors that are on the device at once.
# Constants, so that the groups, and with them the bits, depend on nothing else.
GROUP_PARTS = {"cpu": 48, "cuda": 1024}
GROUP_BYTES = 1 << 30
FLOAT_BYTES = 4


class Trial(NamedTuple):
    """All heads of a place, or the place as a whole, on one task."""

    task: str
    place: BankPlace
    whole: bool

    @property
    def n_parts(self) -> int:
        return 1 if self.whole else self.place.n_parts

    @property
    def width(self) -> int:
        return self.place.width // self.n_parts

    @property
    def heads(self) -> list[int]:
        """Their numbers; -1 is the place as a whole."""
        return [-1] if self.whole else list(range(self.place.n_parts))


def trials_of(
    bank: HeadBank,
    tasks: Sequence[str] | None = None,
    locations: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    whole: bool = False,
) -> list[Trial]:
    """List trials by task, location and layer; what is None is all that the bank has.

    Args:
        bank: the vectors.
        tasks: names.
        locations: `head`, `block`, ...
        layers: through all stacks; of the locations, each has those that there are.
        whole: also take all heads of a layer together.

    Raises:
        PyengineError: for a task, location or layer that the bank has not.
    """
    names = [*bank.tasks] if tasks is None else list(dict.fromkeys(tasks))
    for name in names:
        bank.task(name)
    places = [place for place in bank.places if locations is None or place.location in locations]
    _check("location", locations, [place.location for place in bank.places])
    _check("layer", layers, [place.layer for place in places])
    places = [place for place in places if layers is None or place.layer in layers]
    found = []
    for name, place in itertools.product(names, places):
        found += [Trial(name, place, not place.has_heads)]
        found += [Trial(name, place, True)] if whole and place.has_heads else []
    return found


def grouped(trials: Iterable[Trial], bank: HeadBank, device: str) -> Iterator[list[Trial]]:
    """Put trials of one task and width together, up to `GROUP_PARTS` and `GROUP_BYTES`."""
    by_kind: dict[tuple[str, int], list[Trial]] = {}
    for trial in trials:
        by_kind.setdefault((trial.task, trial.width), []).append(trial)
    for (task, width), alike in by_kind.items():
        sentences = sum(part.rows.size for part in bank.task(task).parts.values())
        part_bytes = FLOAT_BYTES * width * sentences
        room = max(1, min(GROUP_PARTS[device], GROUP_BYTES // part_bytes))
        group: list[Trial] = []
        for trial in alike:
            if group and sum(one.n_parts for one in [*group, trial]) > room:
                yield group
                group = []
            group.append(trial)
        yield group


def _check(name: str, wanted: Sequence[object] | None, known: Iterable[object]) -> None:
    there = list(dict.fromkeys(known))
    for value in wanted or ():
        if value not in there:
            raise PyengineError(
                f"the bank has no {name} {value!r}; it has: {', '.join(map(str, there))}"
            )
