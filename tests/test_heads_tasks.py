"""SentEval's tasks are read as SentEval reads them."""

from pathlib import Path

import numpy as np
import pytest
from senteval_files import MRPC_HEADER, SICK_HEADER, put, sick, targets

from pyengine.errors import PyengineError
from pyengine.heads.senteval_probing import PROBING
from pyengine.heads.task import (
    CLASSES,
    INNER_K_FOLD,
    K_FOLD,
    SCORES,
    SIMILARITY,
    SPLIT,
    UNSUPERVISED,
)
from pyengine.heads.task_names import read_task


def test_probing_labels_are_numbered_as_sorted_strings(tmp_path: Path) -> None:
    lines = "tr\t10\tten words .\ntr\t9\tnine\ntr\t2\ttwo\nva\t9\tdev\nte\t2\textra\tlast field\n"
    data = put(tmp_path, {"probing/tree_depth.txt": lines})
    task = read_task("Depth", data)
    assert (task.name, task.kind, task.protocol) == ("Depth", CLASSES, SPLIT)
    assert task.labels == ("10", "2", "9")
    assert targets(task, "train") == [0, 2, 1] and task.parts["train"].targets.dtype == np.int64
    assert targets(task, "dev") == [2] and targets(task, "test") == [1]
    assert task.parts["test"].first == ("last field",)
    assert not task.paired


def test_all_names_of_the_probing_tasks(tmp_path: Path) -> None:
    line = "tr\tA\ta b\nva\tA\tc\nte\tA\td\n"
    data = put(tmp_path, {f"{stem}.txt": line for stem, _ in PROBING.values()})
    for name, aliases in PROBING.items():
        for alias in (name, *aliases, name.lower()):
            assert read_task(alias, data).name == name
    assert len(PROBING) == 10


def test_trec_is_the_same_in_both_layouts(tmp_path: Path) -> None:
    questions = ["How far is it ?", "Who was he ?", "What is it ?", "Why ?", "When ?", "Name one ."]
    classes = ["LOC:other", "HUM:ind", "DESC:def", "ABBR:exp", "NUM:date", "ENTY:other"]
    numbers = [4, 3, 0, 2, 5, 1]
    known, plain = (
        "".join(f"{label} {text}\n" for label, text in zip(labels, questions, strict=True))
        for labels in (classes, numbers)
    )
    put(tmp_path / "a", {"downstream/TREC/train_5500.label": known})
    put(tmp_path / "a", {"downstream/TREC/TREC_10.label": known})
    put(tmp_path / "b", {"TREC.train.all": plain, "TREC.test.all": plain})
    for folder in "ab":
        task = read_task("TREC", tmp_path / folder)
        assert (task.kind, task.protocol) == (CLASSES, K_FOLD)
        assert task.labels == ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
        assert [*task.parts] == ["train", "test"]
        assert task.parts["train"].first == tuple(questions)
        assert targets(task, "train") == [4, 3, 1, 0, 5, 2]


def test_trec_is_latin_1_and_loses_no_line_to_another_encodings_letters(tmp_path: Path) -> None:
    line = "HUM:ind Was \xf1 or \x85 a\x0c sister ?\n".encode("latin-1")
    data = put(tmp_path, {"TREC.train.all": line, "TREC.test.all": line})
    assert read_task("TREC", data).parts["train"].first == ("Was \xf1 or a sister ?",)


def test_sst_in_both_layouts(tmp_path: Path) -> None:
    parts = ("train", "dev", "test")
    senteval = {f"SST/binary/sentiment-{part}": f"good  {part}\t1\nbad\t0\n" for part in parts}
    plain = {f"stsa.binary.{part}": f"1 good {part}\n0 bad\n" for part in parts}
    for folder, files in (("a", senteval), ("b", plain)):
        task = read_task("SST-2", put(tmp_path / folder, files))
        assert (task.name, task.protocol, task.labels) == ("SST2", SPLIT, ("0", "1"))
        for part in parts:
            assert task.parts[part].first == (f"good {part}", "bad")
            assert targets(task, part) == [1, 0]


def test_sst5_has_five_classes_and_sst2_refuses_them(tmp_path: Path) -> None:
    parts = ("train", "dev", "test")
    data = put(tmp_path, {f"SST/fine/sentiment-{part}": "4 fine !\n0 bad\n" for part in parts})
    task = read_task("SST5", data)
    assert task.n_classes == 5 and targets(task, "test") == [4, 0]
    put(tmp_path, {f"SST/binary/sentiment-{part}": "4 fine !\n" for part in parts})
    with pytest.raises(PyengineError, match=r"sentiment-train:1: the label '4' is not one of 0, 1"):
        read_task("SST2", data)


@pytest.mark.parametrize(
    ("name", "files", "labels"),
    [
        ("MR", ("rt-polarity.neg", "rt-polarity.pos"), ("negative", "positive")),
        ("CR", ("custrev.neg", "custrev.pos"), ("negative", "positive")),
        ("MPQA", ("mpqa.neg", "mpqa.pos"), ("negative", "positive")),
        ("SUBJ", ("subj.subjective", "subj.objective"), ("subjective", "objective")),
    ],
)
def test_two_files_of_sentences(
    tmp_path: Path, name: str, files: tuple[str, str], labels: tuple[str, str]
) -> None:
    zero, one = files
    data = put(tmp_path, {f"{name}/{zero}": b"caf\xe9 bad\n\nb\n", f"{name}/{one}": "good one\r\n"})
    task = read_task(name, data)
    assert (task.protocol, task.labels) == (INNER_K_FOLD, labels)
    assert task.parts["all"].first == ("good one", "caf\xe9 bad", "b")
    assert targets(task, "all") == [1, 0, 0]


def test_mrpc_keeps_quotes_and_skips_its_header(tmp_path: Path) -> None:
    line = '1\t702\t703\tHe said " no .\t" Yes , he said .\n'
    files = {f"MRPC/msr_paraphrase_{part}.txt": MRPC_HEADER + line for part in ("train", "test")}
    files["MRPC/msr_paraphrase_train.txt"] = "\ufeff" + MRPC_HEADER + line + "0\t1\t2\ta\tb\n"
    task = read_task("MRPC", put(tmp_path, files))
    assert (task.protocol, task.labels, task.paired) == (K_FOLD, ("0", "1"), True)
    assert task.parts["train"].first == ('He said " no .', "a")
    assert task.parts["train"].second == ('" Yes , he said .', "b")
    assert targets(task, "train") == [1, 0]


def test_sick_entailment(tmp_path: Path) -> None:
    for name in ("SICK-E", "SICKEntailment"):
        task = read_task(name, sick(tmp_path))
        assert (task.name, task.kind, task.protocol) == ("SICK-E", CLASSES, SPLIT)
        assert task.labels == ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
        assert targets(task, "dev") == [2, 0, 1]


def test_sick_relatedness(tmp_path: Path) -> None:
    task = read_task("SICKRelatedness", sick(tmp_path))
    assert (task.name, task.kind, task.n_scores, task.labels) == ("SICK-R", SCORES, 5, ())
    assert targets(task, "test") == [4.5, 1.0, 3.25]
    assert task.parts["test"].targets.dtype == np.float64


def test_sick_columns_are_found_by_name(tmp_path: Path) -> None:
    sick(tmp_path)
    windows = (SICK_HEADER + "1\tA\tB\t3\tNEUTRAL\n").replace("\n", "\r\n")
    assert targets(
        read_task("SICK-E", put(tmp_path, {"SICK/SICK_train.txt": windows})), "train"
    ) == [1]
    other = (
        "pair_ID\tsentence_A\tsentence_B\tentailment_label\trelatedness_score\n"
        "1\tA\tB\tNEUTRAL\t2\n"
    )
    data = put(tmp_path, {"SICK/SICK_trial.txt": other})
    assert targets(read_task("SICK-R", data), "dev") == [2.0]
    assert targets(read_task("SICK-E", data), "dev") == [1]
    put(tmp_path, {"SICK/SICK_trial.txt": "a\tb\tc\n"})
    with pytest.raises(PyengineError, match=r"SICK_trial\.txt: no column 'relatedness_score'"):
        read_task("SICK-R", data)


def test_snli_reads_three_files_side_by_side(tmp_path: Path) -> None:
    files = dict[str, str]()
    for part in ("train", "dev", "test"):
        files[f"SNLI/s1.{part}"] = f"one {part}\n\nthree\n"
        files[f"SNLI/s2.{part}"] = "eins\nzwei\ndrei\n\n"
        files[f"SNLI/labels.{part}"] = "contradiction\nentailment\nneutral\n"
    task = read_task("SNLI", put(tmp_path, files))
    assert task.labels == ("entailment", "neutral", "contradiction")
    assert task.parts["dev"].first == ("one dev", "", "three")
    assert task.parts["dev"].second == ("eins", "zwei", "drei")
    assert targets(task, "dev") == [2, 0, 1]
    put(tmp_path, {"SNLI/labels.dev": "neutral\n"})
    with pytest.raises(PyengineError, match=r"labels\.dev has 1 lines, .* 3"):
        read_task("SNLI", tmp_path)


def test_sts_benchmark(tmp_path: Path) -> None:
    row = 'main-news\tMSRvid\t2012\t0001\t4.750\tA "girl" .\tA boy .\textra\n'
    data = put(
        tmp_path,
        {f"STS/STSBenchmark/sts-{part}.csv": row for part in ("train", "dev", "test")},
    )
    task = read_task("STS-B", data)
    assert (task.kind, task.protocol, task.n_scores) == (SCORES, SPLIT, 5)
    assert task.parts["dev"].first == ('A "girl" .',) and task.parts["dev"].second == ("A boy .",)
    assert targets(task, "dev") == [4.75]


def test_sts_leaves_out_pairs_without_a_score(tmp_path: Path) -> None:
    files = dict[str, str]()
    for name in ("FNWN", "headlines", "OnWN"):
        files[f"STS/STS13-en-test/STS.input.{name}.txt"] = (
            f"{name} a\tb\nc\td\ne\tf\tsource\ng\th\n"
        )
        files[f"STS/STS13-en-test/STS.gs.{name}.txt"] = "0.5\n\n4\n\n"
    task = read_task("STS13", put(tmp_path, files))
    assert (task.kind, task.protocol) == (SIMILARITY, UNSUPERVISED)
    assert [*task.parts] == ["FNWN", "headlines", "OnWN"]
    assert task.parts["OnWN"].first == ("OnWN a", "e") and task.parts["OnWN"].second == ("b", "f")
    assert targets(task, "headlines") == [0.5, 4.0]


def test_marks_blank_lines_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    clean = "tr\tA\ta b\ntr\tB\tc\nva\tA\td\nte\tB\te\n"
    dirty = "\ufeff" + clean.replace("\n", "\r\n\r\n").replace("a b", " a \u00a0 b ")
    a = put(tmp_path / "a", {"word_content.txt": clean})
    b = put(tmp_path / "b", {"word_content.txt": dirty})
    one, other = read_task("WordContent", a), read_task("WordContent", b)
    assert one.labels == other.labels
    for part in one.parts:
        assert one.parts[part].first == other.parts[part].first
        assert targets(one, part) == targets(other, part)


def test_the_order_is_by_words_then_by_target(tmp_path: Path) -> None:
    lines = "1\ta b\tc\n0\ta\tb c\n1\ta\tb\n0\td e\tf\n0\tg\th\n1\t\tx\n0\ti\tj\n"
    rows = "".join("\t1\t2\t".join(line.split("\t", 1)) + "\n" for line in lines.splitlines())
    files = {f"msr_paraphrase_{part}.txt": MRPC_HEADER + rows for part in ("train", "test")}
    part = read_task("MRPC", put(tmp_path, files)).parts["train"].in_order()
    # An empty sentence has no words; what is equal stays in the order of the file.
    assert part.first == ("", "g", "i", "a", "a", "d e", "a b")
    assert part.second == ("x", "h", "j", "b", "b c", "f", "c")
    assert part.targets.tolist() == [1, 0, 0, 1, 0, 0, 1]
