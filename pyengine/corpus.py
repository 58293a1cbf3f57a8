"""What a pass reads: a source of text or token ids, and how it is cut into units."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self, TypedDict, Unpack

from pyengine.checks import check_choice, check_count
from pyengine.dataset_source import DatasetRows, load_dataset
from pyengine.errors import PyengineError
from pyengine.lines import COMPRESSED, check_files, check_text
from pyengine.sources import JsonLines, TextFiles, Texts, TextSource
from pyengine.text import unit_rule
from pyengine.token_sources import TokenArray, TokenLists, TokenSource

UNITS = ("line", "sentence", "window")
LONG = ("split", "drop")
FORMATS = {
    "wikitext": (".tokens", ".raw"),
    "text": (".txt",),
    "jsonl": (".jsonl", ".ndjson"),
    "tokens": (".npy", ".safetensors"),
}


class Options(TypedDict, total=False):
    """Options that every constructor of text takes, as the attributes of `Corpus`."""

    window: int | None
    max_units: int | None
    detokenize: bool
    long: str


class Part(NamedTuple):
    """A text to tokenise: a unit, or for windows a line of a document."""

    text: str
    starts_document: bool
    done: int


@dataclass(frozen=True, eq=False)
class Corpus:
    """A description of a corpus; nothing is read before `pyengine.store.tokenize`.

    Attributes:
        source: where the text or the token ids come from.
        unit: `line`; `sentence` (WikiText: ends exactly after a token `.`, `?` or `!`; other text:
            the sentencex library, line by line); or `window`, non-overlapping windows of `window`
            tokens inside a document, the shorter tail kept. A document is a WikiText article (from
            one level-1 heading ` = X = ` to the next), a text file, a JSONL record, a text or a
            dataset row; its lines are joined by newlines. Headings are units; blank lines are not.
        window: tokens per window; only with `unit="window"`.
        max_units: only the first units, counted after splitting and dropping.
        detokenize: turn WikiText's tokens back into ordinary text; other text is left alone.
        long: what to do with a unit longer than the model reads: `split` it into new units, or
            `drop` it. Both are counted in the store's report.

    WikiText's `<unk>` becomes the tokenizer's unk token where it has one of its own. GPT-2's
    nominal unk is its end-of-text token, which would end the document: there it stays literal.

    Every constructor raises `PyengineError` for a missing file, an unknown or impossible option.
    """

    source: TextSource | TokenSource
    unit: str = "line"
    window: int | None = None
    max_units: int | None = None
    detokenize: bool = True
    long: str = "split"

    def __post_init__(self) -> None:
        check_choice("unit", self.unit, UNITS)
        check_choice("long", self.long, LONG)
        check_count("max_units", self.max_units)
        check_count("window", self.window)
        if self.unit == "window" and self.window is None:
            raise PyengineError("unit='window' needs window=N, the tokens per window")
        if self.unit != "window" and self.window is not None:
            raise PyengineError(f"window={self.window} needs unit='window', not {self.unit!r}")

    @classmethod
    def from_wikitext(
        cls,
        path: str | Path | Sequence[str | Path],
        unit: str = "sentence",
        **options: Unpack[Options],
    ) -> Self:
        """Read WikiText files (`wiki.train.tokens`), one paragraph or heading a line."""
        return cls(TextFiles(check_files(path), wikitext=True), unit, **options)

    @classmethod
    def from_text_file(
        cls, path: str | Path | Sequence[str | Path], unit: str = "line", **options: Unpack[Options]
    ) -> Self:
        """Read UTF-8 text files; each is one document."""
        return cls(TextFiles(check_files(path)), unit, **options)

    @classmethod
    def from_jsonl(
        cls,
        path: str | Path | Sequence[str | Path],
        field: str = "text",
        unit: str = "line",
        **options: Unpack[Options],
    ) -> Self:
        """Read the text in `field` of every record of JSONL files."""
        return cls(JsonLines(check_files(path), field), unit, **options)

    @classmethod
    def from_texts(
        cls, texts: Sequence[str], unit: str = "line", **options: Unpack[Options]
    ) -> Self:
        """Take texts in memory; a text with newlines has several lines."""
        if isinstance(texts, str):
            raise PyengineError("from_texts takes a list of texts, not one text")
        checked = tuple(check_text(text, f"texts[{i}]") for i, text in enumerate(texts))
        return cls(Texts(checked), unit, **options)

    @classmethod
    def from_dataset(
        cls,
        name: Any,
        config: str | None = None,
        split: str = "train",
        field: str = "text",
        unit: str | None = None,
        **options: Unpack[Options],
    ) -> Self:
        """Read a Hugging Face dataset by name, or one already loaded (rows that are dicts).

        A dataset named after WikiText is read as WikiText, a row being a line; `unit` is then
        `sentence`, else `line`, unless given.
        """
        rows, label = load_dataset(name, config, split)
        wikitext = "wikitext" in label.lower()
        unit = unit or ("sentence" if wikitext else "line")
        return cls(DatasetRows(rows, field, label, wikitext), unit, **options)

    @classmethod
    def from_token_ids(
        cls, ids: Sequence[Any], *, max_units: int | None = None, long: str = "split"
    ) -> Self:
        """Take token ids, one sequence per unit; fed as given, nothing is added to them."""
        return cls(TokenLists(ids), max_units=max_units, long=long)

    @classmethod
    def from_token_array(
        cls,
        path: str | Path,
        *,
        window: int | None = None,
        max_units: int | None = None,
        long: str = "split",
    ) -> Self:
        """Read token ids from a `.npy` or `.safetensors` file, [units, tokens] or [tokens].

        A 1-D array is one document and needs `window`; a 2-D array has one unit per row. The ids
        are fed as given, nothing is added to them.
        """
        check_count("window", window)
        return cls(TokenArray(check_files(path)[0], window), max_units=max_units, long=long)

    @classmethod
    def from_path(
        cls,
        path: str | Path,
        format: str = "auto",
        unit: str | None = None,
        field: str = "text",
        **options: Unpack[Options],
    ) -> Self:
        """Read a file as its ending says: `.tokens` (WikiText), `.txt`, `.jsonl`, `.npy`.

        A further `.gz` or `.zst` means compressed text. `unit` is `sentence` for WikiText and
        `line` for other text unless given; token files have units of their own.
        """
        if format == "auto":
            format = _guess_format(Path(path))
        check_choice("format", format, ("auto", *FORMATS))
        if format == "tokens":
            return cls._from_token_path(path, unit, **options)
        read: dict[str, Callable[..., Self]] = {
            "wikitext": cls.from_wikitext,
            "text": cls.from_text_file,
            "jsonl": partial(cls.from_jsonl, field=field),
        }
        default = "sentence" if format == "wikitext" else "line"
        return read[format](path, unit=unit or default, **options)

    @classmethod
    def _from_token_path(
        cls, path: str | Path, unit: str | None, **options: Unpack[Options]
    ) -> Self:
        if unit not in (None, "window"):
            raise PyengineError(
                f"{path}: unit={unit!r} needs text; token files have their own units"
            )
        options.pop("detokenize", None)
        return cls.from_token_array(path, **options)  # type: ignore[misc]

    def describe(self) -> str:
        """Return the corpus in words, for people."""
        what = f"{self.unit}s of {self.window} tokens" if self.window else f"{self.unit}s"
        if not self.is_text:
            what = "token ids"
        first = f", first {self.max_units}" if self.max_units else ""
        return f"{self.source.describe()}, {what}{first}"

    @property
    def is_text(self) -> bool:
        """Whether a tokenizer is needed."""
        return not isinstance(self.source, TokenSource)

    def fingerprint(self) -> str:
        """Return a hash of the source's contents and of every option."""
        options = [self.unit, self.window, self.max_units, self.detokenize, self.long]
        wikitext = isinstance(self.source, TokenSource) or self.source.wikitext
        settings = [self.source.fingerprint(), wikitext, *options]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def parts(self, unk: str | None = None) -> Iterator[Part]:
        """Yield the texts to tokenise; WikiText's `<unk>` is replaced by `unk` if given."""
        assert not isinstance(self.source, TokenSource)
        cut = unit_rule(self.unit, self.source.wikitext, self.detokenize)
        replace = self.source.wikitext and unk not in (None, "<unk>")
        for line, new, done in self.source.pieces():
            for text in cut(line):
                text = text.replace("<unk>", unk or "") if replace else text
                # A window's lines are tokenised one by one; the newline keeps them apart.
                joined = self.unit == "window" and not new
                yield Part("\n" + text if joined else text, new, done)
                new = False


def _guess_format(path: Path) -> str:
    name = path.with_suffix("") if path.suffix in COMPRESSED else path
    for format, endings in FORMATS.items():
        if name.suffix in endings:
            return format
    known = ", ".join(ending for endings in FORMATS.values() for ending in endings)
    raise PyengineError(f"{path}: unknown ending (known: {known}); say format=...")
