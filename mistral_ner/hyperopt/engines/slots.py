"""Where the trials of the Hydra Optuna sweeper engine run: in this process, in workers, or in a Hydra launcher."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from hydra.core.utils import JobReturn, JobStatus

from mistral_ner.config.schema import ResourcesConfig
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster.workers import Remote, WorkerDiedError
from mistral_ner.hyperopt.engines.trial import Ended, Objective, describe_error, try_study_trial
from mistral_ner.hyperopt.spec import capacity
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.study import WORKER_DIED

log = logging.getLogger(__name__)


class Slots(Protocol):
    """Runs trials by number; ``ended`` returns those that ended since the last call, and waits a moment for one."""

    @property
    def running(self) -> list[int]:
        """Numbers of the trials that have not ended."""

    @property
    def free(self) -> bool:
        """Whether another trial can start."""

    def start(self, number: int) -> None:
        """Start a trial."""

    def ended(self) -> list[tuple[int, Ended]]:
        """Return the trials that have ended, and how."""


class InProcess:
    """Runs one trial at a time in this process."""

    def __init__(self, plan: Plan, objective: Objective | None) -> None:
        self.plan, self.objective = plan, objective
        self.running: list[int] = []
        self._waiting: list[int] = []

    @property
    def free(self) -> bool:
        return not self._waiting

    def start(self, number: int) -> None:
        self._waiting.append(number)

    def ended(self) -> list[tuple[int, Ended]]:
        waiting, self._waiting = self._waiting, []
        return [(number, try_study_trial(self.plan.folder, number, self.objective)) for number in waiting]


class InWorkers:
    """Runs each trial in another process, as many at once as the search allows: a Ray worker, or a job of Slurm.

    Args:
        workers: where the trials run.
        call: returns a trial's function and its arguments.
        result: turns the function's return value into how the trial ended.
    """

    def __init__(self, workers: Remote, call: Callable[[int], Sequence[Any]], result: Callable[[Any], Ended]) -> None:
        self.workers, self._call, self._result = workers, call, result
        self._trials: dict[Any, int] = {}  # by the call that runs it

    @property
    def running(self) -> list[int]:
        return list(self._trials.values())

    @property
    def free(self) -> bool:
        return len(self._trials) < self.workers.at_once

    def start(self, number: int) -> None:
        self._trials[self.workers.start(*self._call(number))] = number

    def ended(self) -> list[tuple[int, Ended]]:
        # a short wait, because the caller reads the running trials' reports in between
        return [(self._trials.pop(done), self._ended(done)) for done in self.workers.ended(seconds=0.2)]

    def _ended(self, call: Any) -> Ended:
        try:
            returned = self.workers.result(call)
        except WorkerDiedError as error:
            return Ended(failure=str(error))
        except Exception as error:  # before the trial began: a missing module, for example
            return Ended(failure=describe_error(error))
        return self._result(returned)


class InLauncher:
    """Runs trials as jobs of a Hydra launcher that returns when the whole batch is done: basic, joblib.

    Args:
        plan: the search.
        launcher: Hydra's, after its setup.
        overrides: returns the overrides of a trial's job.

    Raises:
        UserError: several trials would share one GPU.
    """

    def __init__(self, plan: Plan, launcher: Any, overrides: Callable[[int], list[str]]) -> None:
        self.launcher, self.overrides = launcher, overrides
        name = type(launcher).__name__
        self.width = 1 if name == "BasicLauncher" else plan.at_once
        if name == "JoblibLauncher" and self.width > 1 and capacity.gpus():
            raise UserError(
                f"hydra/launcher=joblib would run {self.width} trials at once on the first GPU, since it gives no GPUs "
                "out; fix: hydra/launcher=ray, or hyperopt.max_concurrent=1"
            )
        hyperopt = plan.config.hyperopt
        if plan.at_once > self.width:
            log.warning("%s runs one trial at a time; hydra/launcher=ray runs max_concurrent at once", name)
        if hyperopt.resources_per_trial != ResourcesConfig():
            log.warning("%s reserves nothing: hyperopt.resources_per_trial needs hydra/launcher=ray", name)
        self.running: list[int] = []
        self._waiting: list[int] = []

    @property
    def free(self) -> bool:
        return len(self._waiting) < self.width

    def start(self, number: int) -> None:
        self._waiting.append(number)

    def ended(self) -> list[tuple[int, Ended]]:
        numbers, self._waiting = self._waiting, []
        returns: list[JobReturn] = []
        for batch in _consecutive(numbers):  # Hydra counts a batch's jobs, and their folders, up from the first
            returns += self.launcher.launch([self.overrides(number) for number in batch], initial_job_idx=batch[0])
        return [(number, ended_job(returned)) for number, returned in zip(numbers, returns, strict=True)]


def _consecutive(numbers: list[int]) -> list[list[int]]:
    batches: list[list[int]] = []
    for number in numbers:
        if batches and number == batches[-1][-1] + 1:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def ended_job(job: JobReturn) -> Ended:
    """Return how the trial of a Hydra job ended."""
    try:
        value = job.return_value  # raises what the job has raised
    except (Exception, SystemExit) as error:
        return Ended(failure=describe_error(error))
    return value if job.status == JobStatus.COMPLETED and isinstance(value, Ended) else Ended(failure=WORKER_DIED)
