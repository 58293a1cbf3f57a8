"""pyengine: a high-performance extraction engine for transformer language models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyengine.activation_cache import ActivationCache as ActivationCache
    from pyengine.analyses.agreement import key_value_agreement as key_value_agreement
    from pyengine.analyses.agreement_result import Agreement as Agreement
    from pyengine.analyses.attribution import Attribution as Attribution
    from pyengine.analyses.cached_activations import cache_activations as cache_activations
    from pyengine.analyses.cached_activations_result import CachedActivations as CachedActivations
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
    from pyengine.cache_files import load_cache as load_cache
    from pyengine.cache_files import save_cache as save_cache
    from pyengine.corpus import Corpus as Corpus
    from pyengine.counterfact import read_counterfact as read_counterfact
    from pyengine.errors import PyengineError as PyengineError
    from pyengine.extraction.extract import extract as extract
    from pyengine.extraction.result import Extraction as Extraction
    from pyengine.facts import Fact as Fact
    from pyengine.facts import read_facts as read_facts
    from pyengine.ff_layers_files import read_ff_layers as read_ff_layers
    from pyengine.generation import generate as generate
    from pyengine.heads.bank import HeadBank as HeadBank
    from pyengine.heads.concat import concat_heads as concat_heads
    from pyengine.heads.extract import extract_heads as extract_heads
    from pyengine.heads.finetune import finetune as finetune
    from pyengine.heads.finetuned import load_finetuned as load_finetuned
    from pyengine.heads.generated_tasks import generate_task as generate_task
    from pyengine.heads.probe_heads import probe_heads as probe_heads
    from pyengine.heads.ranked_neurons import rank_neurons as rank_neurons
    from pyengine.heads.results import HeadResults as HeadResults
    from pyengine.heads.sentence_encoder import SentenceEncoder as SentenceEncoder
    from pyengine.heads.task_names import read_task as read_task
    from pyengine.hooked import run_with_cache as run_with_cache
    from pyengine.hooked import run_with_hooks as run_with_hooks
    from pyengine.loading import load as load
    from pyengine.models import Model as Model
    from pyengine.neurons import Neuron as Neuron
    from pyengine.pararel import read_pararel as read_pararel
    from pyengine.reducers.gram import Gram as Gram
    from pyengine.reducers.moments import Moments as Moments
    from pyengine.reducers.rows import RowBuffer as RowBuffer
    from pyengine.reducers.topk import StreamingTopK as StreamingTopK
    from pyengine.reducers.tsqr import TSQR as TSQR
    from pyengine.run import open_run as open_run
    from pyengine.scale.scale_out import scale_out as scale_out
    from pyengine.shortcuts.fit import fit_shortcuts as fit_shortcuts
    from pyengine.shortcuts.result import Shortcuts as Shortcuts
    from pyengine.shortcuts.tuned_lens import train_tuned_lens as train_tuned_lens

__version__ = "0.1.0"

# Loaded on first use: importing torch and transformers takes seconds.
_HOMES = {
    "ActivationCache": "pyengine.activation_cache",
    "Agreement": "pyengine.analyses.agreement_result",
    "Attribution": "pyengine.analyses.attribution",
    "CachedActivations": "pyengine.analyses.cached_activations_result",
    "Corpus": "pyengine.corpus",
    "Example": "pyengine.analyses.triggers",
    "Extraction": "pyengine.extraction.result",
    "Fact": "pyengine.facts",
    "FactNeurons": "pyengine.analyses.fact_neuron_result",
    "Gram": "pyengine.reducers.gram",
    "HeadBank": "pyengine.heads.bank",
    "HeadResults": "pyengine.heads.results",
    "KnowledgeNeurons": "pyengine.analyses.knowledge_neurons",
    "Model": "pyengine.models",
    "Moments": "pyengine.reducers.moments",
    "Neuron": "pyengine.neurons",
    "Predictions": "pyengine.analyses.prediction_result",
    "PyengineError": "pyengine.errors",
    "RowBuffer": "pyengine.reducers.rows",
    "SentenceEncoder": "pyengine.heads.sentence_encoder",
    "Shortcuts": "pyengine.shortcuts.result",
    "StreamingTopK": "pyengine.reducers.topk",
    "TSQR": "pyengine.reducers.tsqr",
    "Targets": "pyengine.analyses.targets",
    "TriggerExamples": "pyengine.analyses.triggers",
    "cache_activations": "pyengine.analyses.cached_activations",
    "concat_heads": "pyengine.heads.concat",
    "extract": "pyengine.extraction.extract",
    "extract_heads": "pyengine.heads.extract",
    "fact_neurons": "pyengine.analyses.fact_neurons",
    "finetune": "pyengine.heads.finetune",
    "ffn_predictions": "pyengine.analyses.predictions",
    "fit_shortcuts": "pyengine.shortcuts.fit",
    "generate": "pyengine.generation",
    "generate_task": "pyengine.heads.generated_tasks",
    "key_value_agreement": "pyengine.analyses.agreement",
    "load": "pyengine.loading",
    "load_finetuned": "pyengine.heads.finetuned",
    "load_cache": "pyengine.cache_files",
    "mean_activations": "pyengine.analyses.mean_activations",
    "open_run": "pyengine.run",
    "probe_heads": "pyengine.heads.probe_heads",
    "rank_neurons": "pyengine.heads.ranked_neurons",
    "read_counterfact": "pyengine.counterfact",
    "read_facts": "pyengine.facts",
    "read_ff_layers": "pyengine.ff_layers_files",
    "read_pararel": "pyengine.pararel",
    "read_task": "pyengine.heads.task_names",
    "run_with_cache": "pyengine.hooked",
    "run_with_hooks": "pyengine.hooked",
    "save_cache": "pyengine.cache_files",
    "scale_out": "pyengine.scale.scale_out",
    "train_tuned_lens": "pyengine.shortcuts.tuned_lens",
    "trigger_examples": "pyengine.analyses.triggers",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
