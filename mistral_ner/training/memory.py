"""Memory that does not suffice, named, and memory that is given back when a training ends."""

from __future__ import annotations

import gc
import logging
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from mistral_ner.config.schema import Config
from mistral_ner.errors import UserError
from mistral_ner.model import hardware
from mistral_ner.model.limits import choose_max_length
from mistral_ner.model.memory.plan import count_cards, fits_whole, memory_of_machine, plan_memory, room_of_process

log = logging.getLogger(__name__)


class TrainingError(UserError):
    """A training that cannot give a score."""


class OutOfMemoryError(TrainingError):
    """This configuration did not fit into memory."""


@contextmanager
def light_collections(freeze: bool = True) -> Iterator[None]:
    """Free what a training leaves behind, without a search through all objects of the libraries.

    Trainer and its callbacks refer to each other, so only the garbage collector frees them; Trainer also collects when
    it starts. With a million objects each collection takes a third of a second; with those frozen that were there
    before, it takes no time.

    Use it around the call of the function that trains, not inside: a failed one can only be freed once it is left.

    Args:
        freeze: False where the objects are frozen already, for several trainings together.
    """
    handled = sys.exception()
    if freeze:
        gc.freeze()
    try:
        yield
    except BaseException as error:
        _clear_frames(error, handled)
        raise
    finally:
        free_memory()
        if freeze:
            gc.unfreeze()


def _clear_frames(error: BaseException, handled: BaseException | None) -> None:
    """Drop the local variables of the frames that ``error`` and its causes went through; tracebacks keep their lines.

    The exception outlives the training, and these variables hold the model, its optimiser and its activations. What
    was handled before the training began is left alone.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or one is handled or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        waiting += [one.__cause__, one.__context__]


def free_memory() -> None:
    """Collect garbage and return the memory that torch keeps for itself to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_on_card() -> float | None:
    """Return the most gigabytes that this process has held on its GPUs since the last call; None without one."""
    if not torch.cuda.is_available():
        return None
    cards = range(torch.cuda.device_count())
    peak = sum(torch.cuda.max_memory_allocated(card) for card in cards) / 1e9
    for card in cards:
        torch.cuda.reset_peak_memory_stats(card)
    return peak


def refuse_what_cannot_fit(config: Config, labels: int, vocab_size: int) -> None:
    """Refuse a training whose weights and optimiser alone need more memory than there is, before anything is loaded.

    Args:
        config: the training.
        labels: outputs of the head.
        vocab_size: entries of the tokenizer.

    Raises:
        OutOfMemoryError: with the sum.
        UserError: the model is to be spread over GPUs, and there are none.
    """
    hardware.find_map(config.model)
    plan = plan_memory(config, labels, vocab_size, 1, torch.cuda.is_available())
    place, room = memory_of_machine(count_cards(config))
    if plan.least <= room:
        return
    fixes = {"none": "model.quantization=8bit or 4bit, or ", "8bit": "model.quantization=4bit, or "}
    more = "more GPUs with model.device_map=auto, or " if torch.cuda.is_available() else ""
    fix = f"{fixes.get(config.model.quantization, '')}{more}a smaller model.model_name"
    if config.model.tuning == "full":
        fix = "model.tuning=lora, or a smaller model.model_name"
    raise OutOfMemoryError(
        f"{config.model.model_name} needs {plan.least / 1e9:.0f} GB of memory before any sentence goes through it, and "
        f"{place} has {room / 1e9:.0f} GB: {plan.weights / 1e9:.1f} GB of weights, and {plan.numbers / 1e6:,.0f} "
        f"million trained numbers with gradient and optimiser, 16 bytes each, {plan.trained / 1e9:.1f} GB\n  fix: {fix}"
    )


def settle_checkpointing(config: Config, labels: int, vocab_size: int, rows: int, trials: int = 1) -> Config:
    """Return the config with ``model.gradient_checkpointing=auto`` settled: off if the plan says that memory does.

    Args:
        config: the training.
        labels: outputs of the head.
        vocab_size: entries of the tokenizer.
        rows: sentences that go through the network at once.
        trials: trainings that share its passes, itself included.

    Raises:
        UserError: as :func:`mistral_ner.model.memory.plan.plan_memory`.
    """
    if config.model.gradient_checkpointing != "auto":
        return config
    again = not fits_whole(*_asked(config, labels, vocab_size, rows), room_of_process(count_cards(config)), trials)
    log.info("model.gradient_checkpointing=auto: activations are %s", "computed again" if again else "kept")
    return replace(config, model=replace(config.model, gradient_checkpointing=again))


def plan_for_card(config: Config, labels: int, vocab_size: int, rows: int) -> float | None:
    """Return the gigabytes that the GPU should show at the peak, with arguments as above; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    total = plan_memory(*_asked(config, labels, vocab_size, rows)).total
    return None if total is None else total / 1e9


def _asked(config: Config, labels: int, vocab_size: int, rows: int) -> tuple[Config, int, int, int, bool]:
    training = replace(config.training, per_device_train_batch_size=rows)
    length = choose_max_length(config.model, config.data.max_length)
    return replace(config, training=training), labels, vocab_size, length, torch.cuda.is_available()


@contextmanager
def name_memory_errors(what: str, fix: str) -> Iterator[None]:
    """Raise an :class:`OutOfMemoryError` when the device or the machine refuses memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).strip() or "MemoryError"
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not _NO_MEMORY.search(text):
            raise
        raise OutOfMemoryError(f"out of memory with {what}; fix: {fix} ({text.splitlines()[0]})") from error


# the words of the allocators of CPUs, CUDA and its libraries, in plain RuntimeErrors
_NO_MEMORY = re.compile(r"can(no|')t allocate memory|out of memory|bad_alloc|ALLOC_FAILED", re.IGNORECASE)
