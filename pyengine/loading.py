"""Loading a model: from a hub name, a local folder, or objects already in memory."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from pyengine import embedded
from pyengine.errors import PyengineError
from pyengine.families import FAMILIES, Family, family_of
from pyengine.layers import body_of
from pyengine.model_checks import check_direction, check_modules, check_weights
from pyengine.models import Model

# tf32 keeps float32 tensors and only allows the GPU to round the inputs of its products;
# float64 is for checking numbers: the search for trigger examples does not take it.
DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def load(
    source: "str | Path | PreTrainedModel | tuple[PreTrainedModel, Any] | Model",
    *,
    device: str = "auto",
    dtype: str | None = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load a model for extraction.

    Args:
        source: a hub name (`gpt2`), a local folder, `demo` (the embedded GPT-2), or
            `(hf_model, tokenizer)` already in memory; the tokenizer may be None.
        device: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1`. Objects stay where
            they are: `auto` or their own device.
        dtype: `float32` (default, canonical), `tf32`, `bfloat16`, `float16`, or `float64` (for
            checking readouts; not for trigger examples). Objects keep theirs.
        revision: branch, tag or commit of a hub model.
        attn_implementation: passed on to transformers; None takes its default.
        trust_remote_code: run code that comes with a hub model. Never on by itself.

    Raises:
        PyengineError: for an unknown architecture, a folder that is not a model, missing or NaN
            weights, a slow tokenizer, an unknown dtype or device.
    """
    if isinstance(source, Model):
        return source
    if dtype is not None and dtype not in DTYPES:
        raise PyengineError(f"unknown dtype {dtype!r}; known are: {', '.join(DTYPES)}")
    if isinstance(source, (str, Path)):
        model = _load_pretrained(
            str(source),
            device,
            dtype or "float32",
            revision,
            attn_implementation,
            trust_remote_code,
        )
    else:
        hf, tokenizer = source if isinstance(source, tuple) else (source, None)
        hf = getattr(hf, "_orig_mod", hf)  # what torch.compile wrapped; it is run uncompiled
        model = _wrap_objects(hf, tokenizer, device, dtype)
    check_direction(model)
    check_weights(model)
    return model


def resolve_device(device: str) -> torch.device:
    """Turn a device name into a device that exists.

    Raises:
        PyengineError: if it is unknown or absent.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise PyengineError(f"unknown device {device!r}; use auto, cpu or cuda[:n]") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise PyengineError(f"device {device!r} asked for, but torch sees no CUDA device")
    if resolved.type not in ("cpu", "cuda"):
        raise PyengineError(f"device {device!r} is not supported; use auto, cpu or cuda[:n]")
    return resolved


def _load_pretrained(
    name: str,
    device: str,
    dtype: str,
    revision: str | None,
    attn_implementation: str | None,
    trust_remote_code: bool,
) -> Model:
    target = resolve_device(device)
    if dtype == "tf32" and target.type != "cuda":
        raise PyengineError("dtype tf32 needs a CUDA device; use float32 on the CPU")
    path = str(embedded.MODEL) if name == "demo" else name
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(path, **options)
    except (OSError, ValueError, KeyError) as error:
        raise _unloadable(name, error) from error
    family = family_of(config)
    try:
        with quiet():
            hf, info = _model_class(config, family).from_pretrained(
                path,
                config=config,
                dtype=DTYPES[dtype],
                attn_implementation=attn_implementation,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # transformers raises many types for a broken folder
        raise _unloadable(name, error) from error
    _check_complete(name, hf, info)
    tokenizer = _load_tokenizer(name, path, options)
    absent = tuple(sorted(info.get("missing_keys", ())))
    return Model(hf.eval().to(target), tokenizer, family, name, revision, dtype, absent)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and reports off stderr: what matters in them is checked here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _unloadable(name: str, error: Exception) -> PyengineError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    known = ", ".join(sorted(FAMILIES))
    if isinstance(error, ValueError) and "model type" in str(error):
        return PyengineError(f"cannot load {name}: {reason} (known architectures: {known})")
    return PyengineError(
        f"cannot load model {name!r}: {reason} (expected 'demo', a hub name or a folder with "
        "config.json and model.safetensors)"
    )


def _model_class(config: Any, family: Family) -> Any:
    """Prefer the class that the checkpoint names where it has no head to lose (BertModel, ...)."""
    for architecture in getattr(config, "architectures", None) or ():
        if architecture.endswith(("Model", "EncoderModel")) and hasattr(transformers, architecture):
            return getattr(transformers, architecture)
    return getattr(transformers, family.auto_class)


def _check_complete(name: str, hf: PreTrainedModel, info: dict[str, Any]) -> None:
    body = f"{hf.base_model_prefix}."
    whole = body_of(hf) is hf
    missing = [
        key
        for key in info.get("missing_keys", ())
        if (whole or key.startswith(body)) and "pooler" not in key
    ]
    if missing:
        raise PyengineError(f"the weights of {name} lack {len(missing)} tensors: {missing[0]}, ...")


def _load_tokenizer(
    name: str, path: str, options: dict[str, Any]
) -> PreTrainedTokenizerBase | None:
    if Path(path).is_dir() and not _has_tokenizer(Path(path)):
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    except Exception as error:
        raise PyengineError(f"cannot load the tokenizer of {name}: {_first_line(error)}") from error
    return _checked_tokenizer(tokenizer, name)


def _has_tokenizer(folder: Path) -> bool:
    names = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
    return any((folder / file).exists() for file in names)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _checked_tokenizer(tokenizer: Any, name: str) -> PreTrainedTokenizerBase:
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise PyengineError(
            f"the tokenizer of {name} is a slow one ({type(tokenizer).__name__}); "
            "convert it to a fast one with save_pretrained of its Fast class"
        )
    return tokenizer


def _wrap_objects(hf: Any, tokenizer: Any, device: str, dtype: str | None) -> Model:
    if not isinstance(hf, PreTrainedModel):
        raise PyengineError(
            f"expected a Hugging Face model, got {type(hf).__name__}; give the model it wraps"
        )
    check_modules(hf)
    family = family_of(hf.config)
    parameters = list(hf.parameters())
    devices = {parameter.device for parameter in parameters}
    if len(devices) > 1:
        raise PyengineError(f"the model is spread over {len(devices)} devices; put it on one")
    here = devices.pop()
    if here.type not in ("cpu", "cuda"):
        raise PyengineError(f"the model is on device {here}; move it to cpu or cuda first")
    if device != "auto" and torch.device(device).type != here.type:
        raise PyengineError(
            f"the model is on {here}, not on {device}; move it or say device='auto'"
        )
    # T5 in float16 keeps some weights in float32: the dtype is that of most parameters.
    own = str(hf.dtype).removeprefix("torch.")
    if own not in DTYPES:
        raise PyengineError(f"the model's dtype {own} is not one of {', '.join(DTYPES)}")
    if dtype is not None and str(DTYPES[dtype]).removeprefix("torch.") != own:
        raise PyengineError(f"the model is in {own}, not in {dtype}; convert it before loading")
    if tokenizer is not None:
        tokenizer = _checked_tokenizer(tokenizer, type(hf).__name__)
    name = getattr(hf.config, "_name_or_path", "") or type(hf).__name__
    return Model(hf, tokenizer, family, name, None, dtype or own)
