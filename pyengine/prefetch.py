"""Reading ahead: a background thread makes the next items while the caller works on the last."""

import contextlib
import threading
from collections.abc import Generator, Iterator
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

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
    with _making(items, depth) as (made, free):
        while not isinstance(found := made.get(), _End):
            free.release()
            yield found[0]
        if found.error is not None:
            raise found.error


def newest(items: Generator[Item]) -> Generator[Item]:
    """Yield the newest of `items`, made by a thread that waits for nobody; the last one always.

    What is made drops what was made before it and not yielded. An exception of `items` is raised as
    soon as it is seen. For the rest it is like `read_ahead`.

    Args:
        items: for the thread alone.
    """
    with _making(items) as (made, _):
        end: _End | None = None
        while end is None:
            found = [made.get()]
            while not made.empty():
                found.append(made.get())
            end = found.pop() if isinstance(found[-1], _End) else None
            if end is not None and end.error is not None:
                raise end.error
            if found:
                yield found[-1][0]


@contextlib.contextmanager
def _making(
    items: Generator[Any], depth: int | None = None
) -> Iterator[tuple[SimpleQueue[Any], threading.Semaphore]]:
    """Have a thread put items into a queue, each in a tuple, at most as many as are free.

    Without a depth the queue has one place, and an item takes the place of the one before it.
    """
    made: SimpleQueue[tuple[Any] | _End] = SimpleQueue()
    free, stopped = threading.Semaphore(depth or 0), threading.Event()

    def make() -> None:
        try:
            while (depth is None or free.acquire()) and not stopped.is_set():
                item = (next(items),)
                if depth is None:
                    with contextlib.suppress(Empty):
                        made.get_nowait()
                made.put(item)
        except StopIteration:
            made.put(_End(None))
        except BaseException as error:
            made.put(_End(error))
        finally:
            items.close()

    thread = threading.Thread(target=make, name="pyengine read-ahead", daemon=True)
    thread.start()
    try:
        yield made, free
    finally:
        stopped.set()
        free.release()
        thread.join()
