"""Files of SentEval's tasks, as tests write them."""

from collections.abc import Mapping
from pathlib import Path

from pyengine.heads.task import Task

SICK_HEADER = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
MRPC_HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"


def put(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def targets(task: Task, part: str) -> list[float]:
    return task.parts[part].targets.tolist()


def sick(root: Path) -> Path:
    rows = "1\tA man\tA boy\t4.5\tENTAILMENT\n2\tA\tB\t1\tCONTRADICTION\n3\tC\tD\t3.25\tNEUTRAL\n"
    stems = ("train", "trial", "test_annotated")
    return put(root, {f"SICK/SICK_{stem}.txt": SICK_HEADER + rows for stem in stems})
