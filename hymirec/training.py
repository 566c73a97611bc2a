"""One trainer for every model, on `transformers.Trainer`.

Checkpoints, resuming, learning-rate schedule, mixed precision and several devices are the
library's; ours are what a recommender needs on top: full-ranking validation after each epoch, one
line of progress an epoch, and metrics handed to a callback.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint, set_seed

from hymirec.errors import HymirecError

log = logging.getLogger(__name__)

SELECTION_METRIC = "N@10"
"""What early stopping watches, on validation."""

LogMetrics = Callable[[Mapping[str, float], int], None]
"""Called with metrics and the training step they belong to."""


class TrainingConfig(BaseModel):
    """Settings of one training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_epochs: PositiveInt
    max_steps: PositiveInt = 5000
    """Fewer epochs, though at least one, where so many would take more steps than this."""
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.01
    warmup_share: float = Field(0.05, ge=0, le=1)
    """Of all steps; the rate then falls to zero along a cosine."""
    patience: PositiveInt = 5
    """Epochs without a better validation after which training stops."""
    seed: int = 0


def train(
    model: nn.Module,
    examples: Dataset[Any],
    collate: Callable[[list[Any]], dict[str, Tensor]],
    validate: Callable[[], dict[str, float]],
    config: TrainingConfig,
    *,
    directory: Path,
    name: str,
    log_metrics: LogMetrics = lambda metrics, step: None,
) -> dict[str, float]:
    """Train a model in place and leave it with the weights that validated best.

    An interrupted call leaves its checkpoints under `directory`; the same call resumes from the
    last one.

    Args:
        model: its `forward(**batch)` returns a mapping with `loss`.
        examples: a map-style dataset.
        collate: makes a batch of examples.
        validate: returns metrics of the model as it stands, `SELECTION_METRIC` among them.
        config: settings.
        directory: for checkpoints; kept by the caller.
        name: in progress lines and as prefix of metric names.
        log_metrics: called after every epoch.

    Returns:
        The validation metrics of the weights kept.

    Raises:
        HymirecError: the loss is not a number; the message names the step.
    """
    set_seed(config.seed)
    steps_per_epoch = math.ceil(len(examples) / config.batch_size)  # type: ignore[arg-type]
    num_epochs = max(1, min(config.num_epochs, config.max_steps // steps_per_epoch))
    arguments = TrainingArguments(
        output_dir=str(directory),
        num_train_epochs=num_epochs,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=int(config.warmup_share * num_epochs * steps_per_epoch),
        lr_scheduler_type="cosine",
        max_grad_norm=1.0,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        restore_callback_states_from_checkpoint=True,  # early stopping goes on counting
        metric_for_best_model=SELECTION_METRIC,
        greater_is_better=True,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=config.seed,
    )
    progress = _Progress(name, log_metrics, num_epochs)
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        eval_dataset=examples,  # asked for by the library; `evaluate` reads no batches
        data_collator=collate,
        callbacks=[EarlyStoppingCallback(config.patience), progress],
    )
    trainer.validate = validate
    for printer in ("PrinterCallback", "ProgressCallback"):
        for callback in list(trainer.callback_handler.callbacks):
            if type(callback).__name__ == printer:
                trainer.remove_callback(callback)
    directory.mkdir(parents=True, exist_ok=True)
    trainer.train(resume_from_checkpoint=_last_checkpoint(directory))
    model.to("cpu")  # where the trainer may have left it, later stages do not look
    return _best_validation(trainer.state)


def _last_checkpoint(directory: Path) -> str | None:
    """The last whole checkpoint, after removing any that a killed process left half written."""
    for checkpoint in directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        try:
            # The library writes this file last.
            json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
        except (OSError, ValueError):
            log.warning("checkpoint %s is half written: removing it", checkpoint)
            shutil.rmtree(checkpoint)
    return get_last_checkpoint(str(directory))


def _best_validation(state: TrainerState) -> dict[str, float]:
    """Metrics of the best validation so far, those before an interruption included."""
    validations = [entry for entry in state.log_history if f"eval_{SELECTION_METRIC}" in entry]
    return _validation(max(validations, key=lambda entry: entry[f"eval_{SELECTION_METRIC}"]))


def _validation(entry: Mapping[str, float]) -> dict[str, float]:
    return {
        key.removeprefix("eval_"): value for key, value in entry.items() if key.startswith("eval_")
    }


class _Trainer(Trainer):
    """The library's trainer with full-ranking validation in place of a loss on held-out batches."""

    validate: Callable[[], dict[str, float]]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate and tell the callbacks, as the library's own method does."""
        metrics = {f"eval_{name}": value for name, value in self.validate().items()}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Take the model's loss and refuse one that is not a number."""
        outputs = model(**inputs)
        if not torch.isfinite(outputs["loss"]):
            raise HymirecError(
                f"training: the loss is {outputs['loss'].item()} at step "
                f"{self.state.global_step + 1}; a lower learning rate may help"
            )
        return (outputs["loss"], outputs) if kwargs.get("return_outputs") else outputs["loss"]


class _Progress(TrainerCallback):
    """One line an epoch, and the metrics to whoever keeps them."""

    def __init__(self, name: str, log_metrics: LogMetrics, num_epochs: int) -> None:
        self.name = name
        self.log_metrics = log_metrics
        self.num_epochs = num_epochs
        self.loss = math.nan

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock, after the epochs that a resumed run has behind it."""
        self.started = time.monotonic()
        self.first_epoch = state.epoch or 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the epoch's mean loss."""
        self.loss = (logs or {}).get("loss", self.loss)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Report the epoch."""
        found, best = _validation(metrics), _best_validation(state)
        epoch = round(state.epoch or 0)
        seconds = time.monotonic() - self.started
        left = seconds / max(1, epoch - self.first_epoch) * (self.num_epochs - epoch)
        log.info(
            "%s: epoch %d/%d, loss %.3f, validation %s %.4f (best %.4f), at most %d s left",
            self.name, epoch, self.num_epochs, self.loss, SELECTION_METRIC,
            found[SELECTION_METRIC], best[SELECTION_METRIC], left,
        )  # fmt: skip
        values = {f"{self.name}/validation_{key}": value for key, value in found.items()}
        self.log_metrics({f"{self.name}/loss": self.loss, **values}, state.global_step)
