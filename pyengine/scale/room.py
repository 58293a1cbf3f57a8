"""What the tasks of a run will hold and write: said, and checked, before the first of them."""

from pathlib import Path

from pyengine.analyses.cached_activations import cache_activations
from pyengine.analyses.cached_activations_settings import SENTENCES, TOKENS, DiskNeed
from pyengine.heads.extract import extract_heads
from pyengine.heads.sentences import Sentences
from pyengine.memory_plan import MemoryPlan
from pyengine.parts import find_parts
from pyengine.scale.work import Ready, Work

# Of each of these so many bytes are written.
UNITS = {cache_activations: TOKENS, extract_heads: SENTENCES}


def announce(work: Work, out: Path, on_ready: Ready | None, plan: MemoryPlan | None) -> None:
    """Say what the tasks that are left will hold and write.

    Each task checks the room for itself alone; here it is checked for all.

    Args:
        work: over a token store, sentences, or facts.
        out: the run directory, which need not exist.
        on_ready: whom to tell.
        plan: of the work on one worker; None where it is not known: nothing is said then.

    Raises:
        PyengineError: if the file system of the run directory has too little room.
    """
    if plan is None:
        return
    need = _disk_need(work, out, plan)
    if on_ready is not None:
        on_ready(plan, need)
    if need is not None:
        need.check(out)


def _disk_need(work: Work, out: Path, plan: MemoryPlan) -> DiskNeed | None:
    if work.function not in UNITS or not work.size:
        return None
    unit = UNITS[work.function]
    size = len(work.corpus) if isinstance(work.corpus, Sentences) else work.size
    done = sum(part.record[f"n_{unit}"] for part in find_parts(out))
    return DiskNeed.of(out, plan.disk_bytes // size, size, size - done, unit)
