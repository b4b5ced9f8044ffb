"""The one objective: train and score one configuration."""

from __future__ import annotations

import mistral_ner.model.lora  # noqa: F401  before transformers' Trainer, which imports peft, too

# isort: split

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerFast, TrainingArguments, set_seed

from mistral_ner import files, locks
from mistral_ner.config.check import check
from mistral_ner.config.schema import Config
from mistral_ner.data.encoded.encode import Encoded
from mistral_ner.environment import forget_other_launchers
from mistral_ner.model import lend_model, weight_files
from mistral_ner.model.cpu.attention import quick_attention
from mistral_ner.model.cpu.dropout import quick_dropout
from mistral_ner.model.cpu.lora import quick_lora
from mistral_ner.model.cpu.products import wide_products
from mistral_ner.model.hardware import precision, usable_precision
from mistral_ner.model.lora import can_leave_casts, disable_input_dtype_casting
from mistral_ner.model.stored import COLUMNS
from mistral_ner.training.checkpoint import Progress
from mistral_ner.training.evaluate import Evaluation
from mistral_ner.training.inputs.prefix import Prefix, frozen_prefix
from mistral_ner.training.inputs.prepare import prepare
from mistral_ner.training.memory import (
    OutOfMemoryError,
    TrainingError,
    light_collections,
    name_memory_errors,
    plan_for_card,
    refuse_what_cannot_fit,
    settle_checkpointing,
)
from mistral_ner.training.parallel.ranks import Ranks, lead
from mistral_ner.training.parallel.together import Pass, Seat
from mistral_ner.training.schedule import Schedule
from mistral_ner.training.tracking import track
from mistral_ner.training.trainer import (
    MICRO_BATCH,
    FollowingReporter,
    NerTrainer,
    Report,
    Reporter,
    quiet_libraries,
)
from mistral_ner.training.walks import quick_walks

__all__ = ["OutOfMemoryError", "Report", "TrainingError", "fit", "fit_together"]

Settings = DictConfig | Mapping[str, Any] | Config

log = logging.getLogger(__name__)


def fit(cfg: Settings, report: Report | None = None, together: Pass | None = None) -> float:
    """Train one configuration and return its metric at its best report.

    Everything is kept in ``cfg.output_dir``. Called again on the same folder, it continues a training that was cut
    off after the last report, and ends with the numbers and weights of an unbroken run (bit-equal on a CPU); for a
    finished training it returns the value at once. ``adapter/`` gets the adapter of the best report and the tokenizer.

    Args:
        cfg: the composed config, or its parts with defaults for the rest.
        report: called as ``report(number, metrics)`` after every evaluation, once its state is on disk; ``number``
            counts from 1. It returns True to stop the training.
        together: the pass that other threads' trainings share with this one.

    Raises:
        ConfigError: names every fault of the config, before anything is loaded.
        TrainingError: a non-finite loss or metric, an evaluation without the metric, or (:class:`OutOfMemoryError`)
            too little memory, even for the pieces that ``training.auto_batch`` allows.
        UserError: the data or the model cannot be used; the message says why.
    """
    config = check(cfg)
    forget_other_launchers()
    config.training.threads = _use_threads(config.training.threads)
    named = name_memory_errors("the model", "a smaller model, or model.quantization=4bit")
    with locks.hold_folder(Path(config.output_dir)), ExitStack() as stack:
        seat = stack.enter_context(together.seat(config.training.threads)) if together is not None else None
        with named, wide_products():
            report = seat.away(report) if seat is not None else report
            return _train_within_memory(config, Progress.open(config), report, seat).best_value


def fit_together(configs: Sequence[Settings], reports: Sequence[Report | None] | None = None) -> list[float]:
    """Train several configurations at once, as :func:`fit` does each of them, with shared passes through the base.

    The numbers of each are those of :func:`fit`, rounding aside. They may differ in what a trial of a search may
    change, apart from the keys under ``model`` that are not LoRA's.

    Args:
        configs: with different ``output_dir``.
        reports: a callable, or None, for each.

    Returns:
        The metric of each at its best report.

    Raises:
        Exception: as :func:`fit`, when all have ended: that of the first that failed.
    """
    together = Pass()
    try:
        with ThreadPoolExecutor(len(configs)) as threads:
            running = [
                threads.submit(fit, config, report, together)
                for config, report in zip(configs, reports or [None] * len(configs), strict=True)
            ]
        return [one.result() for one in running]
    finally:
        together.close()


def _train_within_memory(config: Config, progress: Progress, report: Report | None, seat: Seat | None) -> Progress:
    """Train from the last report on; if memory runs out and ``training.auto_batch`` is on, with fewer rows at once.

    The batches, their order and the optimiser steps stay the same, so the numbers differ by rounding only.

    Raises:
        OutOfMemoryError: not even one row fits, or ``training.auto_batch`` is off.
    """
    batch = config.training.per_device_train_batch_size
    at_once = progress.reports[-1].get(MICRO_BATCH, batch) if progress.reports else batch
    while not progress.finished:
        try:
            _train(config, progress, report, at_once, seat)
            break
        except OutOfMemoryError as error:
            if not config.training.auto_batch or at_once == 1:
                raise
            reason = str(error)
        progress, at_once = Progress.open(config), at_once // 2
        log.warning(
            "%s: %s: %d at once from report %d on, in batches of %d as before",
            *(config.output_dir, reason.partition(";")[0], at_once, len(progress.reports), batch),
        )
    return progress


def _train(config: Config, progress: Progress, report: Report | None, at_once: int, seat: Seat | None) -> None:
    tokenizer, data = prepare(config)
    schedule = Schedule.of(config.training, len(data.train))
    if not progress.is_over(config.training):
        with light_collections(freeze=seat is None):
            # no name for the reporter here: a failed training's traceback would hold it, and with it the Trainer
            args = (at_once, tokenizer, data, seat)
            start = progress.checkpoints / progress.checkpoint if progress.checkpoint else None
            with lead(config, at_once, start) as ranks:
                _train_on(config, start, Reporter(schedule, progress, report, config.training), *args, ranks)
    if progress.is_over(config.training):
        _keep_best_adapter(progress, tokenizer, data)
        progress.finish()


def follow(config: Config, ranks: Ranks, at_once: int, start: Path | None) -> None:
    """Train as one of the processes after the first, which started this one: it reports and writes, this one computes.

    Args:
        config: the training, as the first process has it.
        ranks: this process's place.
        at_once: the most rows that go through the network at a time.
        start: the checkpoint to continue from.

    Raises:
        TrainingError: as :func:`fit`.
    """
    with name_memory_errors("the model", "a smaller model, or model.quantization=4bit"):
        tokenizer, data = prepare(config)
        reporter = FollowingReporter(Schedule.of(config.training, len(data.train)))
        _train_on(config, start, reporter, at_once, tokenizer, data, None, ranks)


def _train_on(
    config: Config,
    start: Path | None,
    reporter: Reporter | FollowingReporter,
    at_once: int,
    tokenizer: PreTrainedTokenizerFast,
    data: Encoded,
    seat: Seat | None,
    ranks: Ranks | None,
) -> None:
    """Train from a checkpoint to the end or until ``report`` stops it, with ``at_once`` rows at a time."""
    counts = len(data.labels), len(tokenizer)
    refuse_what_cannot_fit(config, *counts)
    settle = settle_checkpointing if seat is None else seat.settle_checkpointing
    config = settle(config, *counts, at_once)
    pad_id = int(tokenizer.pad_token_id or 0)
    batch = config.training.per_device_train_batch_size
    tokens = max(1, config.training.eval_batch_tokens * at_once // batch)
    config = replace(config, training=replace(config.training, eval_batch_tokens=tokens))
    with nullcontext() if seat is not None else quiet_libraries(), ExitStack() as stack:
        lend = lend_model if seat is None else seat.lend_model
        model = stack.enter_context(lend(config.model, data.labels, config.seed, len(tokenizer)))
        number_format = usable_precision(model, config.training.precision)
        config = replace(config, training=replace(config.training, precision=number_format))
        stack.enter_context(_computing(model, config, at_once))
        prefix = None if seat is not None else stack.enter_context(_prefix_in_use(config, model, data, pad_id))
        trackers = stack.enter_context(track(config))
        trainer = NerTrainer(
            model=model,
            args=_arguments(config, reporter.schedule, trackers),
            train_dataset=prefix.train if prefix else data.rows("train"),
            evaluation=Evaluation.of(
                data, "dev", tokens, prefix.dev if prefix else None, number_format, config.model.decoding
            ),
            pad_id=pad_id,
            micro_batch=at_once,
            seat=seat,
            ranks=ranks,
            planned_gb=None if seat is not None else plan_for_card(config, *counts, at_once),
            head_lr_ratio=config.training.head_lr_ratio,
            focal_gamma=config.training.focal_gamma,
            callbacks=[reporter],
        )
        reporter.trainer = trainer
        if seat is not None:
            stack.enter_context(seat.take(model, config.model, config.training.precision))
        set_seed(config.seed)
        trainer.train(resume_from_checkpoint=str(start) if start else None)
        del trainer, reporter.trainer, model


@contextmanager
def _computing(model: Any, config: Config, at_once: int) -> Iterator[None]:
    """Let the model compute as quickly as it can, and name what is too large for the memory."""
    what = f"{at_once} of {config.training.per_device_train_batch_size} sentences of a batch"
    with (
        name_memory_errors(what, "training.auto_batch=true, or a smaller training.per_device_train_batch_size"),
        # peft would cast LoRA's inputs to float32, and autocast a copy of them back
        disable_input_dtype_casting(model, active=config.training.precision != "fp32" and can_leave_casts(model)),
        quick_dropout(model),
        quick_lora(model),
        quick_attention(model, config),
        quick_walks(model),
    ):
        yield


@contextmanager
def _prefix_in_use(config: Config, model: Any, data: Encoded, pad_id: int) -> Iterator[Prefix | None]:
    prefix = frozen_prefix(config, model, data, pad_id)
    with prefix.in_use(model) if prefix else nullcontext():
        yield prefix


class OneCardArguments(TrainingArguments):
    """Arguments of a training on one card, however many this process sees.

    With several, Trainer multiplies the batch by their number and copies the base model to each in every step.
    """

    @property
    def n_gpu(self) -> int:
        """1 on a GPU, 0 on a CPU."""
        return min(1, int(super().n_gpu))


def _arguments(config: Config, schedule: Schedule, trackers: list[str]) -> TrainingArguments:
    training = config.training
    number_format = precision(training.precision)
    return OneCardArguments(
        output_dir=str(Path(config.output_dir) / "checkpoint"),
        max_steps=schedule.steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=round(training.warmup_ratio * schedule.steps),
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        per_device_train_batch_size=training.per_device_train_batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        seed=config.seed,
        data_seed=config.seed,
        bf16=number_format == "bf16",
        fp16=number_format == "fp16",
        eval_strategy="no",  # Reporter says when to evaluate, log and save
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,  # it would wait for the loss in every step, which Reporter checks at reports
        report_to=trackers,
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        accelerator_config={"non_blocking": torch.cuda.is_available()},  # copies out of pinned memory need no wait
    )


def _use_threads(threads: int | None) -> int:
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def _keep_best_adapter(progress: Progress, tokenizer: PreTrainedTokenizerFast, data: Encoded) -> None:
    """Copy the best report's adapter out of its checkpoint; a folder that a crash left incomplete is replaced.

    The folder can be moved: it has the labels and the columns of the training file, and the config names the base
    model.
    """
    assert progress.best is not None
    target, temporary = progress.folder / "adapter", progress.folder / ".adapter"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for path in weight_files(progress.checkpoints / progress.best):
        shutil.copy2(path, temporary / path.name)
    tokenizer.save_pretrained(str(temporary))
    shutil.copy2(progress.folder / "config.yaml", temporary / "config.yaml")
    files.write_json(temporary / "labels.json", data.labels)
    if data.layout is not None:
        files.write_json(temporary / COLUMNS, asdict(data.layout))
    files.write_json(temporary / "report.json", progress.best_report)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
