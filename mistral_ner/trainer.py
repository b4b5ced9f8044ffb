"""Hugging Face Trainer, told when to report and how a tagger is scored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mistral_ner.batches import ByLength, batches_by_tokens, collate, pieces
from mistral_ner.config import UserError
from mistral_ner.data.rows import Row
from mistral_ner.metrics import entity_scores
from mistral_ner.model import save_weights
from mistral_ner.progress import Progress
from mistral_ner.schedule import Schedule

MICRO_BATCH = "micro_batch"  # in a report: rows that went through the network at once, where fewer than the batch

Report = Callable[[int, dict[str, float]], bool | None]


class TrainingError(UserError):
    """A training that cannot give a score; the first word of its message says why."""


@dataclass
class Evaluation:
    """One split to score: its rows (windows) and the word-level truth."""

    rows: Sequence[Row]
    gold: np.ndarray  # tag ids of all words, (words,)
    lengths: np.ndarray  # words of each sentence, (sentences,)
    labels: list[str]
    batch_tokens: int  # of a batch, padding included


class NerTrainer(Trainer):
    """A Trainer whose evaluation is entity-level F1 over whole sentences, and that refuses a non-finite loss.

    Args:
        evaluation: what is scored.
        pad_id: the tokenizer's.
        micro_batch: rows that go through the network at once; a batch of more goes in pieces, whose gradients are
            added up to those of the whole. None: the whole batch.
        kwargs: Trainer's own.
    """

    def __init__(self, *, evaluation: Evaluation, pad_id: int, micro_batch: int | None = None, **kwargs: Any) -> None:
        super().__init__(data_collator=lambda rows: collate(rows, pad_id), compute_loss_func=_mean_loss, **kwargs)
        self.remove_callback(PrinterCallback)  # whoever gets the reports shows them
        self.evaluation = evaluation
        self.pad_id = pad_id
        self.micro_batch = micro_batch or self.args.train_batch_size
        model: Any = self.model
        self.trained_parameters = sum(one.numel() for one in model.parameters() if one.requires_grad)
        self._loss = torch.zeros((), device=self.args.device)  # summed since the last report

    def _get_train_sampler(self, train_dataset: Any = None) -> ByLength:
        lengths = self.train_dataset.lengths  # type: ignore[union-attr]
        return ByLength(lengths, self.args.train_batch_size, int(self.args.data_seed or 0))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: nobody reads it, and counting walks through all parameters in every step."""
        return 0

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # Trainer's own also renders a model card and pickles its arguments, which takes longer than the rest together
        save_weights(self.model, str(output_dir))  # type: ignore[arg-type]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward passes of a batch; the loss is summed on the device, so that no step waits for it."""
        loss = torch.zeros_like(self._loss)
        for piece in pieces(inputs, self.micro_batch):
            loss += super().training_step(model, piece, num_items_in_batch).detach()
        self._loss += loss
        return loss

    def take_train_loss(self, steps: int) -> float:
        """Return the mean training loss of the last ``steps`` optimiser steps and start a new sum.

        Raises:
            TrainingError: it is NaN or infinite.
        """
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

        Beside them, for those who want a small or a fast model: ``adapter_parameters``, the numbers that training
        changes (LoRA and head), and ``eval_seconds``, the wall time of this evaluation.
        """
        began = time.monotonic()
        scores = evaluate(self, self.evaluation)
        metrics = {f"eval_{name}": value for name, value in scores.items()}
        metrics["eval_seconds"] = round(time.monotonic() - began, 4)
        metrics["adapter_parameters"] = self.trained_parameters
        self.log(dict(metrics))  # it adds to what it is given
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _mean_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int) -> torch.Tensor:
    """Return a piece's share of the mean over all labelled tokens of an optimiser step.

    A network's own loss is the mean over the piece: with accumulation Trainer would add up means.
    """
    logits = outputs.logits.flatten(0, 1).float()
    summed = torch.nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=-100, reduction="sum")
    return summed / num_items_in_batch


def evaluate(trainer: NerTrainer, evaluation: Evaluation) -> dict[str, float]:
    """Score the trainer's model on a split: mean loss over labelled tokens, and entity scores over sentences."""
    model = trainer.model
    assert model is not None
    model.eval()
    predicted: list[np.ndarray] = [np.empty(0)] * len(evaluation.rows)
    losses, tokens = 0.0, 0
    for indices in batches_by_tokens(evaluation.rows, evaluation.batch_tokens):
        rows = [evaluation.rows[index] for index in indices]
        batch = collate(rows, trainer.pad_id)
        count = int((batch["labels"] != -100).sum())
        with torch.inference_mode(), trainer.compute_loss_context_manager():
            output = model(**{name: value.to(trainer.args.device) for name, value in batch.items()})
        losses += float(output.loss) * count
        tokens += count
        tags = output.logits.argmax(-1).cpu().numpy()
        for index, row, line in zip(indices, rows, tags, strict=True):
            predicted[index] = line[np.asarray(row["first_subwords"])]
    scores = entity_scores(evaluation.gold, np.concatenate(predicted), evaluation.lengths, evaluation.labels)
    return {"loss": losses / max(1, tokens), **scores}


class Reporter(TrainerCallback):
    """Evaluates, saves and reports at the scheduled steps; asks the ``report`` callable whether to go on."""

    def __init__(self, schedule: Schedule, progress: Progress, report: Report | None, last: int) -> None:
        self.schedule, self.progress, self.report = schedule, progress, report
        self.last = last  # the number of the report that ends the training
        self.trainer: NerTrainer | None = None  # set once it exists; Trainer makes its callbacks' list first
        self.metrics: dict[str, float] = {}
        self.train_loss = math.nan
        self.started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for an evaluation and a checkpoint where a report is due."""
        if state.global_step in self.schedule.report_steps:
            assert self.trainer is not None
            before = int(self.progress.reports[-1]["step"]) if self.progress.reports else 0
            self.train_loss = self.trainer.take_train_loss(state.global_step - before)
            control.should_evaluate = control.should_save = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the metrics until the checkpoint that belongs to them is on disk."""
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
        self.trainer.log({"loss": self.train_loss, "learning_rate": self.trainer._get_learning_rate()})  # for trackers

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Make the report count, then tell it; from here on it is never made again."""
        number = len(self.progress.reports) + 1
        row = {
            "report": number,
            "step": state.global_step,
            "epoch": round(float(state.epoch or 0), 4),
            **self.metrics,
            "train_loss": self.train_loss,
            **self._settled(),
            "time_s": round(time.monotonic() - self.started, 3),
        }
        self.progress.add(row, f"checkpoint-{state.global_step}")
        self.started = time.monotonic()
        stop = self.report is not None and self.report(number, dict(self.metrics))
        if stop or number >= self.last:
            control.should_training_stop = True

    def _settled(self) -> dict[str, int]:
        """Return the rows at once, where memory did not hold a whole batch."""
        assert self.trainer is not None
        rows = self.trainer.micro_batch
        return {MICRO_BATCH: rows} if rows < self.trainer.args.train_batch_size else {}
