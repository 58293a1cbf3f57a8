"""WikiText's tokenisation undone, and sentences cut by the documented rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyengine import text
from pyengine.embedded import EXCERPT

TOKENS = [
    *".,;:!?()[]{}%$£/°\"'=&—–é",
    *("@-@", "@,@", "@.@", "'s", "'t", "n't", "'affaires", "<unk>"),
    *("the", "cats", "went", "U.S.", "9", "000", "'n'roll", "戦場"),
]
LINES = st.lists(st.sampled_from(TOKENS), max_size=30).map(lambda tokens: f" {' '.join(tokens)} \n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a guest @-@ starring role", "a guest-starring role"),
        ("12 @,@ 000 or 3 @.@ 5 %", "12,000 or 3.5%"),
        ("Hello , world ; a : b ! c ? d .", "Hello, world; a: b! c? d."),
        ("( a ) [ b ] { c }", "(a) [b] {c}"),
        ("it 's Teddy 's , he didn 't and was n't", "it's Teddy's, he didn't and wasn't"),
        ("coup d 'état in P 'ohang", "coup d'état in P'ohang"),
        ('said " yes " and " no " .', 'said "yes" and "no".'),
        ("the ' big ' one , the ships ' guns", "the 'big' one, the ships' guns"),
        ("$ 5 , £ 6 , 105 km / h at 10 °", "$5, £6, 105 km/h at 10°"),
        ("the <unk> of <unk> , <unk>", "the <unk> of <unk>, <unk>"),
        ("1939 – 45 — really", "1939 – 45 — really"),
        (" = Robert Boulter = \n", "= Robert Boulter ="),
        (" = = Career = = \n", "== Career =="),
        (" = = = 2000 – 2005 : M @-@ 82 = = = \n", "=== 2000 – 2005: M-82 ==="),
        (" = Qualified for the next round \n", "= Qualified for the next round"),
        (" = = a = b = = \n", "== a = b =="),
        (" = = a = \n", "= = a ="),
        ("   \n", ""),
        ("=", "="),
        (" = = = = ", "= = = ="),
    ],
)
def test_detokenises(line: str, expected: str) -> None:
    assert text.detokenize_wikitext(line) == expected


@given(LINES)
def test_only_spaces_and_the_at_signs_of_wikitext_are_removed(line: str) -> None:
    expected = line.replace("@-@", "-").replace("@,@", ",").replace("@.@", ".")
    result = text.detokenize_wikitext(line)
    assert "".join(result.split()) == "".join(expected.split())
    assert result == result.strip()
    assert result == text.detokenize_wikitext(line.strip())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (" A b . C d ? E ! \n", ["A b .", "C d ?", "E !"]),
        (" In the U.S. it . Then", ["In the U.S. it .", "Then"]),
        (" a . . b", ["a .", ".", "b"]),
        (" 3 @.@ 5 and .5 ... x", ["3 @.@ 5 and .5 ... x"]),
        (' " Go . " He left . ', ['" Go .', '" He left .']),
        (" = What ? No . = \n", ["= What ? No . ="]),
        (" . ", ["."]),
        ("  \n", []),
    ],
)
def test_a_sentence_ends_exactly_after_an_end_token(line: str, expected: list[str]) -> None:
    assert text.split_wikitext_sentences(line) == expected


@given(LINES)
def test_sentences_of_both_kinds_agree(line: str) -> None:
    raw, clean = text.split_wikitext_sentences(line), text.wikitext_sentences(line)
    assert " ".join(raw).split() == line.split()
    assert len(raw) == len(clean)
    for tokens, sentence in zip(raw, clean, strict=True):
        whole = text.detokenize_wikitext(tokens)
        assert "".join(sentence.split()) == "".join(whole.split())
    if not text.heading_level(line):
        assert all(part.split()[-1] in text.SENTENCE_ENDS for part in raw[:-1])


def test_a_quotation_over_two_sentences_keeps_its_direction() -> None:
    assert text.wikitext_sentences(' He said " Go . Now " , and left . ') == [
        'He said "Go.',
        'Now", and left.',
    ]


@pytest.mark.parametrize(
    ("line", "level"),
    [(" = A = \n", 1), (" = = B = = \n", 2), ("= C =", 1), (" A = B ", 0), ("", 0), (" = D \n", 0)],
)
def test_heading_level(line: str, level: int) -> None:
    assert text.heading_level(line) == level


def test_a_real_excerpt_reads_as_text() -> None:
    lines = EXCERPT.read_text(encoding="utf-8").split("\n")
    clean = " ".join(map(text.detokenize_wikitext, lines))
    assert not any(mark in clean for mark in (" @-@ ", " @,@ ", " 's ", " , ", " . ", "( ", " )"))
    assert sum(text.heading_level(line) == 1 for line in lines) > 1


def test_sentences_of_raw_text() -> None:
    found = text.split_sentences("Mr. Smith came at 3.5 p.m. sharp. Why? He was late.")
    assert found == ["Mr. Smith came at 3.5 p.m. sharp.", "Why?", "He was late."]
    assert text.split_sentences(" ") == []
