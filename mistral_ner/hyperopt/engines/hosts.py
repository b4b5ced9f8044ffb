"""Trials of Ray Tune that go through the base model together: they run in hosts, and their Tune workers relay reports.

A host is a Ray actor that runs several trials, each in a thread of its own. Tune knows one worker a trial; here that
worker only asks the host for the trial's next report, and tells it whether the trial goes on.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mistral_ner.garbage import collect_rarely
from mistral_ner.hyperopt.cluster.road import Road, work_in
from mistral_ner.hyperopt.cluster.workers import Machine, introduce, worker_class
from mistral_ner.hyperopt.engines.trial import (
    FAILURE,
    REPORT,
    STRANGER,
    describe_error,
    find_stranger,
    log_failure,
    run_trial,
)
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.event_log import write_trial_log
from mistral_ner.training.gpu import device_works

RELAY_CPUS = 0.001  # of a worker that relays reports
_OF_PASS = 0.9  # of a pass's CPUs for its host: Ray may put relays on any machine, and each must have room for a host
_ENDED = "ended"
_PATIENCE = 60.0  # seconds for a host that does not answer
_SHORT = 10.0  # the same, where another host can do its work
_LATE = 30.0  # seconds after which a host that has not started is taken to wait for a place


class Hosts:
    """The hosts of a search: started when trials come, as many as the search has passes; one that died is replaced.

    A new host may find no place: a machine died, or others use the cluster. It gets the place of one that is idle.

    Args:
        plan: the search.
        resources: CPUs and GPUs of a pass.
    """

    def __init__(self, plan: Plan, resources: dict[str, float]) -> None:
        self._plan = plan
        options = {"num_cpus": _OF_PASS * resources["cpu"], "num_gpus": resources["gpu"]}
        # a thread for each trial that asks for its report, and for one that ends another's remains
        self._class = worker_class({**options, "max_concurrency": 2 * plan.config.hyperopt.trials_per_pass}, _Host)
        self._actors: dict[str, Any] = {}  # by name
        # those that have not started: what each returns once it has, and since when it waits
        self._starting: dict[str, tuple[Any, float]] = {}
        self._outside: list[Any] = []  # of machines that get no trials: each keeps its place taken
        self._of: dict[int, str] = {}  # the host of each trial

    def choose(self, number: int, running: Iterable[int]) -> str:
        """Return the name of an idle or a new host for a trial, else of the one with the fewest of those that run."""
        busy = self._count_trials(running)
        for idle in [name for name in self._actors if not busy[name]]:
            self._forget_if_dead(idle)
        chosen = min(self._actors, key=lambda name: busy[name], default="")
        if not chosen or (busy[chosen] and len(self._actors) < self._plan.passes):
            chosen = f"host-{uuid.uuid4().hex[:12]}"
            actor = self._actors[chosen] = self._class.options(name=chosen).remote()
            self._starting[chosen] = actor.introduce.remote(), time.monotonic()
        self._of[number] = chosen
        return chosen

    def _count_trials(self, running: Iterable[int]) -> Counter[str]:
        return Counter(self._of[one] for one in running if one in self._of)

    def _forget_if_dead(self, name: str) -> None:
        """End a host that has started and answers no more: its machine may have died while it was idle."""
        import ray

        if name in self._starting:
            return
        try:
            ray.get(self._actors[name].introduce.remote(), timeout=_SHORT)
        except ray.exceptions.RayError:  # GetTimeoutError is one
            ray.kill(self._actors.pop(name))

    def make_room(self, running: Iterable[int]) -> None:
        """End an idle host if another one waits for a place: else it might wait for ever, and its trials with it."""
        import ray

        if not self._starting:
            return
        started = ray.wait([one for one, _ in self._starting.values()], num_returns=len(self._starting), timeout=0)[0]
        self._starting = {name: one for name, one in self._starting.items() if one[0] not in started}
        busy, now = self._count_trials(running), time.monotonic()
        late = [name for name, (_, since) in self._starting.items() if busy[name] and now - since > _LATE]
        idle = [name for name in self._actors if name not in self._starting and not busy[name]]
        for waits, ended in zip(late, idle, strict=False):
            ray.kill(self._actors.pop(ended))
            self._starting[waits] = self._starting[waits][0], now  # it has time to start

    def keep_out(self, number: int) -> None:
        """Give no trials to a trial's host any more, and leave it where it is."""
        if (actor := self._actors.pop(self._of[number], None)) is not None:
            self._outside.append(actor)

    def clear(self, number: int, folder: Path) -> None:
        """End what is left of a trial whose Tune worker or host died, so that it can run again."""
        import ray

        name, until = self._of.get(number, ""), time.monotonic() + _PATIENCE
        while name in self._actors:
            try:
                ray.get(self._actors[name].clear.remote(str(folder)), timeout=_PATIENCE)
                return
            except ray.exceptions.ActorUnavailableError:  # it may be dying
                if time.monotonic() > until:
                    return
                time.sleep(0.2)
            except ray.exceptions.RayError:
                ray.kill(self._actors.pop(name))

    def close(self) -> None:
        """End the hosts, whatever they are doing."""
        import ray

        for actor in [*self._actors.values(), *self._outside]:
            ray.kill(actor)


class _Host:
    """Runs trials in threads; lives in a Ray actor."""

    def __init__(self) -> None:
        collect_rarely()
        self._trials: dict[str, _Trial] = {}  # by folder

    def introduce(self) -> Machine:
        """Return the host's machine, which shows that it has started."""
        return introduce()

    def begin(self, folder: str, road: Road | None = None) -> tuple[str, Any]:
        """Start a trial and return its first report, or how it ended."""
        self.clear(folder)
        self._trials[folder] = _Trial(Path(folder), road)
        return self._next(folder)

    def go_on(self, folder: str, stop: bool) -> tuple[str, Any]:
        """Let a trial go on, or stop; return its next report, or how it ended."""
        self._trials[folder].answers.put(stop)
        return self._next(folder)

    def clear(self, folder: str) -> None:
        """Stop a trial that nobody asks any more at its next report."""
        if (trial := self._trials.pop(folder, None)) is not None:
            trial.answers.put(True)
            trial.answers.put(True)  # one for a report that it may be making
            trial.thread.join()

    def _next(self, folder: str) -> tuple[str, Any]:
        trial = self._trials[folder]
        kind, value = trial.events.get()
        if kind != REPORT:
            trial.thread.join()
            if self._trials.get(folder) is trial:  # else it was cleared, and perhaps begun again
                del self._trials[folder]
        if kind == FAILURE and not device_works():
            import ray

            ray.actor.exit_actor()  # type: ignore[no-untyped-call]  # the others on this card fail alike; another host is started
        return kind, value


class _Trial:
    """A trial that runs in a thread of its host."""

    def __init__(self, folder: Path, road: Road | None) -> None:
        self.folder, self.road = folder, road
        self.events: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.answers: queue.Queue[bool] = queue.Queue()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            with (
                work_in(self.folder, self.road) as place,
                write_trial_log(place.folder, this_thread=True),
                log_failure(),
            ):
                run_trial(None, place, self._report)
        except (Exception, SystemExit) as error:
            self.events.put((FAILURE, describe_error(error)))
        else:
            self.events.put((_ENDED, None))

    def _report(self, number: int, metrics: dict[str, float]) -> bool:
        self.events.put((REPORT, {**metrics, REPORT: number}))
        return self.answers.get()


def relay_tune_trial(trial: dict[str, Any], road: Road | None = None) -> None:
    """Run the trial in ``trial["folder"]``, which ``road`` leads to, in its host; report to Ray Tune.

    Where the host's machine has other versions than the driver, the trial does not begin.
    """
    import ray
    from ray import tune

    host, folder, metric = ray.get_actor(trial["host"]), trial["folder"], trial["metric"]
    if (machine := find_stranger(trial, _wait_for(host))) is not None:
        tune.report({STRANGER: machine})
        return
    kind, value = _ask(host.begin.remote(folder, road))
    stop: SystemExit | None = None
    while kind == REPORT:
        if metric not in value:
            known = ", ".join(sorted(value.keys() - {REPORT}))
            tune.report({FAILURE: f"KeyError: no report has the metric {metric!r}; there are: {known}"})
            ray.get(host.clear.remote(folder))
            return
        try:
            tune.report(value)
        except SystemExit as end:  # this is how Ray Tune ends a trial's thread
            stop = end
        kind, value = _ask(host.go_on.remote(folder, stop is not None))
    if stop is not None:
        raise stop
    if kind == FAILURE:
        tune.report({FAILURE: value})


def _ask(reference: Any) -> tuple[str, Any]:
    import ray

    answer: Any = ray.get(reference)
    return answer[0], answer[1]


def _wait_for(host: Any) -> Machine:
    """Wait for a host to start; return its machine."""
    import ray

    until = time.monotonic() + _PATIENCE
    while True:
        try:
            machine: Machine = ray.get(host.introduce.remote())
            return machine
        except ray.exceptions.ActorUnavailableError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
