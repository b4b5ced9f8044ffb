"""Hugging Face's Trainer with our batches, our score and our reports."""

from __future__ import annotations

import mistral_ner.model.lora  # noqa: F401  before transformers' Trainer, which imports peft, too

# isort: split

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging

from mistral_ner.config.schema import TrainingConfig
from mistral_ner.model import save_weights
from mistral_ner.model.adapter import find_head_parameters
from mistral_ner.model.limits import find_limit
from mistral_ner.model.padding import mask_without_waiting
from mistral_ner.training.checkpoint import Progress
from mistral_ner.training.evaluate import Evaluation, MeanLoss
from mistral_ner.training.inputs.batches import ByLength, collate, pieces
from mistral_ner.training.memory import TrainingError, peak_on_card
from mistral_ner.training.parallel.ranks import Ranks
from mistral_ner.training.schedule import Schedule

log = logging.getLogger(__name__)

LENGTHS = "lengths"  # in a batch: tokens of each row, as numbers that stay on the host
MICRO_BATCH = "micro_batch"  # in a report: rows that went through the network at once, if fewer than the batch

Report = Callable[[int, dict[str, float]], bool | None]


class NerTrainer(Trainer):
    """A Trainer that evaluates by entity-level F1 over whole sentences and refuses a non-finite loss.

    Args:
        evaluation: what is scored.
        pad_id: the tokenizer's.
        micro_batch: rows that go through the network at once; a larger batch goes in pieces, whose gradients add up
            to those of the batch. None: the whole batch.
        seat: its place among the trainings that go through the network together; None: it is alone.
        ranks: this process's place among those that train this model together; None: it is the only one.
        planned_gb: memory that a step is expected to take, to compare with the GPU's; None: not known.
        head_lr_ratio: the head's learning rate over that of all other parameters.
        focal_gamma: how much less a word weighs in the loss that the model is sure of.
        kwargs: Trainer's own.
    """

    def __init__(
        self,
        *,
        evaluation: Evaluation,
        pad_id: int,
        micro_batch: int | None = None,
        seat: Any = None,
        ranks: Ranks | None = None,
        planned_gb: float | None = None,
        head_lr_ratio: float = 1.0,
        focal_gamma: float = 0.0,
        **kwargs: Any,
    ) -> None:
        positions = find_limit(getattr(kwargs["model"], "config", None))
        super().__init__(
            data_collator=lambda rows: {
                **collate(rows, pad_id, positions),
                LENGTHS: [len(row["input_ids"]) for row in rows],
            },
            compute_loss_func=partial(_mean_loss, gamma=focal_gamma),
            **kwargs,
        )
        self.remove_callback(PrinterCallback)  # the receiver of the reports prints them
        self.evaluation = evaluation
        self.pad_id = pad_id
        self.seat, self.ranks, self.planned_gb = seat, ranks, planned_gb
        self.head_lr_ratio, self.focal_gamma = head_lr_ratio, focal_gamma
        self.micro_batch = micro_batch or self.args.train_batch_size
        model: Any = self.model
        self._trained = [one for one in model.parameters() if one.requires_grad]
        self.trained_parameters = sum(one.numel() for one in self._trained)
        self._loss = torch.zeros((), device=self.args.device)  # summed since the last report

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of an epoch, in the order of :class:`ByLength`; Trainer tells it the epoch."""
        rows: Any = self.train_dataset
        size = self.args.train_batch_size
        loader = DataLoader(
            rows,
            size,
            sampler=ByLength(rows.lengths, size, int(self.args.data_seed or 0)),
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create Trainer's optimizer, in which the head's parameters have a learning rate of their own.

        With a ratio of 1 its groups stay as Trainer makes them, which checkpoints of earlier versions hold.
        """
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if is_new and self.head_lr_ratio != 1:
            trained: Any = self.model
            head = {id(one) for one in find_head_parameters(trained)}
            for group in list(optimizer.param_groups):
                own = [one for one in group["params"] if id(one) in head]
                group["params"] = [one for one in group["params"] if id(one) not in head]
                optimizer.add_param_group({**group, "params": own, "lr": group["lr"] * self.head_lr_ratio})
        return optimizer

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: nobody reads the count, and it would go through all parameters in every step."""
        return 0

    def save_model(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Write the trained weights for a checkpoint; Trainer adds the optimiser's and the schedule's state.

        Trainer's own method also writes a model card and its arguments, which takes longer than all the rest.
        """
        save_weights(self.model, str(output_dir or self.args.output_dir))  # type: ignore[arg-type]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Do a batch's forward and backward passes; the loss is summed on the device, so that no step waits for it."""
        loss = torch.zeros_like(self._loss)
        for piece in self._pieces(inputs, inputs.pop(LENGTHS)):
            if self.seat is None:
                piece["attention_mask"] = mask_without_waiting(model, piece["attention_mask"])
            loss += super().training_step(model, piece, num_items_in_batch).detach()
            if self.seat is not None:
                self.seat.backward()
        if self.ranks is not None and self.accelerator.sync_gradients:
            self.ranks.add_gradients(self._trained)
        self._loss += loss
        return loss

    def _pieces(self, inputs: dict[str, torch.Tensor], lengths: list[int]) -> Iterable[dict[str, torch.Tensor]]:
        if self.ranks is None:
            return pieces(inputs, lengths, self.micro_batch)
        self.ranks.draw_own(self.args.seed, self.state.global_step)
        each = min(self.micro_batch, math.ceil(len(lengths) / self.ranks.count))
        return self.ranks.share([*pieces(inputs, lengths, each)])

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a piece; with a seat its logits come from the pass, and gradients go as far as to them."""
        if self.seat is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return _sum_loss(self.seat.logits(inputs), inputs["labels"], self.focal_gamma) / num_items_in_batch

    def take_train_loss(self, steps: int) -> float:
        """Return the mean training loss of the last ``steps`` optimiser steps and start a new sum.

        Raises:
            TrainingError: it is NaN or infinite.
        """
        if self.ranks is not None:
            self.ranks.add(self._loss)
        mean = float(self._loss) / steps
        self._loss.zero_()
        if not math.isfinite(mean):
            raise TrainingError(
                f"non-finite training loss ({mean}) by step {self.state.global_step}; a smaller "
                f"training.learning_rate (now {self.args.learning_rate:g}) usually helps"
            )
        return mean

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return ``eval_`` loss, precision, recall and F1 of the evaluation split, overall and per type.

        A search for a small or a fast model can use three more: ``adapter_parameters``, the count of trained numbers
        (LoRA and head), ``eval_seconds``, the wall time of this evaluation, and on a GPU ``gpu_memory_gb``, the most
        that the process held since the report before, trials that share its passes included.
        """
        peak = peak_on_card()
        began = time.monotonic()
        model: Any = self.model
        model.eval()
        loss = MeanLoss()
        tags = self.evaluation.predict(model, self.pad_id, loss)
        scores = {"loss": loss.value, **self.evaluation.score(tags)}
        metrics = {f"eval_{name}": value for name, value in scores.items()}
        metrics["eval_seconds"] = round(time.monotonic() - began, 4)
        metrics["adapter_parameters"] = self.trained_parameters
        if peak is not None:
            metrics["gpu_memory_gb"] = round(peak, 3)
            if self.planned_gb is not None:
                log.info("%.1f GB of the GPU at the peak, planned: %.1f GB", peak, self.planned_gb)
        self.log(dict(metrics))  # a copy: log adds keys
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _mean_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int, gamma: float
) -> torch.Tensor:
    """Return a piece's share of the mean loss over all labelled tokens of an optimiser step.

    The network's own loss is the mean over the piece; Trainer would add up such means.
    """
    return _sum_loss(outputs.logits, labels, gamma) / num_items_in_batch


def _sum_loss(logits: torch.Tensor, labels: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return the sum of the focal loss over all labelled tokens; with a ``gamma`` of 0 it is the cross-entropy.

    A token's cross-entropy is weighted by (1 - p) ** gamma, where p is the probability of its label (Lin et al. 2017,
    https://arxiv.org/abs/1708.02002).

    Args:
        logits: [sentences, tokens, labels].
        labels: [sentences, tokens]; -100 where there is none.
        gamma: how much less a token weighs that the model is sure of.
    """
    flat = logits.flatten(0, 1).float(), labels.flatten()
    if not gamma:
        return torch.nn.functional.cross_entropy(*flat, ignore_index=-100, reduction="sum")
    losses = torch.nn.functional.cross_entropy(*flat, ignore_index=-100, reduction="none")
    # for a gamma under 1 the weight's slope is infinite at 0
    return ((-torch.expm1(-losses)).clamp_min(1e-6) ** gamma * losses).sum()


class Reporter(TrainerCallback):
    """Evaluates, saves and reports at the scheduled steps; the ``report`` callable may stop the training."""

    def __init__(self, schedule: Schedule, progress: Progress, report: Report | None, training: TrainingConfig) -> None:
        self.schedule, self.progress, self.report = schedule, progress, report
        self.training = training  # says which report is the last
        self.trainer: NerTrainer | None = None  # set later: Trainer needs its callbacks first
        self.metrics: dict[str, float] = {}
        self.train_loss = math.nan
        self.started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for an evaluation and a checkpoint when a report is due."""
        if state.global_step in self.schedule.report_steps:
            assert self.trainer is not None
            before = int(self.progress.reports[-1]["step"]) if self.progress.reports else 0
            self.train_loss = self.trainer.take_train_loss(state.global_step - before)
            control.should_evaluate = control.should_save = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the metrics until their checkpoint is on disk."""
        metrics: dict[str, float] = kwargs["metrics"]
        value = metrics.get(self.progress.metric)
        if value is None:
            raise TrainingError(
                f"no report has the metric {self.progress.metric!r}; there are: {', '.join(sorted(metrics))}; "
                f"fix: hyperopt.metric=eval_f1"
            )
        if not math.isfinite(value):
            raise TrainingError(f"non-finite {self.progress.metric} ({value}) at step {state.global_step}")
        self.metrics = metrics
        assert self.trainer is not None
        schedule: Any = self.trainer.lr_scheduler
        self.trainer.log({"loss": self.train_loss, "learning_rate": schedule.get_last_lr()[0]})  # for trackers

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Record the report, then hand it on; a recorded report is never made again."""
        number = len(self.progress.reports) + 1
        row = {
            "report": number,
            "step": state.global_step,
            "epoch": round(float(state.epoch or 0), 4),
            **self.metrics,
            "train_loss": self.train_loss,
            **self._micro_batch_entry(),
            "time_s": round(time.monotonic() - self.started, 3),
        }
        self.progress.add(row, f"checkpoint-{state.global_step}")
        self.started = time.monotonic()
        if number == max(2, math.ceil(len(self.schedule.report_steps) / 2)):
            self._warn_without_entities()
        stop = self.report is not None and self.report(number, {**self.metrics, "train_loss": self.train_loss})
        over = bool(stop) or self.progress.is_over(self.training)
        assert self.trainer is not None
        if self.trainer.ranks is not None:
            over = self.trainer.ranks.agree(over)
        if over:
            control.should_training_stop = True

    def _warn_without_entities(self) -> None:
        """Say the likely cause if no report of the first half, of two at least, found an entity."""
        reports = self.progress.reports
        if any(row["eval_f1"] > 0 for row in reports):
            return
        assert self.trainer is not None
        first, last, rate = reports[0]["train_loss"], reports[-1]["train_loss"], self.trainer.args.learning_rate
        cause = f"the training loss still falls ({first:.3f} to {last:.3f}): train longer, training.num_epochs="
        cause += f"{2 * self.schedule.epochs:.3g}"
        if last > 0.98 * first:
            cause = f"the training loss does not fall ({first:.3f} to {last:.3f}): the learning rate is too high for "
            cause += f"this model, or far too low; training.learning_rate={rate / 4:.1g} or {4 * rate:.1g}"
        log.warning("no entity found right in the first half of the training: %s", cause)

    def _micro_batch_entry(self) -> dict[str, int]:
        """Return the rows at once for the report, if memory did not hold a whole batch."""
        assert self.trainer is not None
        rows = self.trainer.micro_batch
        return {MICRO_BATCH: rows} if rows < self.trainer.args.train_batch_size else {}


class FollowingReporter(TrainerCallback):
    """Waits at the scheduled steps, while the first process of the training evaluates and reports."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.trainer: NerTrainer | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Give this process's share of the training loss, and stop if the first process does."""
        if state.global_step in self.schedule.report_steps:
            assert self.trainer is not None
            assert self.trainer.ranks is not None
            self.trainer.take_train_loss(1)
            control.should_training_stop = self.trainer.ranks.agree(False)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep notes that the libraries address to developers off the screen."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(transformers|peft|accelerate|torch)\.")
            yield
    finally:
        transformers_logging.set_verbosity(level)
