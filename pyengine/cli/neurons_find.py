"""`pyengine neurons find`: the knowledge neurons of one fact."""

import json
from typing import Annotated

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli import neurons_options as asked
from pyengine.cli.neurons_find_view import print_report
from pyengine.cli.neurons_report import Settings, make_report


def find(
    model: given.ModelArgument,
    prompt: Annotated[
        list[str],
        typer.Option(
            help="A text with [MASK] where the answer stands (causal models: at its end, or the "
            "text before the answer). Several, of the same fact: neurons that they share."
        ),
    ],
    target: Annotated[str, typer.Option(help="The correct answer, as the model writes it.")],
    negative: Annotated[
        list[str] | None,
        typer.Option(help="A prompt with the same answer, of another fact: its neurons go."),
    ] = None,
    method: asked.MethodOption = "adaptive",
    steps: asked.StepsOption = 20,
    adaptive: asked.AdaptiveOption = None,
    threshold: asked.ThresholdOption = None,
    percentile: asked.PercentileOption = None,
    share: asked.ShareOption = "0.5",
    objective: asked.ObjectiveOption = "probability",
    baseline: Annotated[
        str, typer.Option(help="Where paths begin: zero, or mean: over the prompt's tokens.")
    ] = "zero",
    value: asked.ValueOption = "post",
    factor: asked.FactorOption = 2.0,
    top: Annotated[int, typer.Option(min=1, help="Neurons to show; --json has all.")] = 20,
    by_layer: Annotated[
        bool, typer.Option("--by-layer", help="Also show the attribution's error by layer.")
    ] = False,
    dtype: given.ReadoutDtypeOption = "float32",
    device: given.DeviceOption = "auto",
    revision: given.RevisionOption = None,
    trust_remote_code: given.TrustOption = False,
    threads: given.ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Find the neurons that hold a fact, and what the model says without them.

    Example: pyengine neurons find gpt2 --prompt "Paris is the capital of [MASK]" --target France
    """
    from pyengine.analyses.knowledge_neurons import KnowledgeNeurons
    from pyengine.neurons import selector

    settings = Settings(
        attribution={
            "method": method,
            "steps": steps,
            "objective": objective,
            "baseline": baseline,
            "value": value,
        },
        selector=selector(threshold, adaptive, percentile),
        share=asked.share_of(share),
        factor=factor,
    )
    given.set_threads(threads)
    with asked.warnings_in_a_line():
        loaded = asked.load_model(
            model,
            dtype=dtype,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        report = make_report(KnowledgeNeurons(loaded), prompt, target, negative or [], settings)
    if as_json:
        print(json.dumps(report))
    else:
        print_report(report, top, by_layer)
