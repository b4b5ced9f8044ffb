"""What keeps trials from going through the base model together is said before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import ConfigError, UserError
from mistral_ner.hyperopt.dispatch import run_search
from mistral_ner.hyperopt.engines import optuna_sweeper
from mistral_ner.hyperopt.spec import capacity
from mistral_ner.hyperopt.spec.plan import Plan, cpus_per_trial
from mistral_ner.model.together.network import check_kind


def plan(model: dict[str, Any] | None = None, space: dict[str, Any] | None = None, **hyperopt: Any) -> Plan:
    rate = {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2}}
    return Plan.of(
        {
            "output_dir": "out",
            "model": model or {},
            "search_space": {**rate, **(space or {})},
            "tracking": hyperopt.pop("tracking", {}),
            "hyperopt": {"strategy": "combined", "trials_per_pass": 4, **hyperopt},
        }
    )


@pytest.mark.parametrize(
    ("given", "key", "rule"),
    [
        ({"model": {"tuning": "full"}}, "hyperopt.trials_per_pass", "model.tuning=full changes them"),
        ({"model": {"quantization": "8bit"}}, "hyperopt.trials_per_pass", "8-bit products depend on all rows"),
        ({"model": {"lora_layers": "top:2", "frozen_prefix": True}}, "hyperopt.trials_per_pass", "frozen layers"),
        ({"max_concurrent": 2}, "hyperopt.max_concurrent", "must be at least hyperopt.trials_per_pass=4, found 2"),
        (
            {"tracking": {"report_to": "tensorboard", "trials": True}},
            "hyperopt.trials_per_pass",
            "trackers follow one training a process",
        ),
        (
            {"space": {"lora_layers": {"type": "choice", "choices": ["all", "top:2"]}}},
            "search_space.lora_layers",
            "model.lora_layers differs between them",
        ),
        (
            {"space": {"precision": {"type": "choice", "choices": ["fp32", "bf16"]}}},
            "search_space.precision",
            "training.precision differs between them",
        ),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], key: str, rule: str) -> None:
    with pytest.raises(ConfigError) as raised:
        plan(**given)
    [fault] = [fault for fault in raised.value.faults if fault.key == key]
    assert rule in fault.rule
    with_one = {**given, "trials_per_pass": 1}
    plan(**with_one)


def test_what_may_differ_between_trials() -> None:
    choices = {"lora_r": [4, 8], "per_device_train_batch_size": [4, 8], "lora_target_modules": [["query"], ["key"]]}
    space = {name: {"type": "choice", "choices": values} for name, values in choices.items()}
    plan(space={**space, "lora_dropout": {"type": "uniform", "low": 0.0, "high": 0.2}})


@pytest.mark.parametrize(
    ("cores", "gpus", "hyperopt", "at_once", "passes", "cpus", "threads"),
    [
        (2, 0, {}, 8, 2, 1.0, 1),
        (2, 0, {"max_concurrent": 4}, 4, 1, 2.0, 2),
        (2, 0, {"max_concurrent": 6}, 6, 2, 1.0, 1),
        (16, 1, {}, 4, 1, 16.0, 16),
        (16, 2, {"max_concurrent": 32}, 8, 2, 8.0, 8),
        (64, 0, {"num_trials": 10}, 10, 3, 21.33, 21),
    ],
)
def test_a_pass_has_the_place_of_a_trial(
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    gpus: int,
    hyperopt: dict[str, Any],
    at_once: int,
    passes: int,
    cpus: float,
    threads: int,
) -> None:
    monkeypatch.setattr(capacity, "cores", lambda: cores)
    monkeypatch.setattr(capacity, "gpus", lambda: gpus)
    made = plan(**hyperopt)
    assert (made.at_once, made.passes, cpus_per_trial(made.config)) == (at_once, passes, cpus)
    assert made.config.training.threads == threads


def test_other_networks_are_refused() -> None:
    def tiny(kind: str, **more: Any) -> ModelConfig:
        return ModelConfig(model_name="tiny", random_init={"model_type": kind, **more})

    for kind in ("mistral", "bert", "llama", "qwen2", "qwen3", "roberta", "xlm-roberta"):
        check_kind(tiny(kind), 128)
    with pytest.raises(ConfigError, match=r"trials go through networks of .* together, found a deberta-v2"):
        check_kind(tiny("deberta-v2"), 128)
    with pytest.raises(ConfigError, match=r"attention reaches 64 subwords, and windows may have 128"):
        check_kind(tiny("mistral", sliding_window=64), 128)


def test_an_objective_of_ones_own_shares_no_passes() -> None:
    with pytest.raises(UserError, match=r"only the default objective.*fix: hyperopt.trials_per_pass=1"):
        run_search(plan(), lambda config, report: None)


def test_a_launcher_of_jobs_is_refused() -> None:
    class JoblibLauncher:
        """As Hydra's, by its name."""

    with pytest.raises(UserError, match=r"JoblibLauncher starts a job for each; fix: hydra/launcher=basic"):
        optuna_sweeper.run(plan(strategy="optuna"), JoblibLauncher())
