"""The result of `ffn_predictions`: tables that are read from their files when asked for."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pyengine.analyses.prediction_summary import summarise
from pyengine.analyses.prediction_tables import EXAMPLES, Groups, schema
from pyengine.distributions import join_distributions, map_distributions
from pyengine.run import RunFolder
from pyengine.token_text import TokenText

TABLE_FILE, EXAMPLES_FILE = "predictions.parquet", "examples.parquet"
DISTRIBUTION_FILE = "output_dist.npy"
COUNTERS = ("n_examples", "n_tokens", "n_nan", "exact")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What every feed-forward layer predicts, and where it comes from.

    Attributes:
        groups: the rows of `table`, in memory or in files.
        example_groups: the rows of `examples`, likewise.
        distributions: files of the model's own distributions, in order; none unless asked for.
        text: turns token ids into text.
        manifest: settings, model and corpus, as in `manifest.json`.
        record: counters of the pass: n_examples, n_tokens, n_computed, exact, and n_nan: per layer
            of the model the examples with a NaN in it, whose tokens, ranks and so on are null.
    """

    groups: Groups
    example_groups: Groups
    distributions: tuple[Path, ...]
    text: TokenText
    manifest: dict[str, Any]
    record: dict[str, Any]

    @property
    def mode(self) -> str:
        """`layer` or `value`."""
        return str(self.manifest["question"]["mode"])

    @cached_property
    def table(self) -> pa.Table:
        """One row per example and layer, ascending by unit, position and layer.

        Tokens and ranks (from 0) are int32, probabilities float32; null where there is none.
        Both modes:

        - unit, position, layer
        - gold_token: the next token (encoders: the token itself)
        - final_token, final_prob: the model's own prediction, by the last layer of the same stack
        - n_active, n_negative: memories with a coefficient above, below 0
        - residual_norm: of the residual stream that the FFN's output is added to

        `layer` mode, X being layer (residual + ffn), residual, ffn:

        - X_token, X_prob: the best token; X_final_rank, X_final_prob, X_gold_rank, X_gold_prob:
          where the final and the gold token stand
        - ffn_residual_rank, ffn_residual_prob: the residual's best token in the FFN's distribution
        - changed_without_residual: layer_token != ffn_token
        - n_matching_layer, n_matching_ffn: active memories whose best token is that one
        - residual_norm_rank: active memories that contribute more than the residual's norm
        - kind: `agreement` of layer, residual and ffn; `residual`: layer = residual only; `ffn`:
          layer = ffn only; `composition`: neither

        `value` mode, everything read through the bare embedding:

        - residual_* and ffn_* without gold; n_matching_final, n_matching_ffn, n_matching_gold;
          n_distinct: different best tokens among the active memories
        - lists over the n largest contributors, |coefficient| times the value's norm, largest first
          (equal ones: the lower dim first): top_dims, top_coefficients, top_contributions,
          top_tokens, top_probs, top_{final,gold,ffn}_ranks, top_{final,gold,ffn}_probs
        - with `all_values` lists over all of d_ff: all_coefficients, all_contributions,
          all_tokens, all_{final,ffn}_ranks, all_{final,ffn}_probs
        """
        return self.groups.read()

    @cached_property
    def examples(self) -> pa.Table:
        """One row per example: unit, position, token, text of the unit, prefix up to the token."""
        return self.example_groups.read()

    @cached_property
    def output_dist(self) -> np.ndarray | None:
        """The model's own distribution of each example, float32 [n_examples, vocabulary].

        Mapped from its file. None unless asked for, and of a shard, whose files are still apart.
        """
        if len(self.distributions) != 1:
            return None
        return map_distributions(self.distributions[0])

    def summary(self) -> pa.Table:
        """Return a row per layer; see `pyengine.analyses.prediction_summary.summarise`."""
        return summarise(self.groups, self.manifest)

    def save(self, folder: str | Path) -> Path:
        """Write a run directory that `pyengine.open_run` reads.

        Raises:
            PyengineError: if the directory holds another run, or cannot be written.
        """
        from pyengine.merge_runs import restarted

        run = RunFolder.begin(Path(folder), restarted(self.manifest))
        self.write(run)
        return run.path

    def write(self, run: RunFolder, **provenance: Any) -> None:
        """Write the result into a run directory and complete it; little of it is in memory."""
        for name in (TABLE_FILE, EXAMPLES_FILE, DISTRIBUTION_FILE):
            for left in run.path.glob(f".{name}.*"):  # a killed attempt's temporary file
                left.unlink(missing_ok=True)
        self.groups.write(run.path / TABLE_FILE)
        self.example_groups.write(run.path / EXAMPLES_FILE)
        names = [TABLE_FILE, EXAMPLES_FILE, self.text.save(run.path)]
        if self.manifest["question"]["output_dist"]:
            join_distributions(self.distributions, run.path / DISTRIBUTION_FILE)
            names.append(DISTRIBUTION_FILE)
        counters = {name: self.record[name] for name in COUNTERS}
        files = [name for name in names if name is not None]
        run.finish(files, counters, n_computed=self.record["n_computed"], **provenance)

    @classmethod
    def open(cls, folder: Path, manifest: dict[str, Any]) -> "Predictions":
        """Read what `write` wrote; `pyengine.open_run` calls this after checking the files."""
        question = manifest["question"]
        wanted = schema(question["mode"], question["all_values"])
        return cls(
            Groups(wanted, (folder / TABLE_FILE,)),
            Groups(EXAMPLES, (folder / EXAMPLES_FILE,)),
            (folder / DISTRIBUTION_FILE,) if question["output_dist"] else (),
            TokenText.load(folder),
            manifest,
            {"n_computed": None, **manifest["result"]},
        )
