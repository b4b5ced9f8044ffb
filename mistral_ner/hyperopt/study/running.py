"""A running trial, as seen by the process that leads its study or by the one that it runs in."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from mistral_ner.hyperopt.sampling.promise import SECOND, Judge, PromisedStudy, losses_to_keep
from mistral_ner.hyperopt.spec.plan import ENQUEUED, Plan, trial_name
from mistral_ner.hyperopt.study.storage import settle
from mistral_ner.training.checkpoint import CHECKPOINTS


@dataclass(frozen=True)
class RunningTrial:
    """A running trial, with the storage that its reports are written to and read from."""

    plan: Plan
    storage: BaseStorage
    trial: Trial
    trial_id: int

    @classmethod
    def of(cls, plan: Plan, storage: BaseStorage, trial: Trial) -> RunningTrial:
        """Return a trial that the study was just asked for."""
        return cls(plan, storage, trial, _find_id(trial.study, storage, trial.number))

    @classmethod
    def find(cls, plan: Plan, storage: BaseStorage, study: optuna.Study, number: int) -> RunningTrial:
        """Return a trial that was asked for earlier, in this process or another.

        Raises:
            KeyError: the study has no such trial.
        """
        trial_id = _find_id(study, storage, number)
        return cls(plan, storage, Trial(study, trial_id), trial_id)

    @property
    def study(self) -> optuna.Study:
        """The study that the trial belongs to."""
        return self.trial.study

    def read(self) -> FrozenTrial:
        """Return the trial as it is in the storage now, whichever process wrote it."""
        return self.storage.get_trial(self.trial_id)

    def tidy(self, end: TrialState) -> None:
        """Delete the checkpoints of a trial that was stopped for good or failed, up to 2 GB for a 7B; its reports stay.

        A complete one has deleted its own.
        """
        folder = self.plan.folder / trial_name(self.trial.number) / CHECKPOINTS
        if end != TrialState.COMPLETE and folder.is_dir():
            settle(self.storage)  # if the trial's end were lost, the trial would continue, and begin again
            shutil.rmtree(folder, ignore_errors=True)

    def record(self, report: int, metrics: Mapping[str, object]) -> float:
        """Write a report, which counts from 1, into the study; return the metric.

        Raises:
            KeyError: the report lacks a metric; the message names those that it has.
        """
        value, *second = read_metrics(self.plan, metrics)
        for name, loss in losses_to_keep(self.plan, report, metrics).items():
            self.trial.set_user_attr(name, loss)  # before the report, which a crash must not leave without it
        if second:
            earlier = self.trial.user_attrs.get(SECOND, {})
            self.trial.set_user_attr(SECOND, {**earlier, str(report): second[0]})
        # not trial.report: it refuses a study of two metrics
        self.storage.set_trial_intermediate_value(self.trial_id, report, value)
        return value

    def draw_again(self) -> None:
        """Draw again what a cut-off proposal had drawn, so that the sampler draws the rest as before."""
        trial = self.read()
        given = {**trial.system_attrs.get(ENQUEUED, {}), **self.trial.relative_params}
        for name, distribution in trial.distributions.items():
            if name not in given and not distribution.single():
                self.study.sampler.sample_independent(self.study, trial, name, distribution)

    def is_pruned(self) -> bool:
        """Whether Optuna's pruner stops the trial at its latest report."""
        if self.plan.config.hyperopt.optuna_pruner == "none":
            return False
        trial = self.read()
        if not trial.intermediate_values:
            return False
        view = PromisedStudy(self.study, Judge(self.plan), max(trial.intermediate_values))
        return self.study.pruner.prune(view, view.show(trial))  # type: ignore[arg-type]


def _find_id(study: optuna.Study, storage: BaseStorage, number: int) -> int:
    study_id = storage.get_study_id_from_name(study.study_name)
    return storage.get_trial_id_from_study_id_trial_number(study_id, number)


def read_metrics(plan: Plan, metrics: Mapping[str, object]) -> list[float]:
    """Return the metric of a report and, in a search for two, the second one.

    Raises:
        KeyError: one is missing.
    """
    wanted = [name for name in (plan.config.hyperopt.metric, plan.config.hyperopt.second_metric) if name is not None]
    for name in wanted:
        if name not in metrics:
            raise KeyError(f"no report has the metric {name!r}; there are: {', '.join(sorted(metrics))}")
    return [float(metrics[name]) for name in wanted]  # type: ignore[arg-type]
