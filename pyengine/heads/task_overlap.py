"""Examples that a task has twice: what was trained on is then tested on."""

from itertools import combinations

from pyengine.heads.task import INNER_K_FOLD, UNSUPERVISED, Examples, Task


def overlap(task: Task) -> dict[tuple[str, str], int]:
    """Count the examples of a part whose sentences an earlier part has, too.

    Of an `inner_k_fold` task, whose one part is cut into folds, the examples that repeat an earlier
    one. Only the sentences count, whatever the targets; a pair the other way round is another one.

    Returns:
        By (earlier part, part), those above 0 only; nothing of an unsupervised task.
    """
    if task.protocol == UNSUPERVISED:
        return {}
    texts = {name: _texts(part) for name, part in task.parts.items()}
    if task.protocol == INNER_K_FOLD:
        counts = {(name, name): len(found) - len(set(found)) for name, found in texts.items()}
    else:
        counts = {
            (earlier, later): sum(map(set(texts[earlier]).__contains__, texts[later]))
            for earlier, later in combinations(texts, 2)
        }
    return {parts: count for parts, count in counts.items() if count}


def overlap_note(task: Task) -> str | None:
    """Say in one line what `overlap` found; None if nothing."""
    found = [
        f"{count:,} of {len(task.parts[later]):,} examples of {later} are also in {earlier}"
        if earlier != later
        else f"{count:,} of {len(task.parts[later]):,} examples repeat an earlier one"
        for (earlier, later), count in overlap(task).items()
    ]
    return f"{task.name}: {'; '.join(found)}" if found else None


def _texts(part: Examples) -> list[tuple[str, ...]]:
    return [
        *zip(*([part.first] if part.second is None else [part.first, part.second]), strict=True)
    ]
