"""Faults of a search whose trials go through the base model together, ``hyperopt.trials_per_pass`` of them."""

from __future__ import annotations

from mistral_ner.config.schema import OF_A_TRIAL, Config
from mistral_ner.errors import Fault
from mistral_ner.hyperopt.spec.space import SearchSpace

_KEY = "hyperopt.trials_per_pass"


def find_pass_faults(config: Config, space: SearchSpace) -> list[Fault]:
    """Return what stands against several trials in a pass; nothing for one trial a pass."""
    hyperopt = config.hyperopt
    together = hyperopt.trials_per_pass
    if together == 1:
        return []
    faults = [Fault(_KEY, rule, f"{_KEY}=1, or {fix}") for rule, fix in _rules(config)]
    for parameter in space:
        group, _, name = parameter.path.rpartition(".")
        if (group == "model" and name not in OF_A_TRIAL) or parameter.path == "training.precision":
            rule = f"trials of a pass share the base model, and {parameter.path} differs between them"
            faults.append(Fault(f"search_space.{parameter.name}", rule, f"{_KEY}=1, or ~search_space.{parameter.name}"))
    if hyperopt.max_concurrent is not None and hyperopt.max_concurrent < together:
        rule = f"must be at least {_KEY}={together}, found {hyperopt.max_concurrent}"
        faults.append(Fault("hyperopt.max_concurrent", rule, f"hyperopt.max_concurrent={together}"))
    return faults


def _rules(config: Config) -> list[tuple[str, str]]:
    """Return what keeps trials of this config apart, each with a fix."""
    model, found = config.model, []
    if model.tuning == "full":
        found.append(
            ("trials of a pass share the base's weights, and model.tuning=full changes them", "model.tuning=lora")
        )
    if model.quantization == "8bit":
        # LLM.int8 keeps the columns with large inputs in 16 bits (https://arxiv.org/abs/2208.07339)
        rule = "8-bit products depend on all rows of a pass, so that trials would change each other's numbers"
        found.append((rule, "model.quantization=4bit"))
    if model.device_map is not None:
        found.append(
            ("trials of a pass share one GPU, and model.device_map spreads over several", "model.device_map=null")
        )
    if model.frozen_prefix:
        found.append(("trials of a pass compute the frozen layers together", "model.frozen_prefix=null"))
    gpus = config.hyperopt.resources_per_trial.gpu or 0
    if (config.training.processes or 1) > 1 or (gpus > 1 and model.device_map is None):
        found.append(
            (
                "trials of a pass share one process, and these have several each",
                "training.processes=null hyperopt.resources_per_trial.gpu=1",
            )
        )
    if config.tracking.trials and config.tracking.report_to != "none":
        found.append(("trackers follow one training a process", "tracking.trials=false"))
    return found
