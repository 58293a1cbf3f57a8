"""pyengine: a high-performance extraction engine for transformer language models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyengine.analyses.agreement import key_value_agreement as key_value_agreement
    from pyengine.analyses.agreement_result import Agreement as Agreement
    from pyengine.analyses.attribution import Attribution as Attribution
    from pyengine.analyses.fact_neuron_result import FactNeurons as FactNeurons
    from pyengine.analyses.fact_neurons import fact_neurons as fact_neurons
    from pyengine.analyses.knowledge_neurons import KnowledgeNeurons as KnowledgeNeurons
    from pyengine.analyses.mean_activations import mean_activations as mean_activations
    from pyengine.analyses.prediction_result import Predictions as Predictions
    from pyengine.analyses.predictions import ffn_predictions as ffn_predictions
    from pyengine.analyses.targets import Targets as Targets
    from pyengine.analyses.triggers import Example as Example
    from pyengine.analyses.triggers import TriggerExamples as TriggerExamples
    from pyengine.analyses.triggers import trigger_examples as trigger_examples
    from pyengine.corpus import Corpus as Corpus
    from pyengine.counterfact import read_counterfact as read_counterfact
    from pyengine.errors import PyengineError as PyengineError
    from pyengine.facts import Fact as Fact
    from pyengine.facts import read_facts as read_facts
    from pyengine.ff_layers_files import read_ff_layers as read_ff_layers
    from pyengine.loading import load as load
    from pyengine.models import Model as Model
    from pyengine.neurons import Neuron as Neuron
    from pyengine.pararel import read_pararel as read_pararel
    from pyengine.reducers.topk import StreamingTopK as StreamingTopK
    from pyengine.run import open_run as open_run

__version__ = "0.1.0"

# Loaded on first use: importing torch and transformers takes seconds.
_HOMES = {
    "Agreement": "pyengine.analyses.agreement_result",
    "Attribution": "pyengine.analyses.attribution",
    "Corpus": "pyengine.corpus",
    "Example": "pyengine.analyses.triggers",
    "Fact": "pyengine.facts",
    "FactNeurons": "pyengine.analyses.fact_neuron_result",
    "KnowledgeNeurons": "pyengine.analyses.knowledge_neurons",
    "Model": "pyengine.models",
    "Neuron": "pyengine.neurons",
    "Predictions": "pyengine.analyses.prediction_result",
    "PyengineError": "pyengine.errors",
    "StreamingTopK": "pyengine.reducers.topk",
    "Targets": "pyengine.analyses.targets",
    "TriggerExamples": "pyengine.analyses.triggers",
    "fact_neurons": "pyengine.analyses.fact_neurons",
    "ffn_predictions": "pyengine.analyses.predictions",
    "key_value_agreement": "pyengine.analyses.agreement",
    "load": "pyengine.loading",
    "mean_activations": "pyengine.analyses.mean_activations",
    "open_run": "pyengine.run",
    "read_counterfact": "pyengine.counterfact",
    "read_facts": "pyengine.facts",
    "read_ff_layers": "pyengine.ff_layers_files",
    "read_pararel": "pyengine.pararel",
    "trigger_examples": "pyengine.analyses.triggers",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
