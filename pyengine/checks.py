"""Checks of settings, each with one clear line for the user."""

from collections.abc import Sequence

from pyengine.errors import PyengineError


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Refuse a value that is not one of those known.

    Raises:
        PyengineError: with those known.
    """
    if value not in known:
        raise PyengineError(f"unknown {name} {value!r}; known are: {', '.join(known)}")


def check_count(name: str, value: int | None) -> None:
    """Refuse what is not a whole number from 1 on; None is fine.

    Raises:
        PyengineError: with the value.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PyengineError(f"{name} must be a whole number from 1 on, not {value!r}")


def check_shard(shard: int, n_shards: int) -> None:
    """Refuse a shard that does not exist.

    Raises:
        PyengineError: with both numbers.
    """
    if not 0 <= shard < n_shards:
        raise PyengineError(f"shard {shard} of {n_shards} does not exist (they count from 0)")
