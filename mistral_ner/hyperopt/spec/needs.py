"""What a search takes of memory and disk, in words for its dry run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.spec.cards import largest_trial
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.model.source import locate

if TYPE_CHECKING:
    from mistral_ner.model.memory.plan import MemoryPlan

_SMALL = 500_000_000  # bytes
_WEIGHT, _STATE = 4, 8  # bytes on the disk of a trained number, and of Adam's two means of it
_KEPT = 3  # checkpoints of a trial that runs: the last, the best, and the one that is being written


def describe_needs(plan: Plan, labels: int) -> list[tuple[str, str]]:
    """Return rows of a name and words: the memory of the largest trial, on a GPU and on this machine, and the disk.

    A base model whose weights are under half a gigabyte is not planned.

    Args:
        plan: the search.
        labels: outputs of the head.
    """
    small = _small_weights(plan.config.model)
    if small is not None:
        return [("memory", f"not planned: the base model's {small / 1e6:.0f} MB fit anywhere")]
    import torch  # late: its import takes seconds

    from mistral_ner.model.limits import choose_max_length
    from mistral_ner.model.memory.plan import plan_memory
    from mistral_ner.model.tokenizer import TRAINED_VOCAB_SIZE

    largest = largest_trial(plan.config, plan.space)
    try:
        length = choose_max_length(largest.model, largest.data.max_length)
        planned = {
            place: plan_memory(largest, labels, TRAINED_VOCAB_SIZE, length, place == "GPU") for place in ("GPU", "CPU")
        }
    except UserError as error:
        return [("memory", f"not known: {str(error).splitlines()[0]}")]
    batch = largest.training.per_device_train_batch_size
    rows = [("memory", f"of a trial, in batches of {batch} windows of at most {length} subwords")]
    if torch.cuda.is_available():
        rows.append(("  on its GPU", _hold(planned["GPU"], plan)))
    else:
        rows += [("  on a GPU", str(planned["GPU"])), ("  on this CPU", _hold(planned["CPU"], plan))]
    return [*rows, ("disk", describe_disk(plan, planned["GPU"]))]


def _small_weights(model: ModelConfig) -> int | None:
    """Return the bytes of weights that lie in a folder, if they are few beside any machine's memory."""
    if model.random_init is not None:
        return None
    try:
        size = sum(file.stat().st_size for file in Path(locate(model)).glob("*.safetensors"))
    except (OSError, UserError):
        return None
    return size if 0 < size < _SMALL else None


def _hold(memory: MemoryPlan, plan: Plan) -> str:
    """Hold a trial's plan against the memory that is free on the card, or all that the machine has for its trials."""
    from mistral_ner.model.memory.plan import count_cards, format_size, free_on_card, memory_of_machine

    cards = count_cards(plan.config)
    free, (name, room) = free_on_card(cards), memory_of_machine(cards)
    hyperopt = plan.config.hyperopt
    share = hyperopt.resources_per_trial.gpu or 1
    workers = max(1, int(1 / share)) if free is not None else plan.passes
    trials = min(plan.at_once, workers * hyperopt.trials_per_pass)
    room, words = (free, f"free on {name}") if free is not None else (room, f"in {name}")
    need = (memory.of_pass(hyperopt.trials_per_pass) or memory.least) * workers
    of_all = f"{trials} at once: {format_size(need)}, and " if trials > 1 else ""
    held = f"{of_all}{format_size(room)} are {words}"
    if need <= room:
        return f"{memory}; {held}"
    fixes = "training.auto_batch=true, model.gradient_checkpointing=auto or a smaller batch"
    return f"{memory}; {held}, which may not do: {fixes} takes less"


def describe_disk(plan: Plan, memory: MemoryPlan) -> str:
    """Return what a search takes of the disk at its largest: checkpoints of running trials, and adapters."""
    hyperopt, adapter = plan.config.hyperopt, _WEIGHT * memory.numbers
    checkpoint = adapter + _STATE * memory.numbers
    trials = hyperopt.num_trials if plan.settings is None else min(hyperopt.num_trials, len(plan.settings))
    running = min(plan.at_once, trials) * _KEPT * checkpoint
    waiting = trials * 2 * checkpoint if plan.pauses else 0
    complete = trials
    if plan.asha:
        complete = max(1, math.ceil(trials / hyperopt.asha_reduction_factor ** len(plan.rungs)))
    # new seeds of each, and the default config's own training; the others are trials
    final = (hyperopt.final.seeds - 1) * (hyperopt.final.top_k + 1) + 1 if hyperopt.final.enabled else 0
    merged = memory.weights if hyperopt.merge else 0
    parts = {
        f"checkpoints of {min(plan.at_once, trials)} running trials": running,
        "checkpoints of trials that wait": waiting,
        f"adapters of {complete} complete trials": complete * adapter,
        "final trainings": (final + 1) * adapter + merged,
    }
    from mistral_ner.model.memory.plan import format_size

    listed = ", ".join(f"{name} {format_size(size)}" for name, size in parts.items() if size)
    return f"at most about {format_size(sum(parts.values()))}: {listed}"
