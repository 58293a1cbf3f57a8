"""A corpus-wide analysis, described so that any part of it can be computed anywhere."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pyengine.analyses.analysis_inputs import tokenized
from pyengine.analyses.cached_activations import cache_activations
from pyengine.analyses.cached_activations_settings import DiskNeed
from pyengine.analyses.fact_prompts import FactPrompts
from pyengine.corpus import Corpus
from pyengine.extraction.extract import extract
from pyengine.extraction.specs import OURS
from pyengine.facts import Fact
from pyengine.heads.sentences import Sentences
from pyengine.heads.task import Task
from pyengine.loading import load
from pyengine.models import Model
from pyengine.store import TokenStore

if TYPE_CHECKING:
    from pyengine.memory_plan import MemoryPlan

# A task is long enough that what it costs to begin and to hand in is small, and short enough that
# losing one is cheap.
TASK_TOKENS = {"cpu": 1 << 20, "cuda": 1 << 22}
TASK_KEPT_TOKENS = {"cpu": 1 << 14, "cuda": 1 << 16}  # whose activations are kept
TASK_POOLED_TOKENS = {"cpu": 1 << 17, "cuda": 1 << 19}  # of sentences, of which vectors are kept
TASK_FACTS = {"cpu": 16, "cuda": 512}

# Whoever carries out the one task of one completes the run, and leaves nothing to merge.
LEAST_TASKS = 2

# Called with (done, in all).
Report = Callable[[int, int], None]
# Called before the first task: what each worker will hold, and of activations the room they take.
Ready = Callable[["MemoryPlan", DiskNeed | None], None]


@dataclass(frozen=True)
class Work:
    """A corpus-wide analysis that has not been started.

    Task i of n is the analysis with `shard=(i, n)`; the bits of the whole do not depend on n.

    Attributes:
        function: `trigger_examples`, `extract`, `ffn_predictions`, `cache_activations`,
            `fact_neurons`, `fit_shortcuts`, `extract_heads`, or what has their shape:
            function(model, corpus, *arguments, out=, shard=, on_progress=, **settings).
        model: what `pyengine.load` takes.
        corpus: what the function reads.
        arguments, settings: its own.
        load_settings: how the model is loaded.
    """

    function: Callable[..., Any]
    model: Any
    corpus: Corpus | TokenStore | Sequence[Fact] | FactPrompts | Sequence[Task] | Sentences
    arguments: tuple[Any, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    load_settings: Mapping[str, Any] = field(default_factory=dict)

    def load(self, **more: Any) -> Model:
        """Load the model; `more` goes before `load_settings`."""
        return load(self.model, **{**self.load_settings, **more})

    def tokenized(self, model: Model, on_tokenized: Report | None = None) -> "Work":
        """Return the same work over a token store, or over the sentences of tasks.

        Facts are tokenised by the analysis itself.

        Raises:
            PyengineError: if the corpus cannot be read, or does not fit the model.
        """
        if not self.is_text:
            return self
        if not isinstance(self.corpus, Corpus):
            return replace(self, corpus=self._sentences(model, on_tokenized))
        settings = dict(self.settings)
        cache_dir = settings.pop("cache_dir", None)
        store = tokenized(
            model,
            self.corpus,
            bos=settings.get("bos", False),
            cache_dir=cache_dir,
            on_tokenized=on_tokenized,
        )
        return replace(self, corpus=store, settings=settings)

    def _sentences(self, model: Model, on_tokenized: Report | None) -> Sentences:
        tasks: Any = self.corpus
        return Sentences.of(model, tasks, self.settings.get("pooling", "auto"), on_tokenized)

    @property
    def is_text(self) -> bool:
        """Whether what is read has still to be tokenised, once for all tasks."""
        if isinstance(self.corpus, Corpus | TokenStore | FactPrompts | Sentences):
            return isinstance(self.corpus, Corpus)
        return bool(self.corpus) and isinstance(self.corpus[0], Task)

    def checked(self, model: Model) -> "Work":
        """Return the same work with its facts checked against the model, once for all tasks.

        Raises:
            PyengineError: if the model can be asked none of them.
        """
        if self.is_text or isinstance(self.corpus, TokenStore | FactPrompts | Sentences):
            return self
        return replace(self, corpus=FactPrompts.of(model, cast("Sequence[Fact]", self.corpus)))

    @property
    def size(self) -> int:
        """Content tokens, or facts."""
        assert not self.is_text, "tokenise first"
        if isinstance(self.corpus, TokenStore | Sentences):
            return self.corpus.n_tokens
        facts = self.corpus.facts if isinstance(self.corpus, FactPrompts) else self.corpus
        return len(facts)  # type: ignore[arg-type]

    def n_tasks(self, device: str) -> int:
        """Return into how many tasks the work is cut by default, on a type of device.

        It depends on the corpus, never on the number of workers: these may change when the work is
        taken up again. It is at least `LEAST_TASKS`.
        """
        if isinstance(self.corpus, Sentences):
            per_task = TASK_POOLED_TOKENS
        elif not isinstance(self.corpus, TokenStore):
            per_task = TASK_FACTS
        else:
            per_task = TASK_KEPT_TOKENS if self.function is cache_activations else TASK_TOKENS
        return max(LEAST_TASKS, -(-self.size // per_task[device]))

    def run(
        self, model: Model, out: Path, task: int, n_tasks: int, on_progress: Report | None = None
    ) -> Any:
        """Carry out a task in a run directory, or take it up again there."""
        shard = (task, n_tasks)
        more = {"out": out, "shard": shard, "on_progress": on_progress, **self.settings}
        return self.function(model, self.corpus, *self.arguments, **more)

    def whole(
        self,
        model: Model,
        out: Path,
        *,
        shard: tuple[int, int] = (0, 1),
        on_tokenized: Report | None = None,
        on_progress: Report | None = None,
    ) -> Any:
        """Carry out all of it, or one shard, in this process alone; the function tokenises."""
        told = {"on_tokenized": on_tokenized} if isinstance(self.corpus, Corpus) else {}
        return self.with_settings(told).run(model, out, *shard, on_progress)

    def with_settings(self, settings: Mapping[str, Any]) -> "Work":
        """Return the same work with more settings."""
        return replace(self, settings={**self.settings, **settings})

    @property
    def own_reducers(self) -> list[Any]:
        """The user's own reducers of an `extract`, which merging needs."""
        if self.function is not extract:
            return []
        asked = self.settings.get("reducers") or self.arguments[0]
        return [
            one
            for given in asked.values()
            for one in given
            if type(one) is not OURS.get(type(one).__name__)
        ]
