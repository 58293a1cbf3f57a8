"""What is wrong with a task is said in one line; examples that it has twice are counted."""

from pathlib import Path

import pytest
from senteval_files import MRPC_HEADER, put, sick

from pyengine.errors import PyengineError
from pyengine.heads.task_names import canonical_name, read_task
from pyengine.heads.task_overlap import overlap, overlap_note


@pytest.mark.parametrize("score", ["", "nan", "inf", "high"])
def test_a_score_that_is_no_number_is_named_with_its_line(tmp_path: Path, score: str) -> None:
    good = "g\tf\t2012\t1\t3\ta\tb\n"
    data = put(tmp_path, {f"sts-{part}.csv": good for part in ("train", "dev", "test")})
    put(tmp_path, {"sts-dev.csv": good + good.replace("\t3\t", f"\t{score}\t")})
    with pytest.raises(PyengineError, match=rf"sts-dev\.csv:2: the score '{score}' is not"):
        read_task("STS-B", data)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("tr\tA\ta\nva\tA\tb\nte\tC\tc\n", "word_content.txt:3: the label 'C' is not one of A"),
        ("tr\tA\ta\nxx\tA\tb\n", "word_content.txt:2: the partition 'xx'"),
        ("tr\tA\n", "word_content.txt:1: 2 fields between tabs, not 3"),
        ("tr\tA\ta\nte\tA\tb\n", "WordContent has no dev examples"),
        (b"tr\tA\tcaf\xe9\n", "word_content.txt:1: not utf-8"),
    ],
)
def test_a_broken_probing_file(tmp_path: Path, content: str | bytes, says: str) -> None:
    put(tmp_path, {"word_content.txt": content})
    with pytest.raises(PyengineError) as error:
        read_task("WC", tmp_path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_missing_files_are_named_with_their_folder(tmp_path: Path) -> None:
    with pytest.raises(PyengineError, match=rf"{tmp_path}.*TREC/train_5500\.label"):
        read_task("TREC", tmp_path)
    put(tmp_path, {"TREC/train_5500.label": "HUM:ind Who ?\n"})
    with pytest.raises(PyengineError, match=r"no such file: .*TREC/TREC_10\.label"):
        read_task("TREC", tmp_path)
    with pytest.raises(PyengineError, match="no such folder"):
        read_task("TREC", tmp_path / "none")
    with pytest.raises(PyengineError, match="TREC needs the folder"):
        read_task("TREC")


def test_unknown_names_and_what_is_left_out() -> None:
    with pytest.raises(
        PyengineError, match=r"unknown task 'TREK'; did you mean TREC\? known are: L"
    ):
        read_task("TREK")
    with pytest.raises(PyengineError, match=r"unknown task 'zzzz'; known are: Length, .*STS16"):
        read_task("zzzz")
    for name in ("COCO", "ImageCaptionRetrieval"):
        with pytest.raises(PyengineError, match=f"{name} is image-caption retrieval, .* left out"):
            read_task(name)
    assert canonical_name("bigram_shift") == canonical_name("BShift") == "BigramShift"
    assert canonical_name("mine") is None


def test_overlap_counts_examples_that_are_tested_after_training(tmp_path: Path) -> None:
    lines = "tr\tA\ta b\ntr\tB\tc\nva\tA\ta  b\nte\tB\tc\nte\tA\tc\nte\tA\ta b\nte\tA\tnew\n"
    task = read_task(put(tmp_path, {"x.txt": lines}) / "x.txt")
    assert overlap(task) == {("train", "dev"): 1, ("train", "test"): 3, ("dev", "test"): 1}
    note = overlap_note(task)
    assert note is not None and "3 of 4 examples of test are also in train" in note
    put(tmp_path, {"CR/custrev.pos": "a\nb\na\n", "CR/custrev.neg": "a\nc\n"})
    assert overlap(read_task("CR", tmp_path)) == {("all", "all"): 2}
    assert overlap_note(read_task("SICK-E", sick(tmp_path / "s"))) is not None
    clean = put(tmp_path, {"y.txt": "tr\tA\ta\nva\tA\tb\nte\tA\tc\n"}) / "y.txt"
    assert overlap(read_task(clean)) == {} and overlap_note(read_task(clean)) is None


def test_pairs_overlap_only_as_pairs(tmp_path: Path) -> None:
    for part, pair in (("train", "a\tb"), ("test", "a\tc")):
        put(tmp_path, {f"msr_paraphrase_{part}.txt": f"{MRPC_HEADER}1\t1\t2\t{pair}\n"})
    assert overlap(read_task("MRPC", tmp_path)) == {}


@pytest.mark.parametrize("line", ["0", " \t0", "0 "])
def test_a_label_without_a_sentence(tmp_path: Path, line: str) -> None:
    data = put(tmp_path, dict.fromkeys(("TREC.train.all", "TREC.test.all"), "1 a\n0\n"))
    with pytest.raises(PyengineError, match=r"TREC\.train\.all:2: no sentence beside the label"):
        read_task("TREC", data)
    put(tmp_path, {f"stsa.binary.{part}": f"1 a\n{line}\n" for part in ("train", "dev", "test")})
    with pytest.raises(PyengineError, match=r"stsa\.binary\.train:2: no sentence beside .* '0'"):
        read_task("SST2", data)
