"""The result of a key-value agreement: three tables, readable without the model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pyengine.errors import PyengineError
from pyengine.files import atomic_write
from pyengine.run import RunFolder
from pyengine.token_text import TokenText

FILES = {
    "table": "agreement.parquet",
    "layers": "layers.parquet",
    "probability": "probability.parquet",
}


@dataclass(frozen=True, eq=False)
class Agreement:
    """What every value writes, and whether it is what follows its key's trigger examples.

    Attributes:
        table: one row per value, ascending by (layer, dim): top_token, top_text (as it stands in
            a sentence), top_prob, entropy (nats) and the best top_tokens with their top_probs;
            agrees, whether top_token is the target of the key's best example (null where that has
            none); matches, how many of the n_targets targets it equals; per example, best first
            and null where it has no target, the targets, their target_ranks (0 is the top) and
            target_probs; n_examples; and the shuffled baseline: shuffled_target, the first target
            of another key of the layer, and its shuffled_rank. A value with NaN logits has nulls.
        layers: one row per layer, see `agreement_summary.by_layer`.
        probability: by confidence, see `agreement_summary.by_probability`.
        text: turns token ids into text.
        manifest: settings, model and the run that was read, as in `manifest.json`.
    """

    table: pa.Table
    layers: pa.Table
    probability: pa.Table
    text: TokenText
    manifest: dict[str, Any]

    def save(self, folder: str | Path) -> Path:
        """Write a run directory that `pyengine.open_run` reads; equal results, equal bytes.

        Raises:
            PyengineError: if the directory holds another run, or cannot be written.
        """
        # A result that was opened carries the completed manifest of its own directory.
        fresh = {k: v for k, v in self.manifest.items() if k not in ("files", "result")}
        run = RunFolder.begin(Path(folder), fresh | {"status": "incomplete"})
        self.write(run)
        return run.path

    def write(self, run: RunFolder, **provenance: Any) -> None:
        """Write the result into a run directory and complete it."""
        for name, file in FILES.items():
            write_table(getattr(self, name), run.path / file)
        text = self.text.save(run.path)
        counters = {
            "n_values": self.table.num_rows,
            "n_compared": pc.sum(self.layers["n_compared"]).as_py(),
            "n_nan": self.table["top_token"].null_count,
        }
        run.finish([*FILES.values(), *([text] if text else [])], counters, **provenance)

    @classmethod
    def open(cls, folder: Path, manifest: dict[str, Any]) -> "Agreement":
        """Read what `write` wrote; `pyengine.open_run` calls this after checking the files."""
        tables = {name: read_table(folder / file) for name, file in FILES.items()}
        return cls(**tables, text=TokenText.load(folder), manifest=manifest)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file, whole or not at all; equal tables give equal bytes."""
    whole = table.combine_chunks()
    atomic_write(path, lambda temporary: pq.write_table(whole, temporary, compression="zstd"))


def read_table(path: Path) -> pa.Table:
    """Read a Parquet file; if it is replaced meanwhile, all of the old one.

    Raises:
        PyengineError: if it is damaged.
    """
    try:
        with path.open("rb") as file:  # by its name it would be opened twice
            return pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise PyengineError(f"{path} is damaged or not Parquet: {error}") from error
