"""Reading ahead: a background thread makes the next items while the caller works on the last."""

import threading
from collections.abc import Generator
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")


class _End(NamedTuple):
    """The last thing in the queue: the error that ended the items, if one did."""

    error: BaseException | None


def read_ahead(items: Generator[Item], depth: int) -> Generator[Item]:
    """Yield `items`, made by a thread that is at most `depth` of them ahead.

    An exception of `items` is raised here, in its place. The thread ends when this generator does,
    so close it (`contextlib.closing`): what was made and not yielded is then dropped. The thread
    also closes `items`, so that contexts entered in there are left in the same thread.

    Args:
        items: for the thread alone.
        depth: at least 1.
    """
    made: SimpleQueue[tuple[Item] | _End] = SimpleQueue()
    free, stopped = threading.Semaphore(depth), threading.Event()

    def make() -> None:
        try:
            while free.acquire() and not stopped.is_set():
                made.put((next(items),))
        except StopIteration:
            made.put(_End(None))
        except BaseException as error:
            made.put(_End(error))
        finally:
            items.close()

    thread = threading.Thread(target=make, name="pyengine read-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(found := made.get(), _End):
            free.release()
            yield found[0]
        if found.error is not None:
            raise found.error
    finally:
        stopped.set()
        free.release()
        thread.join()
