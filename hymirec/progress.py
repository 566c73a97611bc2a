"""What a training tells while it runs: a line an epoch, and lines in between where epochs are long.

Only the first process speaks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hymirec.long_work import SECONDS_BETWEEN_LINES, duration

log = logging.getLogger(__name__)

SELECTION_METRIC = "N@10"
"""What early stopping watches, on validation."""

LogMetrics = Callable[[Mapping[str, float], int], None]
"""Called with metrics and the training step they belong to."""


class Progress(TrainerCallback):
    """Lines for people, and the metrics to whoever keeps them."""

    def __init__(self, name: str, log_metrics: LogMetrics, steps_per_epoch: int) -> None:
        self.name = name
        self.log_metrics = log_metrics
        self.steps_per_epoch = steps_per_epoch
        self._loss: Tensor = torch.zeros(())
        self._targets: Tensor = torch.zeros(())

    def count(self, loss: Tensor, targets: Tensor) -> None:
        """Take in the loss and the number of targets of a step; nothing waits for a device."""
        self._loss = self._loss.to(loss.device) + loss
        self._targets = self._targets.to(targets.device) + targets

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock, after the steps that a resumed run has behind it."""
        self._started = time.monotonic()
        self._first_step = state.global_step
        self._restart_line(state)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the validation before out of the epoch's throughput."""
        self._restart_line(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say where a long epoch is."""
        step = state.global_step % self.steps_per_epoch
        if not step or time.monotonic() - self._line_started < SECONDS_BETWEEN_LINES:
            return
        if state.is_world_process_zero:
            log.info(
                "%s: epoch %d/%d, step %d/%d, loss %.3f, %s",
                self.name, state.global_step // self.steps_per_epoch + 1, state.num_train_epochs,
                step, self.steps_per_epoch,
                self._loss.item() / (state.global_step - self._line_step), self._pace(state),
            )  # fmt: skip
        self._restart_line(state)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the throughput before validation takes its time."""
        self._epoch_pace = self._pace(state)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Report the epoch."""
        if not state.is_world_process_zero:
            return
        found, best = _validation(metrics), best_validation(state)
        loss = epoch_loss(state, self.steps_per_epoch)
        log.info(
            "%s: epoch %d/%d, loss %.3f, validation %s %.4f (best %.4f), %s",
            self.name, state.global_step // self.steps_per_epoch, state.num_train_epochs, loss,
            SELECTION_METRIC, found[SELECTION_METRIC], best[SELECTION_METRIC], self._epoch_pace,
        )  # fmt: skip
        values = {f"{self.name}/validation_{key}": value for key, value in found.items()}
        self.log_metrics({f"{self.name}/loss": loss, **values}, state.global_step)

    def _restart_line(self, state: TrainerState) -> None:
        self._line_started = time.monotonic()
        self._line_step = state.global_step
        self._loss = torch.zeros_like(self._loss)
        self._targets = torch.zeros_like(self._targets)

    def _pace(self, state: TrainerState) -> str:
        """Throughput since the last line, and the time left at the mean speed of this call."""
        now = time.monotonic()
        rate = self._targets.item() / max(now - self._line_started, 1e-9)
        done = max(1, state.global_step - self._first_step)
        left = (now - self._started) / done * (state.max_steps - state.global_step)
        return f"{rate:,.0f} targets/s, at most {duration(left)} left"


def epoch_loss(state: TrainerState, steps_per_epoch: int) -> float:
    """Mean loss of the epoch that ends at the current step.

    The log has the mean loss since the entry before it; there is one at every checkpoint, so that
    an epoch interrupted and resumed has the loss it would have had.
    """
    begun = state.global_step - steps_per_epoch
    entries = [
        (entry["step"], entry["loss"])
        for entry in state.log_history
        if "loss" in entry and entry["step"] > begun
    ]
    total, before = 0.0, begun
    for step, loss in entries:
        total += loss * (step - before)
        before = step
    return total / steps_per_epoch


def best_validation(state: TrainerState) -> dict[str, float]:
    """Metrics of the best validation so far, those before an interruption included."""
    validations = [entry for entry in state.log_history if f"eval_{SELECTION_METRIC}" in entry]
    return _validation(max(validations, key=lambda entry: entry[f"eval_{SELECTION_METRIC}"]))


def _validation(entry: Mapping[str, float]) -> dict[str, float]:
    return {
        key.removeprefix("eval_"): value for key, value in entry.items() if key.startswith("eval_")
    }
