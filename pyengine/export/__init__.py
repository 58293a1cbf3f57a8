"""Formats that other tools read."""

from collections.abc import Callable
from pathlib import Path

from pyengine.analyses.trigger_result import TriggerExamples
from pyengine.errors import PyengineError
from pyengine.export.ff_layers import export_jsonl, export_text
from pyengine.export.parquet import export_parquet

FORMATS: dict[str, Callable[[TriggerExamples, Path], None]] = {
    "jsonl": export_jsonl,
    "text": export_text,
    "parquet": export_parquet,
}


def export(triggers: TriggerExamples, format: str, path: str | Path) -> None:
    """Write trigger examples in one of `FORMATS`.

    Raises:
        PyengineError: for an unknown format, or a path that cannot be written.
    """
    if format not in FORMATS:
        raise PyengineError(f"unknown format {format!r}; known are: {', '.join(FORMATS)}")
    FORMATS[format](triggers, Path(path))
