"""`pyengine heads encode`: vectors of sentences, from chosen heads."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyengine.cli import corpus_options as given
from pyengine.cli.display import err, progress
from pyengine.cli.heads_options import WhereOption, open_results
from pyengine.errors import Interrupted, PyengineError

if TYPE_CHECKING:
    import numpy as np

    from pyengine.heads.results import HeadResults
    from pyengine.heads.sentence_encoder import SentenceEncoder

FORMATS = (".safetensors", ".npy")
TENSOR = "vectors"


def encode(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="Name, folder, 'demo'; or what --save wrote.")
    ],
    texts: Annotated[
        Path | None, typer.Argument(help="Text file, one sentence a line; .gz and .zst too.")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option("--out", help=".safetensors or .npy, a row per line.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Results of `pyengine heads probe`: the best heads.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Whose best heads.")] = None,
    n: Annotated[
        int | None,
        typer.Option(min=1, help="How many; default what `heads concat` found best on dev."),
    ] = None,
    where: WhereOption = None,
    heads: Annotated[
        str | None, typer.Option(help="Heads by hand, as layer.head: 8.3,0.7; 8 is the layer's.")
    ] = None,
    pooling: Annotated[
        str, typer.Option(help="With --heads: auto, first, last, mean or pad.")
    ] = "auto",
    location: Annotated[
        str, typer.Option(help="Where they are read: head, cross, block, ffn or neurons.")
    ] = "head",
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale vectors to length 1.")
    ] = False,
    save: Annotated[
        Path | None, typer.Option(help="Folder to save the encoder in, to be given as MODEL.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Sentences of the greatest length in a batch.")
    ] = 32,
    dtype: given.ReadoutDtypeOption = "float32",
    device: given.DeviceOption = "auto",
    revision: given.RevisionOption = None,
    trust_remote_code: given.TrustOption = False,
    threads: given.ThreadsOption = None,
    as_json: given.SummaryOption = False,
) -> None:
    """Turn sentences into vectors: the contexts of some heads side by side.

    Example: pyengine heads encode gpt2 lines.txt --results runs/results --task TREC --n 12
    --out vectors.safetensors --save runs/encoder
    """
    _check_usage(texts, vectors, save)
    given.set_threads(threads)
    load_settings = {
        "device": device,
        "dtype": dtype,
        "revision": revision,
        "trust_remote_code": trust_remote_code,
    }
    saved = _is_encoder(source)
    if sum((saved, results is not None, heads is not None)) != 1:
        raise typer.BadParameter("give --results with --task, or --heads, or a saved encoder")
    if saved:
        encoder = _saved(source, device, normalize)
    elif results is not None:
        asked = {"n": n, "location": location, "normalize": normalize}
        encoder = _best(source, load_settings, open_results(results, where), task, asked)
    else:
        how = {"pooling": pooling, "location": location, "normalize": normalize}
        encoder = _by_hand(source, load_settings, parse_heads(str(heads)), how)
    if save is not None:
        encoder.save(save)
        err.print(f"encoder → {save}")
    n_texts = 0
    if texts is not None and vectors is not None:
        lines = _lines(texts)
        found, n_texts = _encoded(encoder, lines, batch_size), len(lines)
        _write(vectors, found)
        err.print(f"{n_texts:,} × {encoder.width} → {vectors}")
    if as_json:
        record = {"heads": encoder.heads, "width": encoder.width, "n_texts": n_texts}
        print(json.dumps(record | {"location": encoder.location, "pooling": encoder.pooling}))


def parse_heads(text: str) -> list[tuple[int, int]]:
    """Parse `8.3,0.7,5` into [(8, 3), (0, 7), (5, -1)].

    Raises:
        typer.BadParameter: if it is not of that form.
    """
    found = []
    for one in text.split(","):
        layer, dot, head = one.strip().partition(".")
        if not layer.isdigit() or (dot and not head.isdigit()):
            raise typer.BadParameter(f"{text!r} is not a list like 8.3,0.7 (layer.head)")
        found.append((int(layer), int(head) if dot else -1))
    return found


def _check_usage(texts: Path | None, vectors: Path | None, save: Path | None) -> None:
    if (texts is None) != (vectors is None):
        raise typer.BadParameter("texts and --out go together")
    if texts is None and save is None:
        raise typer.BadParameter("nothing to do: give texts and --out, or --save")
    if vectors is not None and vectors.suffix not in FORMATS:
        raise typer.BadParameter(f"--out ends in {' or '.join(FORMATS)}, not {vectors.name!r}")


def _is_encoder(source: str) -> bool:
    from pyengine.heads.encoder_file import DESCRIPTION

    return (Path(source) / DESCRIPTION).is_file()


def _saved(source: str, device: str, normalize: bool) -> "SentenceEncoder":
    from pyengine.heads.sentence_encoder import SentenceEncoder

    encoder = SentenceEncoder.load(source, device=device)
    encoder.normalize |= normalize
    return encoder


def _best(
    source: str,
    load_settings: dict[str, Any],
    results: "HeadResults",
    task: str | None,
    asked: dict[str, Any],
) -> "SentenceEncoder":
    from pyengine.heads.sentence_encoder import SentenceEncoder
    from pyengine.loading import load

    if task is None:
        raise typer.BadParameter("--results needs --task: whose best heads?")
    return SentenceEncoder.from_results(load(source, **load_settings), results, task, **asked)


def _by_hand(
    source: str, load_settings: dict[str, Any], heads: list[tuple[int, int]], how: dict[str, Any]
) -> "SentenceEncoder":
    from pyengine.heads.sentence_encoder import SentenceEncoder
    from pyengine.loading import load

    return SentenceEncoder(load(source, **load_settings), heads, **how)


def _lines(path: Path) -> list[str]:
    from pyengine.lines import read_lines

    found = [line.rstrip("\r\n") for line, _, _ in read_lines(path)]
    if not found:
        raise PyengineError(f"{path} is empty: there is nothing to encode")
    return found


def _encoded(encoder: "SentenceEncoder", lines: list[str], batch_size: int) -> "np.ndarray":
    try:
        with progress() as advance:
            found: np.ndarray = encoder.encode(
                lines,
                batch_size,
                on_progress=lambda done, total: advance("encoding", done, total),
            )
    except KeyboardInterrupt as stop:
        raise Interrupted("interrupted; nothing is written: run the same command again") from stop
    return found


def _write(path: Path, vectors: "np.ndarray") -> None:
    import numpy as np
    import torch

    from pyengine.cache_files import write_tensors
    from pyengine.files import atomic_write

    if path.suffix == ".safetensors":
        write_tensors(path, {TENSOR: torch.from_numpy(vectors)})
        return

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.save(stream, vectors, allow_pickle=False)

    atomic_write(path, write)
