"""What decides the result of `cache_activations`, checked, and the room that it takes."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pyengine.checks import check_choice, check_count
from pyengine.engine import BATCH_TOKENS, BLOCK_TOKENS
from pyengine.errors import PyengineError
from pyengine.models import Model
from pyengine.site_names import Names, resolve
from pyengine.sites import Site

SAVE_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# A block is in memory as a whole, and is what a kill costs; below the least number of tokens the
# model would run on too few units at once.
BLOCK_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}
LEAST_BLOCK_TOKENS = 512

# What a row of what is kept is of; what there may be less of where the rows take too much room.
TOKENS, SENTENCES = "tokens", "sentences"
_FEWER = {TOKENS: "units (--max-units) or sites", SENTENCES: "tasks or locations"}


@dataclass(frozen=True)
class CacheSettings:
    """What decides the result beside the sites; as the arguments of `cache_activations`.

    Attributes:
        save_dtype: a key of `SAVE_DTYPES`; None keeps each site's own.
        bos: put the BOS token before each unit.
        batch_tokens: tokens per batch, padding included.
        block_tokens: tokens per block; None: as many as fit into a block's memory.
    """

    save_dtype: str | None
    bos: bool
    batch_tokens: int
    block_tokens: int | None

    @classmethod
    def checked(
        cls,
        model: Model,
        save_dtype: str | None,
        bos: bool,
        batch_tokens: int | None,
        block_tokens: int | None,
    ) -> "CacheSettings":
        """Check the settings and fill in a default.

        Raises:
            PyengineError: naming the first setting that cannot be.
        """
        if save_dtype is not None:
            check_choice("save_dtype", save_dtype, [*SAVE_DTYPES])
        check_count("batch_tokens", batch_tokens)
        check_count("block_tokens", block_tokens)
        batch = BATCH_TOKENS[model.device.type] if batch_tokens is None else batch_tokens
        return cls(save_dtype, bos, batch, block_tokens)


@dataclass(frozen=True)
class Layout:
    """What is kept of each token.

    Attributes:
        shapes: by site, without the axis of tokens.
        dtypes: by site.
    """

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]

    @property
    def token_bytes(self) -> int:
        """Bytes per token."""
        return sum(
            math.prod(self.shapes[name]) * self.dtypes[name].itemsize for name in self.shapes
        )

    def block_tokens(self, device: str) -> int:
        """Return how many tokens make a block, unless it is told."""
        fitting = BLOCK_BYTES[device] // self.token_bytes
        return min(BLOCK_TOKENS[device], max(LEAST_BLOCK_TOKENS, fitting))

    def question(self) -> dict[str, Any]:
        """Return what the manifest says."""
        return {
            "sites": [*self.shapes],
            "shapes": [list(shape) for shape in self.shapes.values()],
            "dtypes": [str(dtype).removeprefix("torch.") for dtype in self.dtypes.values()],
        }


@dataclass(frozen=True)
class DiskNeed:
    """What a pass will write.

    Attributes:
        size: tokens, or sentences, of all blocks asked for.
        n_bytes: of all of them.
        left: bytes of the blocks that are not there yet.
        free: bytes that the file system has.
        unit: what `size` counts, `tokens` or `sentences`.
    """

    size: int
    n_bytes: int
    left: int
    free: int
    unit: str = TOKENS

    @classmethod
    def of(
        cls, folder: Path, unit_bytes: int, size: int, n_left: int, unit: str = TOKENS
    ) -> "DiskNeed":
        """Compute the need of some tokens or sentences, of which `n_left` are not written yet."""
        at = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(at).free
        return cls(size, size * unit_bytes, n_left * unit_bytes, free, unit)

    def check(self, folder: Path) -> None:
        """Refuse what does not fit.

        Raises:
            PyengineError: with what would help.
        """
        if self.left > self.free:
            raise PyengineError(
                f"{folder} would need {size_text(self.left)} more, and its file system has "
                f"{size_text(self.free)} left; take fewer {_FEWER[self.unit]}, a smaller "
                "--save-dtype, or another file system"
            )


def token_sites(model: Model, names: Names) -> list[Site]:
    """Find sites that have one row per token, and that the pass over a corpus computes.

    Patterns and functions stand for those only.

    Raises:
        PyengineError: for another one that is named, or if none is left.
    """
    listed = (
        [names] if isinstance(names, str) else [] if names is None or callable(names) else names
    )
    for name in listed:
        found = resolve(model, name)
        reasons = [_not_kept(site) for site in found]
        if all(reasons):
            raise PyengineError(f"{found[0].name} {reasons[0]}")
    sites = [site for site in resolve(model, names) if not _not_kept(site)]
    if not sites:
        raise PyengineError("no sites are named; name some, as in names=['blocks.*.mlp.hook_post']")
    return sites


def _not_kept(site: Site) -> str | None:
    """Say why a pass over a corpus does not keep a site."""
    if site.in_head:
        reason = "lies in the output head, which does not run over a corpus"
    elif site.shape in ("BHTS", "TSH"):
        reason = "has no row per token, hence is not kept over a corpus"
    else:
        return None
    return f"{reason}; run_with_cache (--text) keeps it"


def size_text(n_bytes: float) -> str:
    """Write 1234567 as `1.23 MB`."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"
