"""Work after a search in Ray's workers: side by side, with the numbers of one after the other, whoever dies."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import ray

from mistral_ner.config.schema import Config
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster.workers import Call, Failed, Here, RayWorkers, WorkerDiedError, actor_options
from mistral_ner.hyperopt.dispatch import run_search
from mistral_ner.hyperopt.results.final import finalise
from mistral_ner.hyperopt.results.trainings import Candidate
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.opening import read_study
from mistral_ner.hyperopt.study.study import REASON, WORKER_DIED

pytestmark = pytest.mark.usefixtures("ray_for_all")
ONE = {"cpu": 1.0, "gpu": 0.0}


@pytest.fixture(scope="module")
def ray_gpus() -> int:
    """Ray takes our word for them: it hands them out, whether they are there or not."""
    return 2


@pytest.fixture
def plan(tiny: dict[str, Any], tmp_path: Path) -> Plan:
    hyperopt = {
        "strategy": "combined",
        "num_trials": 2,
        "max_concurrent": 2,
        "asha_max_t": 3,
        "results_dir": str(tmp_path),
        "study_name": "s",
        "final": {"top_k": 1, "seeds": 2},
    }
    space = {"learning_rate": {"type": "loguniform", "low": 1e-5, "high": 3e-2}}
    return Plan.of({**tiny, "search_space": space, "hyperopt": hyperopt})


def meeting(folder: Path, processes: int = 2) -> Callable[[], None]:
    """Return a call that comes back once so many processes have made it; on a busy machine a worker starts late."""
    folder.mkdir()

    def meet() -> None:
        Path(folder, str(os.getpid())).touch()
        deadline = time.monotonic() + 90
        while len(list(folder.iterdir())) < processes and time.monotonic() < deadline:
            time.sleep(0.02)

    return meet


def noting(
    name: str, note: Callable[[], Any], seconds: float = 0.02
) -> Callable[[Config, Callable[[int, dict[str, float]], Any]], None]:
    """Return a short objective that notes something in its folder; made in a function, so that workers get a copy."""

    def objective(config: Config, report: Callable[[int, dict[str, float]], Any]) -> None:
        Path(config.output_dir, name).write_text(str(note()))
        for number in range(1, config.training.reports + 1):
            time.sleep(seconds)
            if report(number, {"eval_f1": 0.5 + number / 100}):
                return

    return objective


def test_side_by_side_in_workers_that_stay(plan: Plan, tmp_path: Path) -> None:
    meet = meeting(tmp_path / "processes")

    def work(item: int) -> tuple[int, float, float]:
        begun = time.time()
        meet()
        time.sleep(0.1)
        return os.getpid(), begun, time.time()

    with closing(RayWorkers(plan, actor_options(ONE))) as workers:
        done = dict(workers.each(work, range(5)))
        again = dict(workers.each(work, range(2)))
    assert sorted(done) == [0, 1, 2, 3, 4]
    processes = {process for process, _, _ in done.values()}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert {process for process, _, _ in again.values()} <= processes
    spans = sorted((begun, ended) for _, begun, ended in done.values())
    assert any(later < ended for (_, ended), (later, _) in itertools.pairwise(spans)), "two at a time"


def test_a_worker_keeps_its_gpu(plan: Plan, tmp_path: Path) -> None:
    """Ray ends a task's process that had a GPU; and one that has begun with a GPU cannot change to another."""
    meet = meeting(tmp_path / "processes")

    def work(item: int) -> tuple[int, str]:
        meet()
        time.sleep(0.1)
        return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]

    with closing(RayWorkers(plan, actor_options({"cpu": 1.0, "gpu": 1.0}))) as workers:
        done = dict(workers.each(work, range(6)))
    assert sorted(gpu for _, gpu in set(done.values())) == ["0", "1"], "two processes, each with a GPU of its own"


def test_jobs_on_gpus_have_warm_workers_that_train_on(plan: Plan, tmp_path: Path) -> None:
    plan.config.hyperopt.strategy = "optuna"
    plan.config.hyperopt.num_trials = 5
    plan.config.hyperopt.resources_per_trial.gpu = 1.0
    run_search(plan)
    paths = list(tmp_path.glob("s/**/logs.txt"))
    logs = "".join(path.read_text() for path in paths)
    assert len(paths) >= 5 + 1
    assert 1 <= logs.count("encoded train") + logs.count("encoded data read") <= 2, "trials and final trainings"


def test_trials_shorter_than_the_start_of_a_worker_have_two(plan: Plan, tmp_path: Path) -> None:
    """A free worker goes to the next trial, not to the one whose worker is starting: that one would be ended."""
    plan.config.hyperopt.num_trials = 120

    class Other:
        """Has one of the two CPUs while the first trials run."""

        def there(self) -> None:
            pass

    other = ray.remote(num_cpus=1)(Other).remote()
    ray.get(other.there.remote())
    gone = threading.Timer(2.0, ray.kill, [other])
    gone.start()

    run_search(plan, noting("process", os.getpid))
    gone.join()
    ran = Counter(path.read_text() for path in tmp_path.glob("s/trial_*/process"))
    assert sum(ran.values()) == 120
    assert len(ran) == 2
    assert min(ran.values()) > 10


def test_the_oldest_trial_that_waits_is_next(plan: Plan, tmp_path: Path) -> None:
    """Three may run at once, and two have room: none waits until the search has no newer ones."""
    plan.config.hyperopt.num_trials = 30
    plan.config.hyperopt.max_concurrent = 3
    plan.config.hyperopt.resources_per_trial.cpu = 1.0

    meet = meeting(tmp_path / "processes")

    def began_at() -> float:
        began = time.time()
        meet()
        return began

    run_search(plan, noting("began", began_at, seconds=0.05))
    began = {path.parent.name: float(path.read_text()) for path in tmp_path.glob("s/trial_*/began")}
    order = [int(name.removeprefix("trial_")) for name in sorted(began, key=lambda name: began[name])]
    assert sorted(order) == list(range(30))
    assert all(abs(place - number) <= 3 for place, number in enumerate(order)), order


@pytest.mark.parametrize("strategy", ["combined", "optuna"])
def test_a_worker_whose_gpu_a_trial_has_broken_is_replaced(plan: Plan, strategy: str, tmp_path: Path) -> None:
    """CUDA's own errors stay with a process; here a trial makes torch answer as it does then."""
    plan.config.hyperopt.strategy = strategy
    plan.config.hyperopt.num_trials = 6
    plan.config.hyperopt.resources_per_trial.gpu = 1.0

    def objective(config: Config, report: Callable[[int, dict[str, float]], bool | None]) -> None:
        import torch

        def broken() -> None:
            raise RuntimeError("CUDA error: device-side assert triggered")

        mine = Path(config.output_dir, "process")
        mine.write_text(str(os.getpid()))
        first = [mine.parents[1] / f"trial_000{number}" / "process" for number in range(2)]
        while mine in first and not all(path.exists() for path in first):
            time.sleep(0.02)  # so that each of the two workers has one of them
        if config.output_dir.endswith("2"):
            torch.cuda.is_initialized, torch.cuda.synchronize = lambda: True, broken
        for number in range(1, config.training.reports + 1):
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            if report(number, {"eval_f1": 0.5 + number / 100}):
                return

    run_search(plan, objective=objective)
    trials = read_study(tmp_path / "s").trials
    assert [trial.state.name for trial in trials].count("FAIL") == 1
    assert trials[2].user_attrs[REASON] == "RuntimeError: CUDA error: device-side assert triggered"
    processes = [(tmp_path / f"s/trial_{number:04d}/process").read_text() for number in range(6)]
    assert processes[2] in processes[:2]
    assert processes[2] not in processes[3:]


def test_more_calls_than_ray_has_room_for(plan: Plan) -> None:
    """Those that wait are served by the workers that are there."""
    plan.config.hyperopt.max_concurrent = 5
    with closing(RayWorkers(plan, {"num_cpus": 1, "num_gpus": 1})) as workers:
        done = dict(workers.each(lambda item: (item, os.getpid()), range(7)))
    assert [done[item][0] for item in range(7)] == list(range(7))
    assert len({process for _, process in done.values()}) <= 2


def test_workers_start_ahead_where_there_is_room(plan: Plan, tmp_path: Path) -> None:
    for ahead in (True, False):
        meet = meeting(tmp_path / f"ahead-{ahead}")

        def work(item: int, meet: Callable[[], None] = meet) -> tuple[int, bool]:
            meet()
            return os.getpid(), "mistral_ner.training.fit" in sys.modules

        workers = RayWorkers(plan, {"num_cpus": 0}, ahead=ahead)
        workers.warm_up(1)
        workers.warm_up(5)  # no more than are of use
        assert len(workers._starting) == (2 if ahead else 0)
        done = dict(workers.each(work, range(4)))
        workers.close()
        assert len({process for process, _ in done.values()}) == 2
        assert {warm for _, warm in done.values()} == {ahead}


def test_a_dead_worker_costs_its_own_work_alone(plan: Plan) -> None:
    def work(item: str) -> str:
        if item == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if item == "refused":
            raise UserError("no such data")
        return item

    with closing(RayWorkers(plan, actor_options(ONE))) as workers:
        done = dict(workers.each(work, ["a", "killed", "refused", "b", "c"]))
    assert done == {"a": "a", "b": "b", "c": "c", "killed": Failed(WORKER_DIED), "refused": Failed("no such data")}


def test_a_worker_that_dies_while_it_starts_costs_no_call(plan: Plan) -> None:
    with closing(RayWorkers(plan, actor_options(ONE), at_once=1)) as workers:
        call = workers.start(str, 1)
        kill_starting(workers)
        while not (done := workers.ended(1.0)):
            pass
        assert done == [call]
        assert workers.result(call) == "1"


def test_where_no_worker_starts_the_calls_fail(plan: Plan) -> None:
    with closing(RayWorkers(plan, actor_options(ONE), at_once=1)) as workers:
        calls = [workers.start(str, 1), workers.start(str, 2)]
        done: list[Call] = []
        while len(done) < len(calls):
            kill_starting(workers)
            done += workers.ended(1.0)
        assert done == calls
        for call in calls:
            with pytest.raises(WorkerDiedError):
                workers.result(call)


def kill_starting(workers: RayWorkers) -> None:
    for actor in workers._starting.values():
        ray.kill(actor)


def test_a_fault_of_the_program_is_raised(plan: Plan) -> None:
    def work(item: int) -> None:
        raise ZeroDivisionError("a fault")

    with closing(RayWorkers(plan, actor_options(ONE))) as workers, pytest.raises(ZeroDivisionError, match="a fault"):
        list(workers.each(work, [1]))


def test_final_trainings_side_by_side_end_as_one_after_the_other(plan: Plan, tmp_path: Path) -> None:
    found = [Candidate(0, {"learning_rate": 2e-2}, 0.5)]
    ends = {}
    for name in ("here", "ray"):
        plan.config.hyperopt.study_name = name
        if name == "here":
            # alone, a training has all threads; as many as in Ray, so that it rounds alike
            plan.config.hyperopt.max_concurrent = 1
            finalise(plan, found, Here())
        else:
            plan.config.hyperopt.max_concurrent = 2
            with closing(RayWorkers(plan, actor_options(ONE))) as workers:
                finalise(plan, found, workers)
        ends[name] = json.loads((tmp_path / name / "final/final.json").read_text())
    assert ends["here"] == ends["ray"]
    assert len(ends["ray"]["settings"]) == 2, "the trial and the default config"
    weights = "final/adapter_model.safetensors"
    assert (tmp_path / "here" / weights).read_bytes() == (tmp_path / "ray" / weights).read_bytes()
    assert len(list(tmp_path.glob("ray/final/candidates/*/logs.txt"))) == 4
