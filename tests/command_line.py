"""What the tests of the command line share; their fixtures are in conftest.py."""

from collections.abc import Callable
from typing import NamedTuple

WORDS = "w1 w2 w3\nw4 w5 w6 w7\n\nw8\nw1 w2 w9\n"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


def assert_one_line(outcome: Outcome, code: int, *words: str) -> None:
    assert outcome.code == code, outcome
    # What a pass will hold is said before it starts.
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("memory: ", "device: "))]
    assert lines, "nothing was said"
    for word in words:
        assert word in lines[-1], outcome.err
    if code == 1:
        assert len(lines) == 1, outcome.err
        assert "Traceback" not in outcome.err
