"""One trial as a Hydra job, in whichever process the launcher runs it."""

from __future__ import annotations

import time

import optuna
from optuna.trial import Trial

from mistral_ner.config import Config
from mistral_ner.hyperopt.logs import trial_logs
from mistral_ner.hyperopt.plan import Plan, saved_config, trial_name
from mistral_ner.hyperopt.samplers import pruner, quiet
from mistral_ner.hyperopt.search_space import SearchSpace
from mistral_ner.hyperopt.study import STARTED, reaches_target, spent_budget, storage


def run_job(config: Config) -> float:
    """Train trial ``hyperopt.trial`` of the study that ``config`` belongs to, and report to it.

    What is trained is the config that the study wrote into the trial's folder, not the one that Hydra composed from
    override strings: a value from a search space stays data that way.
    """
    from mistral_ner.train import fit

    number = config.hyperopt.trial
    assert number is not None
    plan = Plan(config, SearchSpace(()))
    folder = plan.folder / trial_name(number)
    quiet()
    study = optuna.load_study(
        study_name=config.hyperopt.study_name,
        storage=storage(plan.folder, config.hyperopt.storage_url),
        pruner=pruner(plan),
    )
    with trial_logs(folder):
        return fit(saved_config(folder / "config.yaml"), _Reporter(plan, study, number))


class _Reporter:
    """Writes reports into the study; stops where the pruner or a spent budget says so."""

    def __init__(self, plan: Plan, study: optuna.Study, number: int) -> None:
        self.plan, self.study = plan, study
        self.trial = Trial(study, study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number))
        self.started: float = study.user_attrs[STARTED]

    def __call__(self, number: int, metrics: dict[str, float]) -> bool:
        self.trial.report(metrics[self.plan.config.hyperopt.metric], number)
        whole = number >= self.plan.reports_per_trial
        return not whole and (self.trial.should_prune() or self._budget_is_spent())

    def _budget_is_spent(self) -> bool:
        hyperopt, values = self.plan.config.hyperopt, list[float]()
        if hyperopt.max_reports is not None or hyperopt.target is not None:  # reading all trials is not free
            trials = self.study.get_trials(deepcopy=False)
            values = [value for trial in trials for value in trial.intermediate_values.values()]
        reached = any(reaches_target(self.plan, value) for value in values)
        return spent_budget(self.plan, time.time() - self.started, len(values), reached) is not None
