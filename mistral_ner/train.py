"""The one objective: train and score one configuration."""

from __future__ import annotations

import gc
import logging
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerFast, TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from mistral_ner import files
from mistral_ner.config import Config, check
from mistral_ner.data.encode import Encoded
from mistral_ner.model import adapted, weight_files
from mistral_ner.model.attention import quick_attention
from mistral_ner.model.dropout import quick_dropout
from mistral_ner.model.hardware import precision
from mistral_ner.model.products import wide_products
from mistral_ner.prefix import Prefix, frozen_prefix
from mistral_ner.prepare import prepare
from mistral_ner.progress import Progress
from mistral_ner.schedule import Schedule
from mistral_ner.tracking import tracked
from mistral_ner.trainer import MICRO_BATCH, Evaluation, NerTrainer, Report, Reporter, TrainingError

__all__ = ["Report", "TrainingError", "fit"]

log = logging.getLogger(__name__)


class OutOfMemoryError(TrainingError):
    """The device's memory did not hold this configuration."""


def fit(cfg: DictConfig | Mapping[str, Any] | Config, report: Report | None = None) -> float:
    """Train one configuration and return its metric at its best report.

    Everything is kept in ``cfg.output_dir``: called again on the same folder, a training that was cut off goes on
    after its last report and ends with the numbers and weights of an unbroken run (bit-equal on a CPU); one that
    had ended returns its value at once. The adapter and the tokenizer of the best report are left in ``adapter/``.

    Args:
        cfg: the composed config, or its parts with defaults for the rest.
        report: called as ``report(number, metrics)`` after every evaluation, with ``number`` counted from 1, once
            that report's state is on disk. Returns True to stop the training there.

    Raises:
        ConfigError: names every fault of the config, before anything is loaded.
        TrainingError: a non-finite loss or metric, an evaluation without the metric, or (as :class:`OutOfMemoryError`)
            a device whose memory did not suffice, even in the pieces that ``training.auto_batch`` allows.
        UserError: the data or the model cannot be used; the message says why.
    """
    config = check(cfg)
    config.training.threads = _use_threads(config.training.threads)
    named = _memory_errors_named("the model", "a smaller model, or model.quantization=4bit")
    with files.alone(Path(config.output_dir)), named, wide_products():
        return _train_within_memory(config, Progress.open(config), report).best_value


def _train_within_memory(config: Config, progress: Progress, report: Report | None) -> Progress:
    """Train from the last report on, where memory does not suffice and it is allowed with fewer rows at once.

    The batches, their order and the optimiser steps stay the same, so that only rounding tells the numbers apart.

    Raises:
        OutOfMemoryError: not even one row fits, or ``training.auto_batch`` is off.
    """
    batch = config.training.per_device_train_batch_size
    at_once = progress.reports[-1].get(MICRO_BATCH, batch) if progress.reports else batch
    while not progress.finished:
        try:
            _train(config, progress, report, at_once)
            break
        except OutOfMemoryError as error:
            if not config.training.auto_batch or at_once == 1:
                raise
            reason = str(error)
        _free_memory()  # not before the exception is gone: it holds what the training held
        progress, at_once = Progress.open(config), at_once // 2
        log.warning(
            "%s: %s: %d at once from report %d on, in batches of %d as before",
            *(config.output_dir, reason.partition(";")[0], at_once, len(progress.reports), batch),
        )
    return progress


def _train(config: Config, progress: Progress, report: Report | None, at_once: int) -> None:
    tokenizer, data = prepare(config)
    last = config.training.stop_after or config.training.reports
    schedule = Schedule.of(config.training, len(data.train))
    if len(progress.reports) < last:
        _train_on(config, progress, Reporter(schedule, progress, report, last), at_once)
    if len(progress.reports) == last:
        _keep_best_adapter(progress, tokenizer, data.labels)
        progress.finish()


def _train_on(config: Config, progress: Progress, reporter: Reporter, at_once: int) -> None:
    """Train from the last report to the end, or to where ``report`` stops it, with ``at_once`` rows at a time."""
    tokenizer, data = prepare(config)
    pad_id = int(tokenizer.pad_token_id or 0)
    batch = config.training.per_device_train_batch_size
    tokens = max(1, config.training.eval_batch_tokens * at_once // batch)
    config = replace(config, training=replace(config.training, eval_batch_tokens=tokens))
    with _quiet_libraries(), _light_collections(), ExitStack() as stack:
        model = stack.enter_context(adapted(config.model, data.labels, config.seed, len(tokenizer)))
        stack.enter_context(
            _memory_errors_named(
                f"{at_once} of {batch} sentences of a batch",
                "training.auto_batch=true, or a smaller training.per_device_train_batch_size",
            )
        )
        stack.enter_context(quick_dropout(model))
        stack.enter_context(quick_attention(model, config))
        prefix = stack.enter_context(_prefix_in_use(config, model, data, pad_id))
        trackers = stack.enter_context(tracked(config))
        trainer = NerTrainer(
            model=model,
            args=_arguments(config, reporter.schedule, trackers),
            train_dataset=prefix.train if prefix else data.rows("train"),
            evaluation=_evaluation(config, data, "dev", prefix.dev if prefix else None),
            pad_id=pad_id,
            micro_batch=at_once,
            callbacks=[reporter],
        )
        reporter.trainer = trainer
        set_seed(config.seed)
        start = progress.checkpoints / progress.checkpoint if progress.checkpoint else None
        trainer.train(resume_from_checkpoint=str(start) if start else None)
        del trainer, reporter.trainer, model


@contextmanager
def _prefix_in_use(config: Config, model: Any, data: Encoded, pad_id: int) -> Iterator[Prefix | None]:
    prefix = frozen_prefix(config, model, data, pad_id)
    with prefix.in_use(model) if prefix else nullcontext():
        yield prefix


def _evaluation(config: Config, data: Encoded, split: str, rows: Any = None) -> Evaluation:
    gold, lengths = data.gold(split)
    return Evaluation(rows or data.rows(split), gold, lengths, data.labels, config.training.eval_batch_tokens)


def _arguments(config: Config, schedule: Schedule, trackers: list[str]) -> TrainingArguments:
    training = config.training
    number_format = precision(training.precision)
    return TrainingArguments(
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
        report_to=trackers,
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _use_threads(threads: int | None) -> int:
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def _keep_best_adapter(progress: Progress, tokenizer: PreTrainedTokenizerFast, labels: list[str]) -> None:
    """Move the best report's adapter out of its checkpoint; a half-made folder from a crash is made again.

    The folder can be moved: with its config and labels it says which base model it belongs on.
    """
    assert progress.best is not None
    target, temporary = progress.folder / "adapter", progress.folder / ".adapter"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for path in weight_files(progress.checkpoints / progress.best):
        shutil.copy2(path, temporary / path.name)
    tokenizer.save_pretrained(str(temporary))
    shutil.copy2(progress.folder / "config.yaml", temporary / "config.yaml")
    files.write_json(temporary / "labels.json", labels)
    files.write_json(temporary / "report.json", progress.best_report)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)


@contextmanager
def _light_collections() -> Iterator[None]:
    """Free what a training leaves behind, without looking through all that the libraries hold each time.

    Trainer and its callbacks refer to each other, so that only the garbage collector frees them; Trainer itself
    collects when it starts. Each time is a third of a second with a million objects, and no time without those that
    were there before.
    """
    gc.freeze()
    try:
        yield
    finally:
        _free_memory()
        gc.unfreeze()


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _memory_errors_named(what: str, fix: str) -> Iterator[None]:
    """Turn a device's or the machine's refusal of memory into an :class:`OutOfMemoryError`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).strip() or "MemoryError"
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not _NO_MEMORY.search(text):
            raise
        raise OutOfMemoryError(f"out of memory with {what}; fix: {fix} ({text.splitlines()[0]})") from error


# how the allocators of CPUs, of CUDA and of its libraries put it, in plain RuntimeErrors
_NO_MEMORY = re.compile(r"can(no|')t allocate memory|out of memory|bad_alloc|ALLOC_FAILED", re.IGNORECASE)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep the libraries' notes about how we use them off the person's screen."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(transformers|peft|accelerate|torch)\.")
            yield
    finally:
        transformers_logging.set_verbosity(level)
