"""The one objective: train and score one configuration."""

from __future__ import annotations

import gc
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerFast, TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from mistral_ner import files
from mistral_ner.config import Config, check
from mistral_ner.data.encode import Encoded, encode
from mistral_ner.data.read import load_splits
from mistral_ner.model import adapted, load_tokenizer, weight_files
from mistral_ner.prefix import Prefix, frozen_prefix
from mistral_ner.progress import Progress
from mistral_ner.schedule import Schedule
from mistral_ner.tracking import tracked
from mistral_ner.trainer import Evaluation, NerTrainer, Report, Reporter, TrainingError

__all__ = ["Report", "TrainingError", "fit", "prepare"]

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
            a device whose memory did not suffice.
        UserError: the data or the model cannot be used; the message says why.
    """
    config = check(cfg)
    config.training.threads = _use_threads(config.training.threads)
    with files.alone(Path(config.output_dir)):
        progress = Progress.open(config)
        if not progress.finished:
            with _named_memory_errors(config):
                _train(config, progress, report)
        return progress.best_value


def prepare(config: Config) -> tuple[PreTrainedTokenizerFast, Encoded]:
    """Return the tokenizer and the encoded data; the first call in a process reads or fills the cache on disk."""
    key = repr((config.data, config.model.model_name, config.model.revision, config.model.random_init))
    if key not in _PREPARED:
        _PREPARED.clear()  # one at a time: a study has one data set
        splits = load_splits(config.data)
        tokenizer = load_tokenizer(config.model, [sentence.tokens for sentence in splits.train])
        _PREPARED[key] = tokenizer, encode(splits, tokenizer, config.data)
    return _PREPARED[key]


_PREPARED: dict[str, tuple[PreTrainedTokenizerFast, Encoded]] = {}


def _train(config: Config, progress: Progress, report: Report | None) -> None:
    tokenizer, data = prepare(config)
    last = config.training.stop_after or config.training.reports
    schedule = Schedule.of(config.training, len(data.train))
    if len(progress.reports) < last:
        _train_on(config, progress, Reporter(schedule, progress, report, last))
    if len(progress.reports) == last:
        _keep_best_adapter(progress, tokenizer, data.labels)
        progress.finish()


def _train_on(config: Config, progress: Progress, reporter: Reporter) -> None:
    """Train from the last report to the end, or to where ``report`` stops it."""
    tokenizer, data = prepare(config)
    pad_id = int(tokenizer.pad_token_id or 0)
    with _quiet_libraries(), _light_collections(), ExitStack() as stack:
        model = stack.enter_context(adapted(config.model, data.labels, config.seed, len(tokenizer)))
        prefix = stack.enter_context(_prefix_in_use(config, model, data, pad_id))
        trackers = stack.enter_context(tracked(config))
        trainer = NerTrainer(
            model=model,
            args=_arguments(config, reporter.schedule, trackers),
            train_dataset=prefix.train if prefix else data.rows("train"),
            evaluation=_evaluation(config, data, "dev", prefix.dev if prefix else None),
            pad_id=pad_id,
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
    precision = _precision(training.precision)
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
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        eval_strategy="no",  # Reporter says when to evaluate, log and save
        save_strategy="no",
        logging_strategy="no",
        report_to=trackers,
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _precision(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    if not torch.cuda.is_available():
        return "fp32"  # bf16 autocast is many times slower on CPUs without bf16 units
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


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
        gc.collect()
        gc.unfreeze()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def _named_memory_errors(config: Config) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"out of memory with training.per_device_train_batch_size="
            f"{config.training.per_device_train_batch_size}; fix: half of it, and twice "
            f"training.gradient_accumulation_steps ({str(error).splitlines()[0] if str(error) else 'MemoryError'})"
        ) from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    # the CPU allocator raises a plain RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


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
