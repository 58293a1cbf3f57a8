"""Text rules: undo WikiText's tokenisation, and cut text into sentences.

WikiText files hold one paragraph or heading a line, tokens separated by spaces
(`a guest @-@ starring role , " Teddy 's Story " .`). Everything here works on one line, is a pure
function, and looks at each token once.
"""

import re
from collections.abc import Callable, Iterable

SENTENCE_ENDS = frozenset({".", "?", "!"})

# How a token touches its neighbours: text written for it, no space before, no space after.
_GLUE: dict[str, tuple[str, bool, bool]] = {
    **{token: (token[1], True, True) for token in ("@-@", "@,@", "@.@")},
    **{token: (token, True, False) for token in (*".,;:!?)]}%°′″”’", "n't")},
    **{token: (token, False, True) for token in "([{$£€¥#“‘"},
    "/": ("/", True, True),
}
_HEADING = re.compile(r"\s*((?:= )+)([^=\s].*?)((?: =)+)\s*")


def heading_level(line: str) -> int:
    """Return 1 for an article's title ` = X = `, 2 for ` = = X = = `, ..., 0 for a paragraph."""
    return _heading(line)[0]


def detokenize_wikitext(line: str) -> str:
    """Return a WikiText line (or a part of one) as ordinary text, without its outer spaces.

    `@-@`, `@,@`, `@.@` become `-`, `,`, `.`; closing punctuation and clitics (`'s`, `n't`) lose
    the space before them, opening brackets and currency signs the one after; `/` loses both.
    Double quotes are paired within the line. A lone `'` closes a quotation, or is a possessive
    after a word in s, x or z, else opens one. A heading becomes `== X ==`. `<unk>` is untouched.
    """
    level, title = _heading(line)
    if level:
        return f"{'=' * level} {_join(title.split())} {'=' * level}"
    return _join(line.split())


def wikitext_sentences(line: str) -> list[str]:
    """Return the sentences of a WikiText line as ordinary text.

    The boundaries are those of `split_wikitext_sentences`; the text is that of
    `detokenize_wikitext`, with quotes paired over the whole line, so that a quotation that spans
    sentences keeps its direction.
    """
    if heading_level(line):
        return [detokenize_wikitext(line)]
    return _join_parts(line.split(), SENTENCE_ENDS)


def split_wikitext_sentences(line: str) -> list[str]:
    """Cut a raw WikiText line into sentences, still tokenised.

    The rule: a sentence ends exactly after a token `.`, `?` or `!` (nothing else, so that an
    abbreviation `U.S.` never ends one and a closing quote begins the next). A heading is one
    sentence. Runs of white space become one space; a blank line has no sentences.
    """
    tokens = line.split()
    if heading_level(line):
        return [" ".join(tokens)]
    ends = [i + 1 for i, token in enumerate(tokens) if token in SENTENCE_ENDS]
    starts = [0, *ends]
    ends.append(len(tokens))
    return [" ".join(tokens[i:j]) for i, j in zip(starts, ends, strict=True) if i < j]


def split_sentences(text: str, language: str = "en") -> list[str]:
    """Cut ordinary text into sentences with the `sentencex` library, without outer spaces."""
    import sentencex

    return [part for raw in sentencex.segment(language, text) if (part := raw.strip())]


def unit_rule(unit: str, wikitext: bool, detokenize: bool) -> Callable[[str], list[str]]:
    """Return how a non-blank line is cut into texts: sentences, or left in one piece."""
    if unit == "sentence":
        if wikitext:
            return wikitext_sentences if detokenize else split_wikitext_sentences
        return split_sentences
    if wikitext and detokenize:
        return lambda line: [detokenize_wikitext(line)]
    return lambda line: [line]


def _heading(line: str) -> tuple[int, str]:
    match = _HEADING.fullmatch(line) if line.lstrip()[:1] == "=" else None
    if match is None:
        return 0, ""
    level, closing = match[1].count("="), match[3].count("=")
    return (level, match[2]) if level == closing else (0, "")


def _join(tokens: Iterable[str]) -> str:
    return "".join(_join_parts(tokens, frozenset()))


def _join_parts(tokens: Iterable[str], ends: frozenset[str]) -> list[str]:
    """Join tokens into text, starting a new part after each token in `ends`."""
    parts: list[str] = []
    text: list[str] = []
    tight = True  # no space before the next token
    in_double = in_single = False
    previous = ""
    for token in tokens:
        rule = _GLUE.get(token)
        after = False
        if rule is not None:
            written, before, after = rule
            text.append(written if before or tight else " " + written)
        elif token == '"':
            text.append('"' if in_double or tight else ' "')
            in_double = after = not in_double
        elif token == "'":
            closes = in_single or previous[-1:] in ("s", "x", "z")
            text.append("'" if closes or tight else " '")
            in_single = after = not closes
        else:
            text.append(token if tight or token[0] == "'" else " " + token)
        tight = after
        previous = token
        if token in ends:
            parts.append("".join(text))
            text, tight = [], True
    if text:
        parts.append("".join(text))
    return parts
