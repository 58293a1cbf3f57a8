"""The frame in ff-layers' columns, read back with pandas, against loops over our tables."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic_results

from pyengine import Predictions, PyengineError
from pyengine.export import export
from pyengine.export.pandas_compat import export_pandas_compat

N, D_FF, VOCAB = 150, 8, 11  # more examples than are written at a time

LAYER_COLUMNS = [
    "text",
    "output_dist_vals",
    "layer_output_argmax",
    "layer_output_argmax_prob",
    "residual_argmax",
    "residual_argmax_prob",
    "residual_argmax_change",
    "residual_output_rank",
    "residual_output_prob",
    "ffn_matching_dims_count",
    "ffn_output_rank",
    "ffn_output_prob",
    "ffn_residual_output_rank",
    "ffn_residual_output_prob",
    "ffn_argmax",
    "ffn_argmax_prob",
    "coeffs_l0",
    "coeffs_residual_rank",
    "random_pos",
]
DIM_COLUMNS = [
    "text",
    "output_dist_vals",
    "residual_ffn_output_rank",
    "residual_ffn_output_prob",
    "residual_ffn_argmax",
    "residual_ffn_argmax_prob",
    "ffn_residual_output_rank",
    "ffn_residual_output_prob",
    "dim_pattern_preds",
    "dim_pattern_output_rank",
    "dim_pattern_ffn_output_rank",
    "dim_pattern_ffn_output_prob",
    "coeffs_vals",
    "random_pos",
]


def made(mode: str, folder: Path, **more: Any) -> Predictions:
    more = {"all_values": mode == "value", "distributions": folder / "dist.npy"} | more
    facts: dict[str, Any] = {"n_examples": N, "d_ff": D_FF, "vocab": VOCAB, **more}
    return synthetic_results.predictions(mode, **facts)


def read(path: Path) -> pd.DataFrame:
    return pd.read_feather(path) if path.suffix == ".feather" else pd.read_parquet(path)


def by_example(predictions: Predictions) -> list[list[dict[str, Any]]]:
    rows = predictions.table.to_pylist()
    each = len(rows) // predictions.examples.num_rows
    return [rows[at : at + each] for at in range(0, len(rows), each)]


@pytest.mark.parametrize("ending", ["parquet", "feather"])
def test_layer_mode(tmp_path: Path, ending: str) -> None:
    found = made("layer", tmp_path)
    path = tmp_path / f"frame.{ending}"
    export(found, "pandas-compat", path)
    frame = read(path)
    assert list(frame.columns) == LAYER_COLUMNS
    assert len(frame) == N
    examples, dist = found.examples.to_pylist(), found.output_dist
    assert dist is not None
    seen_zero = False
    for index, layers in enumerate(by_example(found)):
        row = frame.iloc[index]
        assert row["text"] == examples[index]["text"]
        assert row["random_pos"] == examples[index]["position"] + 1
        np.testing.assert_array_equal(row["output_dist_vals"], dist[index])
        expected: dict[str, list[float]] = {name: [] for name in LAYER_COLUMNS[2:-1]}
        for ours in layers:
            zeros = (D_FF - ours["n_active"]) if ours["layer_token"] == 0 else 0
            seen_zero |= zeros > 0
            values = [
                *(ours["layer_token"], ours["layer_prob"]),
                *(ours["residual_token"], ours["residual_prob"]),
                int(ours["layer_token"] != ours["ffn_token"]),
                *(ours["residual_final_rank"], ours["residual_final_prob"]),
                ours["n_matching_layer"] + zeros,
                *(ours["ffn_final_rank"], ours["ffn_final_prob"]),
                *(ours["ffn_residual_rank"], ours["ffn_residual_prob"]),
                *(ours["ffn_token"], ours["ffn_prob"]),
                ours["n_active"] + 1,
                ours["residual_norm_rank"],
            ]
            for name, value in zip(expected, values, strict=True):
                expected[name].append(value)
        for name, values in expected.items():
            np.testing.assert_array_equal(row[name], np.array(values, row[name].dtype), name)
    assert seen_zero, "no layer predicted token 0"


@pytest.mark.parametrize("ending", ["parquet", "feather"])
def test_value_mode_is_the_last_layer(tmp_path: Path, ending: str) -> None:
    found = made("value", tmp_path)
    path = tmp_path / f"frame.{ending}"
    export_pandas_compat(found, path)
    frame = read(path)
    assert list(frame.columns) == DIM_COLUMNS
    assert len(frame) == N
    for index, layers in enumerate(by_example(found)):
        row, ours = frame.iloc[index], layers[-1]
        assert ours["layer"] == 3
        preds, ranks, ffn_ranks, ffn_probs, coefficients = _memories(ours)
        expected = {
            "residual_ffn_output_rank": [ours["residual_final_rank"], ours["ffn_final_rank"]],
            "residual_ffn_output_prob": [ours["residual_final_prob"], ours["ffn_final_prob"]],
            "residual_ffn_argmax": [ours["residual_token"], ours["ffn_token"]],
            "residual_ffn_argmax_prob": [ours["residual_prob"], ours["ffn_prob"]],
            "ffn_residual_output_rank": ours["ffn_residual_rank"],
            "ffn_residual_output_prob": ours["ffn_residual_prob"],
            "dim_pattern_preds": [*preds, ours["residual_token"]],
            "dim_pattern_output_rank": [*ranks, ours["residual_final_rank"]],
            "dim_pattern_ffn_output_rank": ffn_ranks,
            "dim_pattern_ffn_output_prob": ffn_probs,
            "coeffs_vals": [*coefficients, ours["residual_norm"]],
        }
        for name, value in expected.items():
            got = np.asarray(row[name])
            assert got.shape == np.shape(value), name
            np.testing.assert_array_equal(got, np.asarray(value, got.dtype), name)
        assert len(row["coeffs_vals"]) == D_FF + 1
        assert len(row["output_dist_vals"]) == VOCAB


def _memories(ours: dict[str, Any]) -> tuple[list[float], ...]:
    """What each memory says; one that is not active is the zero vector, as after a ReLU."""
    lists: tuple[list[float], ...] = ([], [], [], [], [])
    for dim, coefficient in enumerate(ours["all_coefficients"]):
        zero = (0, ours["final_token"], ours["ffn_token"], 1 / VOCAB, 0.0)
        names = ("tokens", "final_ranks", "ffn_ranks", "ffn_probs", "contributions")
        active = tuple(ours[f"all_{name}"][dim] for name in names)
        for values, value in zip(lists, active if coefficient > 0 else zero, strict=True):
            values.append(value)
    return lists


@pytest.mark.parametrize("ending", ["parquet", "feather"])
def test_same_bytes_again(tmp_path: Path, ending: str) -> None:
    found = made("layer", tmp_path)
    first, second = (tmp_path / f"{name}.{ending}" for name in "ab")
    export_pandas_compat(found, first)
    export_pandas_compat(found, second)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("name", "pickled"),
    [("frame.pkl", True), ("frame.pickle", True), ("frame.csv", False), ("frame", False)],
)
def test_other_endings_are_refused(tmp_path: Path, name: str, pickled: bool) -> None:
    found = made("layer", tmp_path)
    with pytest.raises(PyengineError, match=r"\.parquet.*\.feather") as error:
        export_pandas_compat(found, tmp_path / name)
    assert ("run code" in str(error.value)) == pickled
    assert not (tmp_path / name).exists()


def test_what_is_missing_is_named_with_its_command(tmp_path: Path) -> None:
    path = tmp_path / "frame.parquet"
    with pytest.raises(PyengineError, match="--mode layer --output-dist"):
        export_pandas_compat(made("layer", tmp_path, distributions=None), path)
    with pytest.raises(PyengineError, match="--mode value --all-values --output-dist"):
        export_pandas_compat(made("value", tmp_path, all_values=False), path)
    stacks = ["encoder"] * 2 + ["decoder"] * 2
    with pytest.raises(PyengineError, match=r"--layers 0-1 \(encoder\) or 2-3 \(decoder\)"):
        export_pandas_compat(made("layer", tmp_path, family="t5", stacks=stacks), path)
    assert not path.exists()
