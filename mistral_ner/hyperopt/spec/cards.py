"""How many trials share a GPU, from the memory plan of the largest of them."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

from mistral_ner.config.schema import Config
from mistral_ner.errors import Fault, UserError
from mistral_ner.hyperopt.spec import capacity
from mistral_ner.hyperopt.spec.space import SearchSpace

log = logging.getLogger(__name__)

_USED = 0.9  # of a card; the plan is right to about a tenth
_LABELS = 9  # CoNLL's: the data is not read yet


def largest_trial(config: Config, space: SearchSpace) -> Config:
    """Return the config with the largest values that the search may give to what takes memory."""
    largest = {parameter.path: max(parameter.extremes()) for parameter in space if parameter.path in _TAKE_MEMORY}
    model = replace(config.model, lora_r=int(largest.get("model.lora_r", config.model.lora_r)))
    batch = int(largest.get(_BATCH, config.training.per_device_train_batch_size))
    length = largest.get("data.max_length", config.data.max_length)
    return replace(
        config,
        model=model,
        training=replace(config.training, per_device_train_batch_size=batch),
        data=replace(config.data, max_length=length),
    )


_BATCH = "training.per_device_train_batch_size"
_TAKE_MEMORY = ("model.lora_r", _BATCH, "data.max_length")


def share_of_card(config: Config, space: SearchSpace) -> float | None:
    """Return what one worker gets of a GPU if ``hyperopt.resources_per_trial.gpu`` is null; None: a whole one.

    As many workers share a card as the plan has room for, but no more than there are CPUs for each card.
    """
    wanted = config.hyperopt.resources_per_trial.gpu
    if wanted is not None or config.hyperopt.ray_address is not None or not (cards := capacity.gpus()):
        return wanted
    if any(parameter.path in ("model.model_name", "model.quantization", "model.tuning") for parameter in space):
        return None
    from mistral_ner.model.memory.plan import memory_of_machine

    need = _need_of_worker(largest_trial(config, space))
    fit = 1 if need is None else int(_USED * memory_of_machine()[1] / need)
    workers = min(fit, capacity.cores() // cards, math.ceil(config.hyperopt.num_trials / cards))
    if workers < 2:
        return None
    log.info("%d trials share a GPU, by the memory plan; hyperopt.resources_per_trial.gpu=1 gives each one", workers)
    return math.floor(1e4 / workers) / 1e4


def _need_of_worker(largest: Config) -> float | None:
    """Return the bytes that a worker takes of a GPU with its trials; None if it is not known."""
    from mistral_ner.model.limits import choose_max_length  # late: it imports torch
    from mistral_ner.model.memory.plan import plan_memory
    from mistral_ner.model.tokenizer import TRAINED_VOCAB_SIZE

    try:
        length = choose_max_length(largest.model, largest.data.max_length)
        plan = plan_memory(largest, _LABELS, TRAINED_VOCAB_SIZE, length, on_gpu=True)
    except UserError:  # said when the model is looked at
        return None
    return plan.of_pass(largest.hyperopt.trials_per_pass)


def find_card_faults(config: Config) -> list[Fault]:
    """Return what stands against the GPUs that a trial is to have."""
    key, gpu = "hyperopt.resources_per_trial.gpu", config.hyperopt.resources_per_trial.gpu
    processes, local = config.training.processes, config.hyperopt.ray_address is None
    if config.model.device_map is not None:
        return _find_spread_faults(gpu, capacity.gpus() if local else None)
    if gpu is not None and gpu > 1 and gpu != int(gpu):
        rule = f"above 1 it must be a whole number, since each process of a trial has a GPU, found {gpu:g}"
        return [Fault(key, rule, f"{key}={int(gpu)}")]
    if gpu is not None and gpu > 1 and processes not in (None, gpu):
        rule = f"a trial of {gpu:g} GPUs has as many processes, found {processes}"
        return [Fault("training.processes", rule, "training.processes=null")]
    if gpu and local and gpu > (found := capacity.gpus()):
        rule = f"a trial of {gpu:g} GPUs does not fit this machine, which has {found or 'none'}"
        return [Fault(key, rule, f"{key}={min(1, found)}")]
    if processes is not None and processes > max(1, gpu or 1) and (gpu or (gpu is None and local and capacity.gpus())):
        rule = f"each process of a trial has a GPU; training.processes={processes} needs as many, found {gpu or 1:g}"
        return [Fault(key, rule, f"{key}={processes}")]
    return []


def _find_spread_faults(gpu: float | None, found: int | None) -> list[Fault]:
    """Return the faults of trials whose model is spread over ``gpu`` GPUs each; ``found`` are there, None: unknown."""
    key, fix = "hyperopt.resources_per_trial.gpu", "hyperopt.resources_per_trial.gpu=2"
    if found == 0:
        rule = "auto spreads a model over GPUs, and this machine has none that torch can use"
        return [Fault("model.device_map", rule, "model.device_map=null")]
    if gpu is None or gpu < 1 or gpu != int(gpu):
        rule = "with model.device_map=auto it must say over how many whole GPUs a trial's model is spread, found "
        return [Fault(key, f"{rule}{'null' if gpu is None else f'{gpu:g}'}", f"{fix}, or model.device_map=null")]
    if found is not None and gpu > found:
        rule = f"a trial of {gpu:g} GPUs does not fit this machine, which has {found}"
        return [Fault(key, rule, f"{key}={found}")]
    return []
