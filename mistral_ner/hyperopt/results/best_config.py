"""``best_config.yaml``: a complete config that repeats the best training, to the same number.

It holds the best single trial until the final trainings are done, and then the training of the final model: the
winner's settings with its seed. The second line of the file says which.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from mistral_ner import files
from mistral_ner.hyperopt.results.final import Final
from mistral_ner.hyperopt.results.model_card import name_settings
from mistral_ner.hyperopt.results.trainings import FOLDER
from mistral_ner.hyperopt.spec.plan import Plan, train_again, trial_name

NAME = "best_config.yaml"

_NOT_THE_TRAINING = ("search_space", "hyperopt", "budget")


def write_trial(plan: Plan, trial: FrozenTrial, value: float) -> str:
    """Write the config of the best single trial of the search; return a description of it."""
    config = _read(plan.folder / trial_name(trial.number) / "config.yaml")
    if trial.state != TrialState.COMPLETE:  # it was cut off when it reached the target
        config["training"]["stop_after"] = max(trial.intermediate_values)
    return _write(plan, config, f"trial {trial.number}, the best single trial: {_format_metric(plan, value)}")


def write_final(plan: Plan, final: Final) -> str:
    """Write the config of the training that made the final model; return a description of it."""
    config, winner = _read(plan.folder / FOLDER / "config.yaml"), final.winner
    name, value = name_settings(asdict(winner)), _format_metric(plan, winner.dev[str(final.seed)])
    if len(final.settings) == 1 and final.seeds == [plan.config.seed]:
        return _write(plan, config, f"{name}, the best single trial: {value}")
    return _write(plan, config, f"the winner of the final trainings, {name}, with seed {final.seed}: {value}")


def read_description(folder: Path) -> str:
    """Return what the ``best_config.yaml`` of the study in ``folder`` says it holds, or "" if there is none."""
    try:
        head = (folder / NAME).read_text(encoding="utf-8").splitlines()[:2]
    except OSError:
        return ""
    return head[1].removeprefix("# ") if len(head) == 2 else ""


def _format_metric(plan: Plan, value: float) -> str:
    return f"{plan.config.hyperopt.metric} {value:.4f} at its best report"


def _read(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = files.read_yaml(path)
    return config


def _write(plan: Plan, config: dict[str, Any], description: str) -> str:
    config = {key: value for key, value in config.items() if key not in _NOT_THE_TRAINING}
    config["tracking"] = asdict(plan.config.tracking)  # it is off for trials only
    # Hydra chooses the output folder, a new one for each run. Everything else is data, `$` included.
    config = escape_interpolations(config)
    config["output_dir"] = "${hydra:runtime.output_dir}"
    head = f"# {train_again(plan.folder)}\n# {description}\n"
    # written by OmegaConf, so that a text such as 1e5 is read as text again
    text = head + OmegaConf.to_yaml(OmegaConf.create(config))
    files.write_text(plan.folder / NAME, text)
    if (copy := plan.config.hyperopt.save_best_config) is not None:
        files.write_text(Path(copy), text)
    return description


def escape_interpolations(value: Any) -> Any:
    """Return a value of a config file with its texts escaped, so that OmegaConf reads them back as they are."""
    if isinstance(value, dict):
        return {key: escape_interpolations(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escape_interpolations(item) for item in value]
    # each pair of backslashes before ${ stands for one
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
