"""What `neurons compare` and `neurons plot` read: fact runs, and files that were published."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyengine.errors import PyengineError

if TYPE_CHECKING:
    import pyarrow as pa

    from pyengine.analyses.fact_neuron_result import FactNeurons
    from pyengine.neurons import Neuron


@dataclass(frozen=True, eq=False)
class Published:
    """Published files as what is drawn of a run; None: they do not hold it."""

    relations: "pa.Table | None"
    layers: "pa.Table | None"
    manifest: dict[str, Any]


def read_neurons(path: Path) -> "FactNeurons | dict[str, list[Neuron]]":
    """Read the neurons of a fact run, or of one published file or a folder of them."""
    from pyengine.published_neurons import read_published_neurons

    return open_facts(path) if is_run(path) else read_published_neurons(_files(path, results=False))


def read_drawable(paths: Sequence[Path]) -> "FactNeurons | Published":
    """Read a fact run, or published files: results, neurons, or both.

    Raises:
        PyengineError: for several runs, or a file of another kind.
    """
    runs = [path for path in paths if is_run(path)]
    if not runs:
        return _published([file for path in paths for file in _files(path)])
    if len(paths) > 1:
        raise PyengineError(f"one picture shows one run; {runs[0]} is not the only thing given")
    return open_facts(runs[0])


def is_run(path: Path) -> bool:
    """Say whether a path is a run directory.

    Raises:
        PyengineError: if there is nothing.
    """
    from pyengine.manifest import MANIFEST

    if not path.exists():
        raise PyengineError(f"{path} does not exist")
    return (path / MANIFEST).exists()


def open_facts(path: Path) -> "FactNeurons":
    """Open a run of facts.

    Raises:
        PyengineError: if it holds another analysis.
    """
    from pyengine.analyses.fact_neuron_result import FactNeurons
    from pyengine.run import open_run

    found = open_run(path)
    if not isinstance(found, FactNeurons):
        raise PyengineError(
            f"{path} holds {found.manifest['analysis']}; a run of `pyengine neurons pararel` is "
            "needed"
        )
    return found


def _published(files: Sequence[Path]) -> Published:
    from pyengine.analyses.fact_relations import by_layer
    from pyengine.analyses.fact_tables import NEURONS, to_table
    from pyengine.published_neurons import read_published_neurons, read_published_results

    results = [file for file in files if _holds_results(file)]
    lists = [file for file in files if file not in results]
    neurons = read_published_neurons(lists) if lists else {}
    rows = [
        {"fact": number, "layer": neuron.layer, "dim": neuron.dim, "n_prompts": 0}
        for number, found in enumerate(neurons.values())
        for neuron in found
    ]
    n_layers = 1 + max((row["layer"] for row in rows), default=0)
    return Published(
        relations=read_published_results(results) if results else None,
        layers=by_layer(to_table(rows, NEURONS), n_layers) if lists else None,
        manifest={"model": {"name": _model_name(files[0]), "stacks": [""] * n_layers}},
    )


def _files(path: Path, results: bool = True) -> list[Path]:
    """Return a file, or the JSON files of a folder; those with results only where asked for."""
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.json"))
    if not results:
        found = [file for file in found if not _holds_results(file)]
    if not found:
        raise PyengineError(f"{path} is neither a run nor a folder of published .json files")
    return found


def _holds_results(path: Path) -> bool:
    """Say whether a published file holds results, not lists of neurons."""
    from pyengine.lines import read_bytes

    try:
        data = json.loads(read_bytes(path))
    except ValueError as error:
        raise PyengineError(f"{path}: not JSON: {error}") from error
    return isinstance(data, dict) and isinstance(next(iter(data.values()), None), dict)


def _model_name(file: Path) -> str:
    """Return `bert-base-uncased` for `bert-base-uncased_pararel_results_0.json`."""
    return file.name.partition("_pararel")[0]
