"""What must hold for the heads of trained models, on a task made of the shipped excerpt."""

import math
from pathlib import Path

import pytest

import pyengine
from pyengine import Corpus, load
from pyengine.embedded import EXCERPT
from pyengine.heads.bank import HeadBank
from pyengine.heads.concat import concat_heads
from pyengine.heads.generated_tasks import generate_task
from pyengine.heads.probe_heads import probe_heads
from pyengine.heads.results import HeadResults
from pyengine.heads.results_table import CONCATS, PROBES
from pyengine.heads.task import Task

TRAINED = Path(__file__).parent / "models"
MODELS: dict[str, str | Path] = {"gpt2": "demo", "bert": TRAINED / "bert"}
TASK, N_BEST = "sentence_length", 4  # four heads are as wide as the model


def length_task() -> Task:
    """Return a task of the ends of the excerpt's sentences: there are too few whole ones."""
    texts = (part.text for part in Corpus.from_wikitext(EXCERPT, unit="sentence").parts())
    words = [text.split() for text in texts]
    ends = [" ".join(one[begin:]) for one in words for begin in range(0, len(one), 3)]
    return generate_task(TASK, ends, n_train=600, n_dev=240, n_test=240)


def probed(bank: HeadBank, out: Path, seed: int) -> HeadResults:
    results = probe_heads(bank, out=out, seeds=(seed,))
    concat_heads(bank, results, TASK, [N_BEST], seeds=(seed,))
    return HeadResults.open(out)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_heads_of_a_trained_model(name: str, tmp_path: Path) -> None:
    bank = pyengine.extract_heads(
        load(MODELS[name]), [length_task()], out=tmp_path / "bank", locations=("head",)
    )
    results = probed(bank, tmp_path / "one", seed=5)
    rows = results.table.to_pylist()
    assert len(rows) == 16 and {row["majority"] for row in rows} == {16.67}
    for row in rows:
        share = row["majority"] / 100
        below = 4 * math.sqrt(share * (1 - share) / row["n_test"])
        assert row["collapsed"] or row["test"] / 100 >= share - below

    (together,) = results.concats.to_pylist()
    assert together["dev"] >= max(row["dev"] for row in rows) > 2 * rows[0]["majority"]

    probed(bank, tmp_path / "again", seed=5)
    other = probed(bank, tmp_path / "other", seed=6)
    for file in (PROBES, CONCATS):
        one, again = ((tmp_path / run / file.name).read_bytes() for run in ("one", "again"))
        assert one == again
    assert not (other.scores(TASK) == results.scores(TASK)).all()
