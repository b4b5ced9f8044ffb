"""The Ray Tune engine: runs the trials of ``combined`` and ``asha`` in warm workers.

Ray Tune starts workers, hands out trials and lets ASHA decide at every report; the study owns what a trial is and how
it ended. A worker process serves many trials, so imports and the base model are loaded once.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from dataclasses import astuple
from typing import Any

import ray
from ray import tune
from ray.tune import Callback
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.experiment import Trial
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from mistral_ner import files
from mistral_ner.hyperopt.cluster.connect import join, lend_cluster
from mistral_ner.hyperopt.cluster.road import Road
from mistral_ner.hyperopt.cluster.transport import Office, open_office
from mistral_ner.hyperopt.cluster.workers import RayWorkers, Starts, actor_options, is_stranger
from mistral_ner.hyperopt.engines.hosts import RELAY_CPUS, Hosts, relay_tune_trial
from mistral_ner.hyperopt.engines.scheduler import DriverOnly, StudyScheduler
from mistral_ner.hyperopt.engines.trial import STRANGER, VERSIONS, Objective, run_tune_trial
from mistral_ner.hyperopt.results.finish import finish, record_interrupt
from mistral_ner.hyperopt.results.summary import Summary
from mistral_ner.hyperopt.spec import capacity
from mistral_ner.hyperopt.spec.plan import Plan, trial_name
from mistral_ner.hyperopt.study.event_log import EventLog
from mistral_ner.hyperopt.study.opening import lead_study
from mistral_ner.hyperopt.study.signals import catch_signals
from mistral_ner.hyperopt.study.study import GO_ON, WORKER_DIED, Study
from mistral_ner.versions import find_versions


def run(plan: Plan, objective: Objective | None = None) -> Summary:
    """Run a whole search and return its summary.

    Args:
        plan: the checked search.
        objective: called for each trial; left out, :func:`mistral_ner.train.fit`.

    Raises:
        UserError: the study exists and is not to be resumed, Ray cannot hold the trials, or no trial completed.
    """
    with (
        catch_signals(),
        join(plan),
        files.name_full_disk(plan.folder, again=GO_ON),
        lead_study(plan) as study,
        ExitStack() as ray_is_there,
    ):
        workers = None
        study.clock.trains_finals = objective is None
        with EventLog(study) as watch, record_interrupt(study):
            resources = ray_is_there.enter_context(lend_cluster(plan))
            office = ray_is_there.enter_context(open_office(plan))
            if objective is None:
                workers = ray_is_there.enter_context(closing(_final_workers(plan, resources, office)))
            hosts = None
            if plan.config.hyperopt.trials_per_pass > 1:
                hosts = Hosts(plan, resources)
                resources = {"cpu": RELAY_CPUS, "gpu": 0.0}
            searcher = StudySearcher(study, watch, workers, hosts, office)
            try:
                _run(plan, searcher, resources, objective)
            except Exception:  # Ray could not write its own files either
                if study.full_disk is None:
                    raise
            if hosts is not None:
                hosts.close()  # before the final trainings, which need their place
            searcher.end_paused()
        if study.interrupted is not None:
            ray_is_there.close()  # and the trials that still run
        return finish(study, workers)


def _final_workers(plan: Plan, resources: dict[str, float], office: Office | None) -> RayWorkers:
    """Return the workers of the final trainings.

    Ray Tune keeps the resources of its workers until it ends. In a private Ray without GPUs these workers ask for
    none, so that they can start while the last trials run; there are no more of them than the machine has room for.
    """
    own = plan.config.hyperopt.ray_address is None and len(ray.nodes()) == 1  # type: ignore[no-untyped-call]
    alone = own and not resources["gpu"]
    at_once = None if plan.grows else plan.passes
    if alone:
        at_once = min(plan.passes, capacity.count_passes(plan.config, capacity.trials_at_once(plan.config)))
    if not plan.config.hyperopt.final.enabled:
        at_once = 1  # it only scores
    options = {"num_cpus": 0} if alone else actor_options(resources)
    return RayWorkers(plan, options, at_once, ahead=alone, office=office)


def _run(plan: Plan, searcher: StudySearcher, resources: dict[str, float], objective: Objective | None) -> None:
    bundle = [{"CPU": resources["cpu"], "GPU": resources["gpu"]}]

    def trial(config: dict[str, Any]) -> None:
        road = Road(*config["road"]) if "road" in config else None
        if "host" in config:
            relay_tune_trial(config, road)
        else:
            run_tune_trial(config, objective, road)

    # otherwise Tune starts one worker after the other, and asks an autoscaling cluster for one trial's resources
    most = plan.config.hyperopt.num_trials if plan.grows else plan.at_once
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(most)
    # Not tune.Tuner: with ray://… it would move searcher and scheduler to the cluster, away from the study.
    tune.run(
        tune.with_resources(trial, PlacementGroupFactory(bundle)),
        name=plan.folder.name,
        storage_path=plan.config.hyperopt.results_dir,
        search_alg=searcher,
        scheduler=searcher.scheduler,
        stop=_IsOver(searcher),
        callbacks=[_Starts(searcher)],
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
    """Make Ray use a trial's folder again when the trial continues; otherwise it creates another one beside it."""
    trial.relative_logdir = trial.storage.trial_dir_name = _folder_name(trial)
    return str(trial.relative_logdir)


class StudySearcher(DriverOnly, Searcher):
    """Asks the study for trials and tells it how they ended.

    Args:
        study: the search.
        watch: shows its events.
        workers: of the final trainings; they start in the slots that the last trials leave.
        hosts: run the trials, several in a pass; None: each in its own worker.
        office: serves machines that do not see the study; None: all do.
    """

    def __init__(
        self,
        study: Study,
        watch: EventLog,
        workers: RayWorkers | None = None,
        hosts: Hosts | None = None,
        office: Office | None = None,
    ) -> None:
        hyperopt = study.plan.config.hyperopt
        super().__init__(metric=hyperopt.metric, mode=hyperopt.mode)
        self.study, self.watch, self.workers, self.hosts, self.office = study, watch, workers, hosts, office
        self.scheduler = StudyScheduler(study, watch)
        self.rule = self.scheduler.rule
        self.numbers: dict[str, int] = {}  # Ray's id of a running trial to the study's number
        self.over = False  # no trial is left; those of Ray that have not begun hold machines with other versions
        self._elsewhere: list[int] = []  # trials that must begin on another machine
        self._begun: set[str] = set()  # Ray's ids of those that have a worker
        self._starts = Starts()

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's config, None while there is nothing to start, FINISHED when all is done."""
        if self.hosts is not None:
            self.hosts.make_room(self.numbers.values())
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
            if self.workers is not None:  # no trial will want the slot: one that pauses leaves its own to the next
                self.workers.warm_up(self.study.plan.at_once - len(self.numbers))
            # a running trial may be tried again, or let a paused one continue
            self.over = not self.numbers
            return Searcher.FINISHED if self.over else None
        plan = self.study.plan
        found: dict[str, Any] = {
            "number": number,
            "folder": str(plan.folder / trial_name(number)),
            "metric": plan.config.hyperopt.metric,
        }
        if self.office is not None:
            found["road"] = astuple(self.office.issue(plan.folder / trial_name(number)))
            found[VERSIONS] = find_versions()
        if self.hosts is not None:
            found["host"] = self.hosts.choose(number, self.numbers.values())
        self.numbers[trial_id] = number
        return found

    def _next(self) -> int | None:
        """Return the trial to start: one that waits at a rung, one that was cut off, or a new one."""
        if self._elsewhere:
            return self._elsewhere.pop(0)
        while True:
            if (number := self._promotable()) is not None:
                if self._wakes(number):
                    return number
                continue
            if self.study.complete or not self.study.affords():
                return self._finalist()
            asked = self.study.ask()
            self.watch.log_start(asked)
            if not asked.again or self._goes_on(asked.number):
                return asked.number

    def _promotable(self) -> int | None:
        """Return the paused trial to continue, if max_reports pays for it; those before it keep waiting."""
        unpaid = []
        while (number := self.rule.next()) is not None and not self.study.affords(number):
            unpaid.append(number)
        for waits in unpaid:
            self.rule.hold(waits)
        return number

    def _finalist(self) -> int | None:
        """Return the best trial that waits, if nothing runs and no trial has completed: a search needs a winner."""
        if self.numbers or not self.rule.paused or self.study.ledger.completed:
            return None
        number = self.rule.best_paused()
        return number if number is not None and self.study.affords(number) and self._wakes(number) else None

    def _wakes(self, number: int) -> bool:
        """Take up a trial that waits; return whether it continues."""
        self.study.take(number)
        if not self._goes_on(number):
            return False
        self.watch.log_wake(number)
        return True

    def _goes_on(self, number: int) -> bool:
        """Judge what a trial of an earlier run reported unseen; return whether it continues."""
        missed = sorted(self.study.catch_up(number))
        if number in self.rule.paused and not missed:
            self.study.rest(number)
            return False
        self.rule.paused.discard(number)  # it had gone on from its rung
        if number not in self.rule.stopped and not any(
            self.scheduler.judge(number, report, self.study.look_at(number, report)) for report in missed
        ):
            return True
        self.study.rest(number)
        if number not in self.rule.paused:
            self._end(number, stopped=True)
        return False

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Give a trial to another machine that has not begun where it is; what Ray takes for it stays there."""
        if STRANGER in result and is_stranger(self.study.plan, result[STRANGER]) and trial_id in self.numbers:
            number = self.numbers.pop(trial_id)
            self._elsewhere.append(number)
            if self.hosts is not None:
                self.hosts.keep_out(number)

    def note_start(self, trial_id: str) -> None:
        """Note that a trial has a worker."""
        self._begun.add(trial_id)
        self._starts.succeed()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study that a trial is over, unless it only pauses, or its worker has died before it began."""
        number = self.numbers.pop(trial_id, None)
        if number is None:
            return
        if error and trial_id not in self._begun and self._starts.may_die(self.study.plan.at_once):
            self._elsewhere.append(number)
            return
        self._begun.discard(trial_id)
        if error and self.hosts is not None:
            self.hosts.clear(number, self.study.plan.folder / trial_name(number))
        failure = self.scheduler.failures.pop(number, WORKER_DIED if error else None)
        if failure is None and number in self.rule.paused:
            self.watch.log_pause(number, self.rule.verdict(number))
            return
        self._end(number, failure, stopped=number in self.rule.stopped)

    def _end(self, number: int, failure: str | None = None, stopped: bool = False) -> None:
        verdict = self.rule.verdict(number) if stopped else None
        self.watch.log_end(self.study.end(number, failure, stopped, verdict))

    def end_paused(self) -> None:
        """End the trials that still wait; leave them running in the study if a resumed search may continue them."""
        for number in self.study.running:
            self._end(number, stopped=self.study.spent is None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study is on disk."""


class _IsOver(DriverOnly, Stopper):
    """Ends the search once a budget is spent or no trial is left; what running trials have reported is on disk."""

    def __init__(self, searcher: StudySearcher) -> None:
        self.searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Whether it is over."""
        return self.searcher.over or self.searcher.study.spent is not None


class _Starts(DriverOnly, Callback):
    """Tells the searcher which trials have a worker."""

    def __init__(self, searcher: StudySearcher) -> None:
        self.searcher = searcher

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.searcher.note_start(trial.trial_id)
