"""One fine-tuning: transformers' Trainer on a body with a classifier, by a seed."""

import contextlib
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers.utils import is_accelerate_available

from pyengine.checks import check_count
from pyengine.errors import PyengineError
from pyengine.heads.finetune_data import Row, collated
from pyengine.heads.finetune_model import PooledClassifier
from pyengine.loading import quiet
from pyengine.models import Model
from pyengine.precision import precision


@dataclass(frozen=True)
class FinetuneSettings:
    """What decides a fine-tuning beside its model, data, representation and seed.

    Attributes:
        learning_rate: of AdamW's first step; it falls linearly to 0.
        batch_size: rows per step.
        epochs: how often every row is seen.
        max_length: tokens of a row, special ones included; never more than the model reads.
        dropout: before the last linear layer; the body keeps its own.
        weight_decay: of AdamW, but for biases and norms.
    """

    learning_rate: float = 2e-5
    batch_size: int = 32
    epochs: int = 3
    max_length: int = 128
    dropout: float = 0.1
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "max_length"):
            check_count(name, getattr(self, name))
        if not self.learning_rate > 0 or not self.weight_decay >= 0 or not 0 <= self.dropout < 1:
            raise PyengineError(
                "learning_rate must be above 0, weight_decay at least 0, dropout in [0, 1)"
            )


def check_trainable(model: Model) -> None:
    """Refuse what Trainer cannot train.

    Raises:
        PyengineError: if accelerate is missing, weights are not float32, or the device is not the
            CPU or the first GPU.
    """
    if not is_accelerate_available():
        raise PyengineError(
            "fine-tuning needs accelerate: pip install 'pyengine[finetune]' (or accelerate>=1.1)"
        )
    if next(model.body.parameters()).dtype != torch.float32:
        raise PyengineError(f"fine-tuning needs float32 weights, not {model.dtype}")
    if model.device.index:
        raise PyengineError(
            f"transformers' Trainer takes the first GPU, not {model.device}; choose it with "
            "CUDA_VISIBLE_DEVICES"
        )


def build(
    make: Callable[[], PooledClassifier], seed: int, device: torch.device
) -> PooledClassifier:
    """Make a classifier whose initial weights follow from the seed alone."""
    with _own_random_numbers(device):
        torch.manual_seed(seed)
        return make()


def train(
    module: PooledClassifier,
    rows: Sequence[Row],
    model: Model,
    settings: FinetuneSettings,
    seed: int,
    on_step: Callable[[int, int], None] | None = None,
) -> None:
    """Train a classifier in place; on the CPU the same seed gives the same bits.

    Nothing is written: no checkpoint, no log. The caller's random numbers go on as before.

    Args:
        module: on the model's device.
        rows: with labels.
        model: gives the padding token, the device and the precision.
        settings: as given.
        seed: of the order of rows and of dropout.
        on_step: called with the steps done and those in all.
    """
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    class Steps(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if on_step is not None:
                on_step(state.global_step, state.max_steps)

    with (
        tempfile.TemporaryDirectory() as folder,
        quiet(),
        _own_random_numbers(model.device),
        precision(model.dtype),
    ):
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            num_train_epochs=settings.epochs,
            weight_decay=settings.weight_decay,
            lr_scheduler_type="linear",
            optim="adamw_torch",
            seed=seed,
            data_seed=seed,
            save_strategy="no",
            logging_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=model.device.type == "cpu",
            dataloader_pin_memory=model.device.type == "cuda",
        )
        if arguments.n_gpu > 1:
            arguments._n_gpu = 1  # else it would wrap the module in DataParallel
        trainer = Trainer(
            module,
            arguments,
            data_collator=partial(collated, pad_id=model.pad_id),
            train_dataset=list(rows),
            callbacks=[Steps()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    module.zero_grad(set_to_none=True)
    module.eval()


@contextlib.contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    """Put every generator back that Trainer seeds."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
