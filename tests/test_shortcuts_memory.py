"""What a fit says beforehand that it will hold."""

from pathlib import Path
from typing import Any

import pytest
import torch
from shortcut_fit_cases import SMALL, loaded, texts

import pyengine
from pyengine.corpus import Corpus
from pyengine.memory_plan import MemoryPlan, memory_plan
from pyengine.scale.work import Work
from pyengine.shortcuts.fit import fit_shortcuts


def planned(model: pyengine.Model, corpus: Any, **more: Any) -> MemoryPlan:
    plan = memory_plan(Work(fit_shortcuts, model, corpus, (), SMALL | more), model)
    assert plan is not None
    return plan


def held(plan: MemoryPlan) -> dict[str, int]:
    return {what: n_bytes for what, n_bytes, _ in (*plan.device, *plan.host, *plan.disk)}


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
@pytest.mark.parametrize("solver", ["rows", "gram", "exact"])
def test_files_are_as_large_as_was_said(family: str, solver: str, tmp_path: Path) -> None:
    model = loaded(family, torch.float32)
    settings = {"solver": solver, "pairs": "all", "sub_modules": True}
    work = Work(fit_shortcuts, model, Corpus.from_texts(texts()), (), SMALL | settings)
    work = work.tokenized(model)
    plan = planned(model, work.corpus, **settings)
    solvers = set(work.run(model, tmp_path / "run", 0, 1).record["solver"].values())
    found = {
        kind: sum(path.stat().st_size for path in (tmp_path / "run").glob(f"{kind}-*.safetensors"))
        for kind in ("maps", "validation")
    }
    disk = {what: n_bytes for what, n_bytes, _ in plan.disk}
    assert disk.keys() == found.keys()
    for kind, n_bytes in disk.items():  # names, and the units' tokens, come on top
        assert 0 <= found[kind] - n_bytes < 40_000
    names = {what for what, _, _ in (*plan.device, *plan.host)}
    assert ("training rows" in names) == ("rows" in solvers)
    assert ("partial sums" in names) == (solvers != {"rows"})


def test_a_corpus_that_is_not_tokenised_leaves_rows_open() -> None:
    model, corpus = loaded("gpt2", torch.float32), Corpus.from_texts(texts())
    assert "validation rows" in held(planned(model, corpus))
    unknown = held(planned(model, corpus, tokens="all", solver="rows"))
    assert not {"training rows", "validation rows", "validation"} & unknown.keys()
    known = held(planned(model, corpus, n_train=10, n_validation=5))
    assert known["training rows"] == 2 * known["validation rows"] > 0


def test_what_the_fit_refuses_is_refused_here() -> None:
    with pytest.raises(pyengine.PyengineError, match="unknown solver"):
        planned(loaded("gpt2", torch.float32), Corpus.from_texts(texts()), solver="magic")
