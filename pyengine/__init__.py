"""pyengine: a high-performance extraction engine for transformer language models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyengine.analyses.triggers import Example as Example
    from pyengine.analyses.triggers import TriggerExamples as TriggerExamples
    from pyengine.analyses.triggers import trigger_examples as trigger_examples
    from pyengine.corpus import Corpus as Corpus
    from pyengine.errors import PyengineError as PyengineError
    from pyengine.loading import load as load
    from pyengine.models import Model as Model
    from pyengine.reducers.topk import StreamingTopK as StreamingTopK
    from pyengine.run import open_run as open_run

__version__ = "0.1.0"

# Loaded on first use: importing torch and transformers takes seconds.
_HOMES = {
    "Corpus": "pyengine.corpus",
    "Example": "pyengine.analyses.triggers",
    "Model": "pyengine.models",
    "PyengineError": "pyengine.errors",
    "StreamingTopK": "pyengine.reducers.topk",
    "TriggerExamples": "pyengine.analyses.triggers",
    "load": "pyengine.loading",
    "open_run": "pyengine.run",
    "trigger_examples": "pyengine.analyses.triggers",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
