"""From token ids to text, with the tokenizer that a run carries along."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from pyengine.errors import PyengineError
from pyengine.files import atomic_write_text

FILE = "tokenizer.json"

# Word pieces that decoders write without a space before.
CLOSING = frozenset(".,;:!?)]}%'")


@dataclass(frozen=True)
class TokenText:
    """Decodes token ids; without a tokenizer it shows the ids themselves."""

    tokenizer: Tokenizer | None

    @classmethod
    def of(cls, tokenizer: Any) -> "TokenText":
        """Take the Rust tokenizer out of a Hugging Face one (or None)."""
        return cls(None if tokenizer is None else tokenizer.backend_tokenizer)

    @classmethod
    def load(cls, folder: Path) -> "TokenText":
        """Read the tokenizer of a run directory, if it has one.

        Raises:
            PyengineError: if the file is damaged.
        """
        path = folder / FILE
        if not path.exists():
            return cls(None)
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises bare Exception
            raise PyengineError(f"{path} is damaged: {error}") from error

    def save(self, folder: Path) -> str | None:
        """Write the tokenizer into a run directory; return the file's name, None without one."""
        if self.tokenizer is None:
            return None
        atomic_write_text(folder / FILE, self.tokenizer.to_str())
        return FILE

    def decode(self, ids: list[int]) -> str:
        """Return the text of a token sequence, special tokens included, without outer spaces."""
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        return self.tokenizer.decode(ids, skip_special_tokens=False).strip()

    def decode_many(self, sequences: list[list[int]]) -> list[str]:
        """Decode many token sequences at once, in parallel."""
        if self.tokenizer is None:
            return [self.decode(ids) for ids in sequences]
        texts = self.tokenizer.decode_batch(sequences, skip_special_tokens=False)
        return [text.strip() for text in texts]

    def token(self, token: int) -> str:
        """Return the text of one token as it stands in a sentence, with its leading space."""
        if self.tokenizer is None:
            return f" {token}"
        text = self.tokenizer.decode([token], skip_special_tokens=False)
        piece = self.tokenizer.id_to_token(token) or ""
        if piece.startswith("▁"):
            return f" {text.strip()}"
        if piece.startswith("##"):
            return piece[2:]
        if _is_byte_level(self.tokenizer) or text in CLOSING:
            return text
        return f" {text}"


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    return "ByteLevel" in str(tokenizer.decoder)
