"""The result of an evaluation: tables of what maps between layers are worth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pyengine.analyses.agreement_result import read_table, write_table
from pyengine.run import RunFolder
from pyengine.token_text import TokenText

TABLES = (
    "r2",
    "positions",
    "samples",
    "layers",
    "calibration",
    "exits",
    "exit_samples",
    "savings",
    "transfer",
)
# Of times, which differ from run to run: beside the tables, and the manifest does not vouch for it.
WALL_CLOCK = "wall_clock.parquet"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What maps to the last layer, and between others, are worth on the validation rows.

    A table that was not asked for is None; so are all but those of r² where the fitted stack does
    not lead to an output head (T5's encoder). The reference is always the unmodified model's own
    output, never the text's next token. Means come with the ends of their 95 % bootstrap intervals
    over units, `_low` and `_high`.

    Attributes:
        text: turns token ids into text.
        manifest: settings, model and the fit that was scored, as in `manifest.json`.
        r2: one row per pair of points and mapping, see `r2_table.r2_table`.
        positions: r² by the token's position, of fits on all tokens, see
            `r2_positions.position_table`.
        samples: one row per mapping, layer and sample: stack, mapping, layer, unit, position,
            top_tokens (the ten best), hit@1, @5, @10 (whether the best is among the model's own k
            best), confidence (its probability), gap (to that of the second), surprisal (-ln of
            the model's own probability of it), kl (own || mapped), entropy, rank (of the model's
            own best token, 0 the top). At the last layer every mapping is the model itself.
            Substitution modes are mappings, too: from `layer` on, sub-modules are their maps.
        layers: means of these per mapping and layer, precision@k that of hit@k, and ece, the
            expected calibration error, without an interval. A mapped best token is right as often
            as the model itself says it is: its own probability of that token, never the text. So
            ece is 0 at the last layer. See `pyengine.shortcuts.calibration`.
        calibration: one row per mapping, layer and bin of confidence: bin, from, to, n, and the
            means of confidence and of right, the model's own probability.
        exits: early exits per mapping: one row per λ and fixed layer, see `Frontier.table`.
        exit_samples: one row per mapping, λ and sample, see `Frontier.samples`.
        savings: per mapping and rule, the fewest mean layers at 95 % agreement.
        transfer: one row per map and state, see `transfer.transfer_table`.
        wall_clock: what really stopping took, if `pyengine shortcuts evaluate --wall-clock` timed
            it: one row per mapping, and the columns of `wall_clock.wall_clock`.
    """

    text: TokenText
    manifest: dict[str, Any]
    r2: pa.Table
    positions: pa.Table | None = None
    samples: pa.Table | None = None
    layers: pa.Table | None = None
    calibration: pa.Table | None = None
    exits: pa.Table | None = None
    exit_samples: pa.Table | None = None
    savings: pa.Table | None = None
    transfer: pa.Table | None = None
    wall_clock: pa.Table | None = None

    @property
    def n_samples(self) -> int:
        """The validation rows that were read; 0 where no stack leads to an output head."""
        return 0 if self.layers is None else int(self.layers["n"][0].as_py())

    def save(self, folder: str | Path) -> Path:
        """Write a run directory that `pyengine.open_run` reads; equal results, equal bytes.

        Times, if there are some, are written beside what the manifest vouches for.

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
        held = {name: getattr(self, name) for name in TABLES}
        files = {f"{name}.parquet": table for name, table in held.items() if table is not None}
        for file, table in files.items():
            write_table(table, run.path / file)
        if self.wall_clock is not None:
            write_table(self.wall_clock, run.path / WALL_CLOCK)
        text = self.text.save(run.path)
        counters = {
            "n_samples": self.n_samples,
            "n_nan": 0 if self.samples is None else self.samples["surprisal"].null_count,
        }
        run.finish([*files, *([text] if text else [])], counters, **provenance)

    @classmethod
    def open(cls, folder: Path, manifest: dict[str, Any]) -> "Evaluation":
        """Read what `write` wrote; `pyengine.open_run` calls this after checking the files."""
        tables = {
            name: read_table(folder / f"{name}.parquet")
            for name in TABLES
            if f"{name}.parquet" in manifest["files"]
        }
        if (times := folder / WALL_CLOCK).exists():
            tables["wall_clock"] = read_table(times)
        return cls(TokenText.load(folder), manifest, **tables)
