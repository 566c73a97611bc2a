"""One trainer for every model, on `transformers.Trainer`.

The optimizer, the learning-rate schedule, checkpoints, early stopping, mixed precision and several
processes are the library's. Ours is what makes the result depend on the settings alone, not on
interruptions or on how many processes share a batch (`hymirec.batches`), and what a recommender
needs on top: full-ranking validation after each epoch.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

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
from transformers.trainer_utils import set_seed

from hymirec import checkpoints
from hymirec.allocator import keep_freed_memory
from hymirec.averaging import Averages
from hymirec.batches import BatchLoader, SeededExamples, SharedBatches, seed_step
from hymirec.errors import DivergedError, HymirecError, UsageError
from hymirec.processes import (
    num_processes,
    on_main,
    process_index,
    share_buffers,
    summed,
)
from hymirec.progress import SELECTION_METRIC, LogMetrics, Progress, best_validation

__all__ = ["SELECTION_METRIC", "LogMetrics", "TrainingConfig", "train"]

log = logging.getLogger(__name__)


class TrainingConfig(BaseModel):
    """Settings of one training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_epochs: PositiveInt
    """Passes over the examples."""
    max_steps: PositiveInt = 5000
    """Fewer epochs, though at least one, where so many would take more steps than this."""
    batch_size: PositiveInt = 64
    """Of one step, all processes together."""
    learning_rate: PositiveFloat = 1e-3
    """The highest."""
    weight_decay: NonNegativeFloat = 0.01
    """Of AdamW."""
    warmup_share: float = Field(0.05, ge=0, le=1)
    """Of all steps; the rate then falls to zero along a cosine."""
    averaging: float = Field(0.999, ge=0, lt=1)
    """Share that a step keeps of the average of the weights (`hymirec.averaging`), which is what is
    validated and kept; 0: the weights after the last step."""
    patience: PositiveInt = 5
    """Epochs without a better validation after which training stops."""
    seed: int = 0
    """Of all that is drawn."""
    checkpoint_steps: PositiveInt = 500
    """Within an epoch longer than this, a checkpoint every so many steps; one follows each epoch
    in any case."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 on a GPU that computes in it, fp32 elsewhere. Weights stay fp32."""

    def times_rate(self, factor: float) -> TrainingConfig:
        """The same with the learning rate multiplied."""
        return self.model_copy(update={"learning_rate": factor * self.learning_rate})


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

    An interrupted call, killed at whatever moment, leaves its checkpoints under `directory`; the
    same call goes on from the last one and ends with the weights an uninterrupted one has. A
    finished call repeated loads its result. `learning_rate` alone may differ from the earlier
    call's: the new one then counts from where training goes on.

    Under `torchrun` all processes call this alike and share every batch; the first one validates,
    logs and writes.

    Args:
        model: its `forward(**batch)` returns a mapping with `loss`, a mean, and `weight`, the
            number of targets it is a mean over. It draws from torch's global generator, and what
            all processes must draw alike before anything whose size differs between them.
        examples: a map-style dataset; may draw from torch's global generator (CPU).
        collate: makes a batch of examples.
        validate: returns metrics of the model as it stands, `SELECTION_METRIC` among them.
        config: settings.
        directory: for checkpoints; kept by the caller.
        name: in progress lines and as prefix of metric names.
        log_metrics: called after every epoch.

    Returns:
        The validation metrics of the weights kept.

    Raises:
        DivergedError: the loss or its gradient is not a finite number. The message names the
            step; no weight has been touched by it, and the last checkpoint is kept.
        UsageError: `directory` holds a training with other settings, or one that still runs; or
            the device cannot compute in the precision asked for.
    """
    # A data set by number has a length, which torch's type does not say.
    num_examples = len(examples)  # type: ignore[arg-type]
    steps_per_epoch = math.ceil(num_examples / config.batch_size)
    num_epochs = max(1, min(config.num_epochs, config.max_steps // steps_per_epoch))
    arguments = _library_settings(config, directory.resolve(), num_epochs, steps_per_epoch)
    settings = config.model_dump(mode="json") | {
        "num_examples": num_examples,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    with ExitStack() as held:
        on_main(lambda: held.enter_context(checkpoints.alone_in(directory)))
        on_main(
            lambda: checkpoints.check_settings(directory, settings, changeable=("learning_rate",))
        )
        kept = on_main(lambda: checkpoints.finished(directory))
        if kept is None:
            kept = _train(
                model, examples, collate, validate, config, arguments,
                name=name, log_metrics=log_metrics, steps_per_epoch=steps_per_epoch,
            )  # fmt: skip
            on_main(lambda: checkpoints.mark_finished(directory, *kept))
        else:
            log.info("%s: finished before, after %d steps", name, kept[0])
        step, validation = kept
        model.to("cpu")  # where the trainer may have left it, later stages do not look
        checkpoints.load_weights(model, directory, step)
    return validation


def _library_settings(
    config: TrainingConfig, directory: Path, num_epochs: int, steps_per_epoch: int
) -> TrainingArguments:
    on_gpu = torch.cuda.is_available()
    if config.precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported():
        raise UsageError(f"this GPU ({torch.cuda.get_device_name()}) does not compute in bf16")
    in_bf16 = config.precision == "bf16" or (
        config.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported()
    )
    arguments = TrainingArguments(
        output_dir=str(directory),
        use_cpu=not torch.accelerator.is_available(),
        num_train_epochs=num_epochs,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=int(config.warmup_share * num_epochs * steps_per_epoch),
        lr_scheduler_type="cosine",
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        bf16=in_bf16,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        restore_callback_states_from_checkpoint=True,  # early stopping goes on counting
        metric_for_best_model=SELECTION_METRIC,
        greater_is_better=True,
        # Buffers as large as the catalogue would travel in every step: `_Checkpoints` shares them.
        ddp_broadcast_buffers=False,
        remove_unused_columns=False,
        logging_nan_inf_filter=False,  # `_Trainer` stops instead
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        seed=config.seed,
    )
    # One process uses one GPU; the library would split its batches over all it sees.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _train(
    model: nn.Module,
    examples: Dataset[Any],
    collate: Callable[[list[Any]], dict[str, Tensor]],
    validate: Callable[[], dict[str, float]],
    config: TrainingConfig,
    arguments: TrainingArguments,
    *,
    name: str,
    log_metrics: LogMetrics,
    steps_per_epoch: int,
) -> tuple[int, dict[str, float]]:
    """Train until done; the step whose weights validated best, and that validation."""
    keep_freed_memory()
    set_seed(config.seed)
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=SeededExamples(examples, config.seed),
        eval_dataset=examples,  # asked for by the library; `evaluate` reads no batches
        data_collator=collate,
        callbacks=[
            EarlyStoppingCallback(config.patience),
            _Checkpoints(config.checkpoint_steps, steps_per_epoch),
            _LearningRate(config.learning_rate),
        ],
    )
    directory = Path(arguments.output_dir)
    resumed_from = on_main(lambda: checkpoints.last_checkpoint(directory))
    trainer.averages = Averages(model, config.averaging)  # by now the weights are on their device
    if resumed_from:
        trainer.averages.load(Path(resumed_from))
    trainer.add_callback(_Averaging(trainer.averages))
    trainer.name = name
    trainer.validate = validate
    trainer.progress = Progress(name, log_metrics, steps_per_epoch)
    trainer.add_callback(trainer.progress)
    trainer.batches = SharedBatches(
        len(examples),  # type: ignore[arg-type]  # as above
        config.batch_size,
        config.seed,
        process=process_index(),
        processes=num_processes(),
    )
    for printer in ("PrinterCallback", "ProgressCallback"):
        for callback in list(trainer.callback_handler.callbacks):
            if type(callback).__name__ == printer:
                trainer.remove_callback(callback)
    share_buffers(model)
    with warnings.catch_warnings():
        # The library has no other name yet for `ddp_broadcast_buffers`.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        trainer.train(resume_from_checkpoint=resumed_from)
    return trainer.state.best_global_step, best_validation(trainer.state)


class _Trainer(Trainer):
    """The library's trainer on shared, seeded batches, with full-ranking validation."""

    name: str
    validate: Callable[[], dict[str, float]]
    progress: Progress
    batches: SharedBatches
    averages: Averages

    def get_train_dataloader(self) -> BatchLoader:
        """This process's shares; the library's own way would repeat examples to even them out."""
        return BatchLoader(self.train_dataset, self.batches, self.data_collator)

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """This process's part of the loss of the whole batch.

        The library averages gradients over processes, so a process's mean loss counts by how many
        of the batch's targets it is a mean over.
        """
        step = self.state.global_step
        seed_step(self.args.seed, step, self.args.device)
        outputs = model(**inputs)
        if outputs.get("loss") is None or outputs.get("weight") is None:
            raise HymirecError(f"{self.name}: the model returned no `loss` with its `weight`")
        loss, weight = outputs["loss"], outputs["weight"].detach().float()
        if num_processes() > 1:
            if self.batches.is_idle(step):
                weight = torch.zeros_like(weight)
            total = summed(weight)
            loss = loss * (weight * num_processes() / total.clamp(min=1))
            mean = summed(loss.detach()) / num_processes()
        else:
            total, mean = weight, loss.detach()
        self._check_finite("loss", mean)
        self.progress.count(mean, total)
        return (loss, outputs) if kwargs.get("return_outputs") else loss

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clip as the library does, after all processes' gradients have come together."""
        norm = super()._clip_grad_norm(model)
        self._check_finite("gradient", norm)
        return norm

    def _check_finite(self, what: str, value: Tensor) -> None:
        if torch.isfinite(value):
            return
        directory = Path(self.args.output_dir)
        last = on_main(lambda: checkpoints.last_checkpoint(directory))
        kept = f"goes on from {Path(last).name}" if last else "begins anew"
        raise DivergedError(
            f"{self.name}: the {what} is {value.item()} at step {self.state.global_step + 1}; "
            f"a call with a lower learning rate {kept}"
        )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate and tell the callbacks, as the library's own method does."""
        with self.averages.in_place():
            found = on_main(self.validate)
        share_buffers(self.model)  # validation may have refreshed those of the first process
        metrics = {f"eval_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights and their averages, before the state that makes a checkpoint whole."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self.averages.save(Path(output_dir or self.args.output_dir))


class _Checkpoints(TrainerCallback):
    """Checkpoints within an epoch."""

    def __init__(self, checkpoint_steps: int, steps_per_epoch: int) -> None:
        self.checkpoint_steps = checkpoint_steps
        self.steps_per_epoch = steps_per_epoch

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Ask for a checkpoint, which holds the first process's buffers and the loss so far."""
        step = state.global_step
        # Never twice in one place: a kill while a whole one is written over would spoil it.
        if step % self.checkpoint_steps or step % self.steps_per_epoch == 0:
            return
        if model is not None:
            share_buffers(model)
        control.should_log = control.should_save = True


class _Averaging(TrainerCallback):
    """Takes the weights into their averages after each step."""

    def __init__(self, averages: Averages) -> None:
        self.averages = averages

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before a checkpoint of this step is written."""
        self.averages.update(state.global_step)


class _LearningRate(TrainerCallback):
    """Lets a resumed training take another learning rate than its checkpoint was made with."""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Scale what the checkpoint brought back."""
        schedule, optimizer = kwargs["lr_scheduler"], kwargs["optimizer"]
        (begun,) = set(schedule.base_lrs)
        if begun == self.learning_rate:
            return
        log.info("learning rate: %g from here on, %g before", self.learning_rate, begun)
        schedule.base_lrs = [self.learning_rate] * len(schedule.base_lrs)
        for group in optimizer.param_groups:
            group["lr"] *= self.learning_rate / begun
            group["initial_lr"] = self.learning_rate
