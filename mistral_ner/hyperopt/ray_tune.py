"""The Ray Tune engine: runs the trials of ``combined`` and ``asha`` in warm workers.

Ray Tune starts workers, hands out trials and lets ASHA decide at every report; the study owns what a trial is and how
it ended. A worker process lives through many trials, so imports and the base model are paid for once.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from typing import Any

import ray
from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.experiment import Trial
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from mistral_ner import files
from mistral_ner.hyperopt import fits
from mistral_ner.hyperopt.asha import DriverOnly, Promotion, StudyASHA, promotion
from mistral_ner.hyperopt.cluster import cluster, joined
from mistral_ner.hyperopt.leader import lead
from mistral_ner.hyperopt.plan import Plan, trial_name
from mistral_ner.hyperopt.results import Summary, ending_in_order, finish
from mistral_ner.hyperopt.signals import interruptible
from mistral_ner.hyperopt.study import GO_ON, WORKER_DIED, Study
from mistral_ner.hyperopt.watch import Watch
from mistral_ner.hyperopt.worker import Objective, run_trial
from mistral_ner.hyperopt.workers import RayWorkers, holding


def search(plan: Plan, objective: Objective | None = None) -> Summary:
    """Run a whole search and return its summary.

    Args:
        plan: the checked search.
        objective: called for each trial; left out, :func:`mistral_ner.train.fit`.

    Raises:
        UserError: the study exists and is not to be resumed, Ray cannot hold the trials, or no trial completed.
    """
    with (
        interruptible(),
        joined(plan),
        files.full_disk_named(plan.folder, again=GO_ON),
        lead(plan) as study,
        ExitStack() as ray_is_there,
    ):
        workers = None
        with Watch(study) as watch, ending_in_order(study):
            resources = ray_is_there.enter_context(cluster(plan))
            if objective is None:
                workers = ray_is_there.enter_context(closing(_final_workers(plan, resources)))
            searcher = StudySearcher(study, watch, promotion(plan), workers)
            try:
                _run(plan, searcher, resources, objective)
            except Exception:  # of Ray's own notes, which it could not write either
                if study.full_disk is None:
                    raise
            searcher.end_paused()
        if study.interrupted is not None:
            ray_is_there.close()  # with all that still runs
        return finish(study, workers)


def _final_workers(plan: Plan, resources: dict[str, float]) -> RayWorkers:
    """Return the workers of what follows the trials.

    Ray Tune keeps the resources of its workers to its end. On a machine of our own without GPUs nothing is lost by
    holding none: no more workers than it fits, and they can start while the last trials run.
    """
    own = plan.config.hyperopt.ray_address is None and len(ray.nodes()) == 1  # type: ignore[no-untyped-call]
    alone = own and not resources["gpu"]
    at_once = min(plan.at_once, fits.trials_at_once(plan.config)) if alone else plan.at_once
    if not plan.config.hyperopt.final.enabled:
        at_once = 1  # it only scores
    return RayWorkers(plan, {"num_cpus": 0} if alone else holding(resources), at_once, ahead=alone)


def _run(plan: Plan, searcher: StudySearcher, resources: dict[str, float], objective: Objective | None) -> None:
    bundle = [{"CPU": resources["cpu"], "GPU": resources["gpu"]}]

    def trial(config: dict[str, Any]) -> None:
        run_trial(config, objective)

    # Tune would wait for each worker before it starts the next, and show a growing cluster the need of one trial
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(plan.at_once)
    # Not tune.Tuner: with ray://… it would move searcher and scheduler to the cluster, away from the study.
    tune.run(
        tune.with_resources(trial, PlacementGroupFactory(bundle)),
        name=plan.folder.name,
        storage_path=plan.config.hyperopt.results_dir,
        search_alg=searcher,
        scheduler=searcher.scheduler,
        stop=_BudgetIsSpent(searcher.study),
        num_samples=-1,  # the searcher says when it has no more
        reuse_actors=True,
        trial_dirname_creator=_only_folder,
        trial_name_creator=_folder_name,
        verbose=0,
        log_to_file=False,
        raise_on_failed_trial=False,  # the study has every trial's end
        _remote=False,
    )


def _folder_name(trial: Trial) -> str:
    return trial_name(trial.config["number"])


def _only_folder(trial: Any) -> str:
    """Have Ray use a trial's folder again when the trial goes on; it would make another one beside it."""
    trial.relative_logdir = trial.storage.trial_dir_name = _folder_name(trial)
    return str(trial.relative_logdir)


class StudySearcher(DriverOnly, Searcher):
    """Asks the study for trials and tells it how they ended.

    Args:
        study: the search.
        watch: shows its events.
        rule: of pausing trials; None where a trial under its rung stops for good.
        workers: of the final trainings; they start in the slots that the last trials leave.
    """

    def __init__(
        self, study: Study, watch: Watch, rule: Promotion | None = None, workers: RayWorkers | None = None
    ) -> None:
        hyperopt = study.plan.config.hyperopt
        super().__init__(metric=hyperopt.metric, mode=hyperopt.mode)
        self.study, self.watch, self.rule, self.workers = study, watch, rule, workers
        self.scheduler = StudyASHA(study, watch, rule)
        self.numbers: dict[str, int] = {}  # Ray's id of a running trial to the study's number

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's config, None while there is nothing to start, FINISHED when all is done."""
        if len(self.numbers) >= self.study.plan.at_once:
            return None
        if self.study.spent:
            return Searcher.FINISHED
        try:
            number = self._next()
        except files.DiskFullError as error:
            self.study.full_disk = str(error)
            return Searcher.FINISHED
        if number is None:
            if self.workers is not None and self.rule is None:  # no trial that waits will want the slot
                self.workers.warm_up(self.study.plan.at_once - len(self.numbers))
            # a running trial may yet make a paused one worth going on with, or be tried again
            return None if self.numbers else Searcher.FINISHED
        self.numbers[trial_id] = number
        plan = self.study.plan
        return {
            "number": number,
            "folder": str(plan.folder / trial_name(number)),
            "metric": plan.config.hyperopt.metric,
        }

    def _next(self) -> int | None:
        """Return the trial to start: one that waits at a rung, one that was cut off, or a new one."""
        while True:
            number = self.rule.next() if self.rule is not None else None
            if number is not None and self.study.affords(number):
                self.study.take(number)
                return number
            if number is not None:
                continue  # it waits on; max_reports may still pay for another
            if self.study.complete or not self.study.affords():
                return None
            asked = self.study.ask()
            self.watch.asked(asked)
            if not asked.again or self._goes_on(asked.number):
                return asked.number

    def _goes_on(self, number: int) -> bool:
        """Whether a trial that was cut off has something left to run, by the reports that were not judged yet."""
        if self.rule is not None and number in self.rule.paused:
            self.study.rest(number)
            return False
        missed = self.study.catch_up(number)
        if number not in self.scheduler.stopped and not any(
            self.scheduler.judge(number, report, value) for report, value in sorted(missed.items())
        ):
            return True
        self.study.rest(number)
        if self.rule is None or number not in self.rule.paused:
            self.watch.ended(self.study.end(number, stopped=True))
        return False

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study that a trial is over, unless it only pauses."""
        number = self.numbers.pop(trial_id, None)
        if number is None:
            return
        failure = self.scheduler.failures.pop(number, WORKER_DIED if error else None)
        if failure is None and self.rule is not None and number in self.rule.paused:
            return
        self.watch.ended(self.study.end(number, failure, stopped=number in self.scheduler.stopped))

    def end_paused(self) -> None:
        """End the trials that were never gone on with, unless a resumed search may still."""
        for number in self.study.running:
            self.watch.ended(self.study.end(number, stopped=self.study.spent is None))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study is on disk."""


class _BudgetIsSpent(DriverOnly, Stopper):
    """Ends the search once a budget is spent; what the running trials have reported is on disk."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Whether some budget is spent."""
        return self.study.spent is not None
