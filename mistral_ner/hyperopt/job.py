"""One trial of the Hydra Optuna sweeper engine, in whichever process it runs."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass

import optuna
from optuna.trial import Trial

from mistral_ner import files
from mistral_ner.config import Config
from mistral_ner.hyperopt.logs import trial_logs
from mistral_ner.hyperopt.plan import Plan, saved_config, trial_name
from mistral_ner.hyperopt.samplers import pruner, quiet
from mistral_ner.hyperopt.search_space import SearchSpace
from mistral_ner.hyperopt.storage import STORAGE_URL, storage
from mistral_ner.hyperopt.study import STARTED, any_reaches_target, record, spent_budget
from mistral_ner.hyperopt.worker import Objective, default_objective, described


@dataclass
class Ended:
    """How a trial came back: what broke it, or whether the pruner stopped it."""

    failure: str | None = None
    stopped: bool = False


def run_job(config: Config, number: int, objective: Objective | None = None) -> Ended:
    """Run trial ``number`` of the study that ``config`` belongs to, and report to it.

    What is trained is the config that the study wrote into the trial's folder, not the one that Hydra composed from
    override strings: a value from a search space stays data that way.
    """
    plan = Plan(config, SearchSpace(()))
    folder = plan.folder / trial_name(number)
    quiet()
    url = os.environ[STORAGE_URL] if config.hyperopt.storage_url is not None else None
    study = optuna.load_study(
        study_name=config.hyperopt.study_name, storage=storage(plan.folder, url), pruner=pruner(plan)
    )
    reporter = _Reporter(plan, study, number)
    with trial_logs(folder), files.alone(folder), files.full_disk_named(folder):
        try:
            (objective or default_objective())(saved_config(folder / "config.yaml"), reporter)
        except SystemExit as end:  # the trial's end, not that of the process that it runs in
            return Ended(failure=described(end))
    return Ended(stopped=reporter.stopped)


class _Reporter:
    """Writes reports into the study; stops where the pruner or a spent budget says so."""

    def __init__(self, plan: Plan, study: optuna.Study, number: int) -> None:
        self.plan, self.study = plan, study
        self.trial = Trial(study, study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number))
        self.started: float = study.user_attrs[STARTED]
        self.stopped = False

    def __call__(self, number: int, metrics: dict[str, float]) -> bool:
        value = record(self.plan, self.trial, number, metrics)
        if not math.isfinite(value):
            return True
        if number >= self.plan.reports_per_trial:
            return False
        self.stopped = self.prunes()
        return self.stopped or self._budget_is_spent()

    def prunes(self) -> bool:
        """Whether the pruner stops the trial at its latest report."""
        if self.plan.config.hyperopt.optuna_pruner == "none":
            return False
        trial = self.study._storage.get_trial(self.trial._trial_id)
        return self.study.pruner.prune(self.study, trial)

    def _budget_is_spent(self) -> bool:
        """Whether time or the target ends the search; max_reports has paid for the whole trial before it began."""
        values = list[float]()
        if self.plan.config.hyperopt.target is not None:  # reading all trials is not free
            trials = self.study.get_trials(deepcopy=False)
            values = [value for trial in trials for value in trial.intermediate_values.values()]
        return spent_budget(self.plan, time.time() - self.started, any_reaches_target(self.plan, values)) is not None
