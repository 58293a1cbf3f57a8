"""The table of an agreement: one row per value."""

import numpy as np
import pyarrow as pa

from pyengine.analyses.targets import Targets
from pyengine.token_text import TokenText

# Named as Parquet names it, so that a table that was read is written with the same bytes.
INTS = pa.list_(pa.field("element", pa.int32()))
FLOATS = pa.list_(pa.field("element", pa.float32()))

SCHEMA = pa.schema(
    [
        ("layer", pa.int32()),
        ("dim", pa.int32()),
        ("top_token", pa.int32()),
        ("top_text", pa.string()),
        ("top_prob", pa.float32()),
        ("entropy", pa.float32()),
        ("top_tokens", INTS),
        ("top_probs", FLOATS),
        ("agrees", pa.bool_()),
        ("matches", pa.int32()),
        ("n_targets", pa.int32()),
        ("targets", INTS),
        ("target_ranks", INTS),
        ("target_probs", FLOATS),
        ("n_examples", pa.int32()),
        ("shuffled_target", pa.int32()),
        ("shuffled_rank", pa.int32()),
    ]
)


def agreement_table(arrays: dict[str, np.ndarray], targets: Targets, text: TokenText) -> pa.Table:
    """Build the table from what the projection of n values gave, all in (layer, dim) order.

    Args:
        arrays: top_tokens int64 [n, m], top_probs [n, m], entropy [n]; targets and ranks int64
            [n, k], probs [n, k]; shuffled_target and shuffled_rank int64 [n]. -1 or NaN is none.
        targets: the keys, and which of them have examples.
        text: for the top tokens.
    """
    top, wanted = arrays["top_tokens"][:, 0], arrays["targets"]
    examples = ((targets.next >= 0) | (targets.input >= 0)).flatten(0, 1).sum(1).numpy()
    columns = {
        "layer": np.repeat(np.array(targets.layers, np.int32), len(targets.dims)),
        "dim": np.tile(np.array(targets.dims, np.int32), len(targets.layers)),
        "top_token": _known(top),
        "top_text": _texts(top, text),
        "top_prob": _known(arrays["top_probs"][:, 0]),
        "entropy": _known(arrays["entropy"]),
        "top_tokens": _lists(arrays["top_tokens"]),
        "top_probs": _lists(arrays["top_probs"]),
        "agrees": pa.array(top == wanted[:, 0], mask=(wanted[:, 0] < 0) | (top < 0)),
        "matches": ((wanted == top[:, None]) & (wanted >= 0)).sum(1),
        "n_targets": (wanted >= 0).sum(1),
        "targets": _lists(wanted),
        "target_ranks": _lists(arrays["ranks"]),
        "target_probs": _lists(arrays["probs"]),
        "n_examples": examples,
        "shuffled_target": _known(arrays["shuffled_target"]),
        "shuffled_rank": _known(arrays["shuffled_rank"]),
    }
    return pa.table(columns).cast(SCHEMA)


def _known(values: np.ndarray) -> pa.Array:
    """Turn -1 and NaN into null."""
    if values.dtype.kind == "f":
        return pa.array(values.astype(np.float32), mask=np.isnan(values))
    return pa.array(values.astype(np.int32), mask=values < 0)


def _lists(values: np.ndarray) -> pa.Array:
    """Make [n, m] one list per row."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(offsets, _known(values.reshape(-1)))


def _texts(tokens: np.ndarray, text: TokenText) -> pa.Array:
    found, place = np.unique(tokens, return_inverse=True)
    shown = [text.token(token) if token >= 0 else None for token in found.tolist()]
    return pa.array(shown, pa.string()).take(pa.array(place))
