"""The neurons of facts as the knowledge-neurons package publishes them."""

import json
from pathlib import Path

from pyengine.analyses.fact_neuron_result import FactNeurons
from pyengine.files import atomic_write_text


def export_neurons_json(found: FactNeurons, path: Path) -> None:
    """Write `{uid: [[layer, dim], ...]}`: every fact that was asked, its neurons as found.

    They stand in order of first appearance over the fact's prompts, as in the package's own
    `*_pararel_neurons_*.json`. The same result gives the same bytes.
    """
    lists = {uid: [list(neuron) for neuron in neurons] for uid, neurons in found.by_uid().items()}
    atomic_write_text(path, json.dumps(lists, indent=4) + "\n")
