"""``best_config.yaml``: a primary config of its own that trains what the search found again, to the same number.

Before the final trainings, and where there are none, it holds the best single trial; after them the training that is
the final model: the winner's settings with its seed. The second line says which.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from mistral_ner import files
from mistral_ner.hyperopt.card import settings_name
from mistral_ner.hyperopt.final import FOLDER, Final
from mistral_ner.hyperopt.plan import Plan, train_again, trial_name
from mistral_ner.hyperopt.quoting import escaped

NAME = "best_config.yaml"

_NOT_THE_TRAINING = ("search_space", "hyperopt", "budget")


def write_trial(plan: Plan, trial: FrozenTrial, value: float) -> str:
    """Write the config of a trial of the search, the best single one; return what it is in words."""
    config = _read(plan.folder / trial_name(trial.number) / "config.yaml")
    if trial.state != TrialState.COMPLETE:  # it reached the target and went no further
        config["training"]["stop_after"] = max(trial.intermediate_values)
    return _write(plan, config, f"trial {trial.number}, the best single trial: {_metric(plan, value)}")


def write_final(plan: Plan, final: Final) -> str:
    """Write the config of the training that is the final model; return what it is in words."""
    config, winner = _read(plan.folder / FOLDER / "config.yaml"), final.winner
    name, value = settings_name(asdict(winner)), _metric(plan, winner.dev[str(final.seed)])
    if len(final.settings) == 1 and final.seeds == [plan.config.seed]:
        return _write(plan, config, f"{name}, the best single trial: {value}")
    return _write(plan, config, f"the winner of the final trainings, {name}, with seed {final.seed}: {value}")


def what_it_is(folder: Path) -> str:
    """Return in words what the ``best_config.yaml`` of the study in ``folder`` holds, nothing where there is none."""
    try:
        head = (folder / NAME).read_text(encoding="utf-8").splitlines()[:2]
    except OSError:
        return ""
    return head[1].removeprefix("# ") if len(head) == 2 else ""


def _metric(plan: Plan, value: float) -> str:
    return f"{plan.config.hyperopt.metric} {value:.4f} at its best report"


def _read(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = files.read_yaml(path)
    return config


def _write(plan: Plan, config: dict[str, Any], what: str) -> str:
    config = {key: value for key, value in config.items() if key not in _NOT_THE_TRAINING}
    config["tracking"] = asdict(plan.config.tracking)  # off for trials only
    # Only the folder is left to Hydra: each run gets its own. Everything else is data, `$` included.
    config = escaped(config)
    config["output_dir"] = "${hydra:runtime.output_dir}"
    head = f"# {train_again(plan.folder)}\n# {what}\n"
    # OmegaConf's own way to write it: a text such as 1e5 comes back as text
    text = head + OmegaConf.to_yaml(OmegaConf.create(config))
    files.write_text(plan.folder / NAME, text)
    if (copy := plan.config.hyperopt.save_best_config) is not None:
        files.write_text(Path(copy), text)
    return what
