"""Fact runs: the knowledge neurons of many facts, and what becomes of the answers without them.

Dai et al. 2022, "Knowledge Neurons in Pretrained Transformers": neurons that stand out in enough
prompts of a fact (§3.2) are suppressed and enhanced (§4.3, Figures 3 and 4).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from pyengine.analyses.fact_neuron_result import FactNeurons
from pyengine.analyses.fact_pass import FactPass
from pyengine.analyses.fact_prompts import FactPrompts
from pyengine.analyses.fact_run import (
    Progress,
    from_blocks,
    from_parts,
    run_in_memory,
    run_into_parts,
)
from pyengine.analyses.fact_settings import FactSettings
from pyengine.batches import shard_blocks
from pyengine.facts import Fact, describe_facts
from pyengine.manifest import describe
from pyengine.models import Model
from pyengine.run import RunFolder, open_run


def fact_neurons(
    model: Model,
    facts: Sequence[Fact] | FactPrompts,
    *,
    method: str = "adaptive",
    steps: int = 20,
    adaptive: float | None = None,
    threshold: float | None = None,
    percentile: float | None = None,
    share: float | str = 0.5,
    factor: float = 2.0,
    objective: str = "probability",
    value: str = "post",
    seed: int = 0,
    block_facts: int | None = None,
    source: str = "facts",
    out: str | Path | None = None,
    shard: tuple[int, int] = (0, 1),
    on_checked: Callable[[int, int], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> FactNeurons:
    """Find the neurons of every fact, and suppress and enhance them.

    Of each prompt the coarse neurons are found, and of each fact those in more than `share` of its
    prompts. The fact's own prompts, and those of one fact of another relation, are then answered
    with these neurons at 0, and multiplied by `factor`.

    Args:
        model: from `pyengine.load`.
        facts: from `read_facts`, `read_pararel`, `read_counterfact`. Causal models are asked only
            the prompts that end in the object. Facts that cannot be asked are skipped, and listed
            in the result. `FactPrompts.of` checks them once for several shards.
        method, steps, objective, value: as in `KnowledgeNeurons.attribute`.
        adaptive, threshold, percentile: which neurons stand out in a prompt, as in
            `KnowledgeNeurons.coarse`; give one. Default: adaptive=0.3.
        share: above which share of a fact's prompts a neuron must stand out; `auto` tunes it for
            each relation as Dai et al.'s code does (`pyengine.neurons.tuned_share`).
        factor: what enhancing multiplies by.
        seed: of the unrelated facts, 0 to 2**64 - 1. Which one is drawn depends on the seed, the
            fact's number and the facts that can be asked.
        block_facts: facts per block, which are computed together, and of which a kill costs one;
            part of what decides the last bits. Default: 4 on the CPU, 64 on CUDA; with
            share='auto' blocks are whole relations.
        source: where the facts come from, for the record.
        out: a run directory; the same call resumes it, block by block. None keeps the result in
            memory.
        shard: (i, n) takes the i-th of n parts of the facts, from 0; merge with `pyengine merge`.
        on_checked: called with (facts done, facts in all) while their prompts are tokenised.
        on_progress: called with (prompts done, prompts in all) after each block.

    Returns:
        The neurons and effects (of this shard only when there are several).

    Raises:
        PyengineError: for settings out of range or that exclude each other, facts none of which the
            model can be asked, or a run directory that was made with other settings.
    """
    settings = FactSettings(
        method=method,
        steps=steps,
        adaptive=adaptive,
        threshold=threshold,
        percentile=percentile,
        share=share,
        factor=factor,
        objective=objective,
        value=value,
        seed=seed,
        block_facts=block_facts,
    ).resolved(model)
    asked = facts if isinstance(facts, FactPrompts) else FactPrompts.of(model, facts, on_checked)
    search = FactPass(model, settings, asked)
    blocks = shard_blocks(len(search.boundaries) - 1, *shard)
    corpus = describe_facts(asked.facts, source)
    manifest = describe("neurons", settings.question(), settings.numerics(), model, corpus)
    progress = Progress(sum(map(search.n_prompts, blocks)), on_progress)
    if out is None:
        return from_blocks(run_in_memory(search, blocks, progress), manifest)
    run = RunFolder.begin(Path(out), manifest)
    if run.complete:
        opened: FactNeurons = open_run(run.path)
        return opened
    with run.lock(*shard):
        found = from_parts(run_into_parts(search, blocks, run.path, progress), run.manifest)
        if shard[1] == 1:
            found.write(run)
    return found
