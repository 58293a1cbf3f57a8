"""The result of a fit: the maps between points of the residual stream, and what they score on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pyengine.errors import PyengineError
from pyengine.merge_runs import restarted
from pyengine.models import Model
from pyengine.run import RunFolder
from pyengine.shortcuts.early_exit_generation import Generated, generate
from pyengine.shortcuts.evaluate import evaluate
from pyengine.shortcuts.evaluation import Evaluation
from pyengine.shortcuts.fitted_maps import FittedMaps
from pyengine.shortcuts.lens import Kind, Lens
from pyengine.shortcuts.linear_map import MAT, LinearMap
from pyengine.shortcuts.points import ALL, Points
from pyengine.shortcuts.same_model import check_same_model, given
from pyengine.shortcuts.stored_fit import stored_fit, write_fit
from pyengine.shortcuts.stored_maps import HeldMaps, OfLast, StoredMaps
from pyengine.shortcuts.validation import Validation
from pyengine.token_text import TokenText

COUNTERS = ("n_tokens", "n_nan", "exact", "n_rows", "solver")
# How validation rows were read, which has to be known to read them again.
READING = ("tokens", "adds_special", "bos", "mask_id")


class Shortcuts(FittedMaps):
    """Least-squares maps from layers of a model to later ones.

    For example::

        shortcuts = pyengine.open_run("runs/gpt2")
        guess = shortcuts.apply(h, 5)           # what x_12 would be, from x_5
        matrix = shortcuts.map(5, 8, "affine")  # needs a fit of all pairs
        logits = shortcuts.lens(model).logits(h, 5)
        shortcuts.evaluate(model).layers        # how far all that may be trusted

    Wherever a `stack` is asked for, None takes the only one, or the decoder.

    Attributes:
        manifest: settings, model and corpus, as in `manifest.json`.
        record: counters of the pass: n_tokens, n_computed, exact; by stack, each for training and
            validation, n_rows and n_nan (left out), and solver: `rows`, `gram` or `exact`.
        text: turns token ids into text.
    """

    def __init__(
        self,
        maps: StoredMaps,
        validation: Mapping[str, Validation],
        text: TokenText,
        manifest: dict[str, Any],
        record: dict[str, Any],
    ) -> None:
        self.text, self.manifest, self.record = text, manifest, record
        self._validation = validation
        super().__init__(maps, manifest["question"])

    @classmethod
    def from_maps(
        cls,
        model: Model,
        points: Mapping[str, Points],
        maps: Mapping[str, Mapping[tuple[int, int], Mapping[str, LinearMap]]],
        validation: Mapping[str, Validation],
        *,
        bases: Mapping[OfLast, Tensor] | None = None,
        means: Mapping[OfLast, Tensor] | None = None,
        pairs: str = ALL,
    ) -> "Shortcuts":
        """Take maps that were made elsewhere.

        Args:
            model: what they belong to.
            points, validation: of each stack.
            maps: by stack, pair of points and kind (`mat`, `affine`).
            bases, means: by stack, source and kind, what `basis` and `output_mean` return; None:
                there are none, and maps are not cut to lower ranks.
            pairs: which pairs of the residual stream the maps are of: `last` or `all`.
        """
        held = HeldMaps.of(points, maps, bases or {}, means or {})
        manifest, record = given(model, points, pairs)
        return cls(held, validation, TokenText.of(model.tokenizer), manifest, record)

    def validation(self, stack: str | None = None) -> Validation:
        """Return the states of the validation units, which were not trained on.

        Raises:
            PyengineError: if the maps came without.
        """
        if (stack := self._stack(stack)) not in set(self._validation):
            raise PyengineError(
                "these maps came without validation states; take those of a fit of the same model: "
                "--validation FIT of the import, or shortcuts.scored_on(fit)"
            )
        return self._validation[stack]

    def scored_on(self, fit: "Shortcuts") -> "Shortcuts":
        """Return the same maps with the validation rows of a fit of the same model.

        Raises:
            PyengineError: if the fit is of another model, or not of these stacks.
        """
        mine, theirs = self.manifest, fit.manifest
        if mine["model"]["sha256"] != theirs["model"]["sha256"]:
            raise PyengineError(
                f"the validation rows are of {theirs['model']['name']}, which is another model "
                f"than {mine['model']['name']}, to which the maps belong"
            )
        read = {name: theirs["question"][name] for name in READING if name in theirs["question"]}
        manifest = {**mine, "question": mine["question"] | read, "corpus": theirs["corpus"]}
        validation = {stack: fit.validation(stack) for stack in self.stacks}
        return Shortcuts(self._maps, validation, self.text, manifest, self.record)

    def lens(
        self,
        model: Model,
        kind: Kind = MAT,
        *,
        stack: str | None = None,
    ) -> Lens:
        """Return what reads states of any layer as distributions over the vocabulary.

        Args:
            model: the one that was fitted.
            kind, stack: as `Lens` takes them.

        Raises:
            PyengineError: as `Lens` does.
        """
        return Lens(model, self, kind, stack=stack)

    def evaluate(self, model: Model, **settings: Any) -> Evaluation:
        """Score the maps on the validation rows.

        Args:
            model: the one that was fitted.
            settings: of `pyengine.shortcuts.evaluate.evaluate`.

        Raises:
            PyengineError: as `evaluate` does.
        """
        return evaluate(self, model, **settings)

    def generate(
        self, model: Any, inputs: Any, *, early_exit: float, max_new_tokens: int, **options: Any
    ) -> list[Generated]:
        """Continue prompts greedily, each token read from the first layer that is sure enough.

        Args:
            model, inputs, early_exit, max_new_tokens, options: as
                `pyengine.shortcuts.early_exit_generation.generate` takes them.

        Returns:
            One for each prompt.

        Raises:
            PyengineError: as `generate` does.
        """
        return generate(
            model, self, inputs, early_exit=early_exit, max_new_tokens=max_new_tokens, **options
        )

    def check(self, model: Model) -> None:
        """Refuse any model but the one that was fitted.

        Raises:
            PyengineError: if the model or its output head differs.
        """
        check_same_model(self.manifest, model)

    def save(self, folder: str | Path) -> Path:
        """Write a run directory that `pyengine.open_run` reads.

        Raises:
            PyengineError: if the directory holds another run, or cannot be written.
        """
        run = RunFolder.begin(Path(folder), restarted(self.manifest))
        self.write(run)
        return run.path

    def write(self, run: RunFolder, **provenance: Any) -> None:
        """Write the result into a run directory and complete it; from then on it is read there."""
        names = write_fit(run.path, self._maps, self._validation, self.text)
        counters = {name: self.record[name] for name in COUNTERS}
        run.finish(names, counters, n_computed=self.record["n_computed"], **provenance)
        self.manifest = run.manifest
        self._maps, self._validation = stored_fit(run.path, names)

    @classmethod
    def open(cls, folder: Path, manifest: dict[str, Any]) -> "Shortcuts":
        """Read what `write` wrote; `pyengine.open_run` calls this after checking the files."""
        record = {"n_computed": None, **manifest["result"]}
        text = TokenText.load(folder)
        return cls(*stored_fit(folder, manifest["files"]), text, manifest, record)

    def __repr__(self) -> str:
        stacks = [
            f"{stack}: {len(self.pairs(stack))} pairs of {of.n_blocks + 1} layers"
            + (f", {len(of.steps)} sub-modules a block" if of.taps else "")
            for stack, of in self._points.items()
        ]
        return f"Shortcuts({self.manifest['model']['name']}; {'; '.join(stacks)})"
