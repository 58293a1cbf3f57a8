"""How the ranks of `torchrun` talk: counters and messages in its store, and a gloo barrier."""

import contextlib
import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from pyengine.errors import PyengineError

# Between two looks at the store.
POLL_SECONDS = 0.05
# A rank may wait for others this long: those that die are noticed otherwise.
PATIENCE = timedelta(days=30)

_calls = itertools.count()
T = TypeVar("T")


class Ranks:
    """The ranks of one call, as one of them sees them.

    Attributes:
        rank, local: the number of this one, and among those of its machine.
        number, n_local: how many there are, and on its machine.
        machine: names its machine.
        first: whether this is rank 0.
    """

    def __init__(self, store: dist.Store, rank: int, number: int) -> None:
        self._store, self.rank, self.number, self.first = store, rank, number, rank == 0
        self.local = int(os.environ.get("LOCAL_RANK", 0))
        self.n_local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        self.machine = os.environ.get("GROUP_RANK", platform.node())  # srun sets none
        self._told: set[str] = set()

    def tell(self, name: str, message: str = "") -> None:
        """Say something to all ranks; a second time nothing happens."""
        if name not in self._told:
            self._told.add(name)
            with _others_may_die():
                self._store.set(name, message)

    def hear(self, name: str) -> str:
        """Wait until some rank has told it."""
        with _others_may_die():
            # The store's own waiting could not be interrupted.
            while not self._store.check([name]):
                time.sleep(POLL_SECONDS)
            return str(self._store.get(name).decode())

    def agreed(self, name: str, ask: Callable[[], Any]) -> Any:
        """Return on every rank what `ask` returns on rank 0, as JSON has it."""
        if self.first:
            self.tell(name, json.dumps(ask()))
        return json.loads(self.hear(name))

    def after_neighbour(self, act: Callable[[], T]) -> T:
        """Act after the first rank of the same machine: it says what is wrong, and fills caches."""
        name = f"ready/{self.machine}"
        if self.local:
            self.hear(name)
        found = act()
        self.tell(name)
        return found

    def add(self, name: str, number: int) -> int:
        """Add to a counter that all ranks share; return what it is now."""
        with _others_may_die():
            return int(self._store.add(name, number))

    def wait(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait for all ranks, which may take hours.

        Args:
            meanwhile: called now and then, and once when all have come.

        Raises:
            PyengineError: if one of them has died.
        """
        waiting = dist.barrier(async_op=True)
        assert waiting is not None
        while not waiting.is_completed():
            meanwhile()
            time.sleep(POLL_SECONDS)
        with _others_may_die():
            waiting.wait()
        meanwhile()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Join the ranks that torchrun started, for one call."""
    if dist.is_initialized():
        raise PyengineError("destroy_process_group() first: pyengine makes a process group itself")
    # Equal on all ranks, and different in every call and after every restart.
    prefix = f"pyengine/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{next(_calls)}"
    with _others_may_die():
        store, rank, n_ranks = next(iter(dist.rendezvous("env://")))
        store = dist.PrefixStore(prefix, store)
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=n_ranks, timeout=PATIENCE
        )
    try:
        yield Ranks(store, rank, n_ranks)
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _others_may_die() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of the store, or of gloo
        first = str(error).strip().splitlines()[0]
        raise PyengineError(
            f"another rank has stopped ({first}); run the same command again to resume"
        ) from error
