"""`pyengine.scale_out`: every analysis, with ranks or without, gives what it gives by itself."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fact_helpers
import pytest
import torch
from extract_cases import SMALL, Largest, UnitSums, random_units
from rank_helpers import contents, one_rank
from tiny_models import tiny_model

import pyengine
from pyengine import Corpus, Moments, StreamingTopK
from pyengine.errors import PyengineError
from pyengine.scale import schedule
from pyengine.scale.work import LEAST_TASKS, Work

POST = "blocks.1.mlp.hook_post"


def reducers() -> dict[str, list[Any]]:
    """Reducers of ours and of one's own, exact and adding, under a Hugging Face name."""
    return {
        "transformer.h.1.mlp.c_proj": [Largest(37), StreamingTopK(4, 37), Moments(37)],
        "blocks.0.hook_resid_post": [UnitSums(60, 20)],
    }


ANALYSES: dict[str, tuple[Callable[..., Any], Callable[[], tuple[Any, ...]], dict[str, Any]]] = {
    "triggers": (pyengine.trigger_examples, lambda: (4,), {"per": "prefix", "sign": "both"}),
    "predictions": (pyengine.ffn_predictions, lambda: ("value",), {"position": "all", "n": 3}),
    "activations": (pyengine.cache_activations, lambda: ([POST],), {"save_dtype": "float16"}),
    "extract": (pyengine.extract, lambda: (reducers(),), {}),
}


def scale_out(name: str, out: Path, **more: Any) -> Any:
    function, arguments, settings = ANALYSES[name]
    corpus = Corpus.from_token_ids(random_units())
    model = pyengine.load((tiny_model("gpt2"), None))
    return pyengine.scale_out(
        function, model, corpus, *arguments(), out=out, **SMALL, **settings, **more
    )


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_of_a_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    function, arguments, settings = ANALYSES[name]
    model = pyengine.load((tiny_model("gpt2"), None))
    corpus = Corpus.from_token_ids(random_units())
    itself = function(model, corpus, *arguments(), out=tmp_path / "itself", **SMALL, **settings)
    alone = scale_out(name, tmp_path / "alone")
    one_rank(monkeypatch)
    seen: list[tuple[int, int]] = []
    ranks = scale_out(name, tmp_path / "ranks", tasks=5, on_progress=lambda *at: seen.append(at))
    expected = contents(tmp_path / "itself")
    assert contents(tmp_path / "alone") == expected == contents(tmp_path / "ranks")
    assert type(ranks) is type(alone) is type(itself)
    assert ranks.manifest == itself.manifest
    n_tokens = sum(map(len, random_units()))
    assert seen == sorted(seen) and seen[-1] == (n_tokens, n_tokens)
    if name == "extract":  # as it was spelled, and the reducers themselves
        found = [result["transformer.h.1.mlp.c_proj"][0] for result in (itself, alone, ranks)]
        assert all(isinstance(one, Largest) for one in found)
        assert torch.equal(found[0].compute(), found[2].compute())


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("more", [{}, {"share": "auto"}])
def test_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]) -> None:
    settings = {"block_facts": 2, "share": 0.4, **more}
    given = (pyengine.fact_neurons, fact_helpers.load(), fact_helpers.facts())
    if "auto" in more.values():
        settings.pop("block_facts")
    pyengine.scale_out(*given, out=tmp_path / "alone", **settings)
    one_rank(monkeypatch)
    seen: list[tuple[int, int]] = []
    pyengine.scale_out(
        *given, out=tmp_path / "ranks", on_progress=lambda *at: seen.append(at), **settings
    )
    assert contents(tmp_path / "ranks") == contents(tmp_path / "alone")
    assert seen == sorted(seen) and seen[-1] == (17, 17)


cheap = fact_helpers.cheap


def test_the_work_that_is_cut(tmp_path: Path) -> None:
    model = pyengine.load((tiny_model("gpt2"), None))
    work = Work(pyengine.extract, model, Corpus.from_token_ids([[1, 2], [3]]), (reducers(),))
    names = [type(one).__name__ for one in work.own_reducers]
    assert names == ["Largest", "UnitSums"]
    by_name = Work(pyengine.extract, model, work.corpus, settings={"reducers": reducers()})
    assert [type(one).__name__ for one in by_name.own_reducers] == names
    assert Work(pyengine.trigger_examples, model, work.corpus).own_reducers == []
    ready = work.tokenized(model)
    assert ready.size == 3 and ready.n_tasks("cpu") == ready.n_tasks("cuda") == LEAST_TASKS
    facts = Work(pyengine.fact_neurons, model, fact_helpers.facts(100))
    assert facts.tokenized(model) is facts and facts.n_tasks("cpu") == 7


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tasks": 3}, "only ranks and Ray cut the work into tasks"),
        ({"ray": "auto", "tasks": 1}, "tasks must be at least 2, got 1"),
        ({"allow_mixed": True}, "only Ray's workers may be mixed"),
        ({"shard": (0, 2)}, "leave shard out"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(PyengineError, match=words):
        scale_out("triggers", tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"ray": "auto"}, "torchrun and Ray exclude each other"),
        ({"shard": (0, 2)}, "ranks and Ray take shards themselves"),
    ],
)
def test_what_ranks_are_not_asked(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], words: str
) -> None:
    one_rank(monkeypatch)
    with pytest.raises(PyengineError, match=words):
        schedule.Schedule(**more)


def test_ray_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [name for name in sys.modules if re.match(r"pyengine\.scale\..*ray", name)]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(PyengineError, match=re.escape("pip install 'pyengine[ray]'")):
        scale_out("triggers", tmp_path / "run", ray="local")
