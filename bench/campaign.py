"""A fault campaign: searches are killed at random, seeded moments until they end, and must end as if nothing had been.

.venv/bin/python bench/campaign.py [--seed N] [--case NAME] [--jobs N]  writes results/campaign.json

Killed with SIGKILL, by process id, are: the driver as it starts, in the middle of the search or of a write, while it
writes the results; a worker, in the middle of a report or of a write; the driver with all that it has started. The
search is then resumed at once, beside what outlived the kill, and killed again. In the end, the study must have the
trials asked for, with their true states and values, each report run once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
PATHS = [str(HERE.parent), str(HERE), str(HERE.parent / "tests/integration")]
sys.path[:0] = [path for path in PATHS if path not in sys.path]

from arithmetic import REPORTS, value_of  # noqa: E402
from campaign_cases import CASES, Case, Figures  # noqa: E402
from campaign_life import DEATHS, ORDERS  # noqa: E402
from optuna.trial import FrozenTrial, TrialState  # noqa: E402

from mistral_ner.hyperopt.study.opening import read_study  # noqa: E402

SECONDS = 0.1  # of a report
PATIENCE = 600.0  # seconds that a life may take
LIFE, ENVIRONMENT = HERE / "campaign_life.py", {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)}

# what a driver writes in the middle of a search, and at its end; what a worker writes
_DRIVER_WRITES = (("study.journal", 30), ("config.yaml", 3))
_RESULTS = ("summary.json", "trials.csv", "best_config.yaml", "report.html")
_WORKER_WRITES = ("checkpoint.json", "result.json")

# Starts campaign_life.py with what it is told, as JSON; its output goes to the end of a file.
Start = Callable[[str, Path], "subprocess.Popen[bytes]"]


def start_life(told: str, log: Path) -> subprocess.Popen[bytes]:
    """Start a new process that leads the search."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, str(LIFE), told], env=ENVIRONMENT, stdout=file, stderr=file, start_new_session=True
        )


@dataclass
class Campaign:
    """One search, killed until its kills are used up, then left to end."""

    case: Case
    folder: Path
    rng: random.Random
    unbroken: dict[int, FrozenTrial]
    trials: int
    start: Start
    figures: Figures = field(default_factory=Figures)
    _ended: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    _started: set[psutil.Process] = field(default_factory=set)

    def run(self) -> Figures:
        """Kill and resume the search until it ends; returns what was done.

        Raises:
            AssertionError: something was lost, doubled or wrong; the message says what.
        """
        begun = time.monotonic()
        (self.folder / ORDERS).mkdir(parents=True)
        ends = [kind for kind in self.case.kills for _ in range(self.case.kills[kind])]
        workers = [kind for kind in ends if kind.startswith("worker")]
        last = [kind for kind in ends if kind == "results"]
        ends = [kind for kind in ends if kind not in workers and kind not in last]
        self.rng.shuffle(ends)
        self.rng.shuffle(workers)
        for end in [*ends, *last, ""]:
            # a worker is killed while the driver lives on: several in one life, and all that are left in the last
            share = [] if end == "start" else workers[: self.rng.randint(1, 4) if end in ends else None]
            del workers[: len(share)]
            workers += self._live(end, share)
            self._look()
        self.figures.seconds = round(time.monotonic() - begun, 1)
        self._audit()
        self._all_gone()
        return self.figures

    def _live(self, end: str, workers: list[str]) -> list[str]:
        """Let a process lead the search until its ``end``; kill ``workers`` meanwhile; return what missed."""
        deaths = len(self._deaths())
        process = self._start(end)
        wait = self.rng.uniform(0.2, 6) if end == "start" else self.rng.uniform(0, SECONDS)
        waiting, at = list(workers), self._reports() + self.rng.randint(1, 3)
        begun = time.monotonic()
        while process.poll() is None:
            if time.monotonic() - begun > PATIENCE:
                self._everything(process)
                raise AssertionError(f"{self.case.name}: no end after {PATIENCE:g} s: {self._log()}")
            due = time.monotonic() - begun > wait if end == "start" else self._reports() >= at
            if due and waiting:
                time.sleep(wait)
                if self._worker(process, waiting[0]):
                    waiting.pop(0)
                at, wait = self._reports() + self.rng.randint(1, 2), self.rng.uniform(0, SECONDS)
            elif due and end in ("start", "driver", "everything"):
                time.sleep(0 if end == "start" else wait)
                (self._everything if end == "everything" else self._kill)(process)
            time.sleep(0.01)
        code = process.wait()
        self.figures.lives += 1
        died = self._deaths()[deaths:]
        for line in died:
            self._count(line.partition(",")[0])
        by_order = any(line.startswith("driver") for line in died)
        if code == -9 and not by_order:
            self._count("driver as it starts" if end == "start" else end)
        if code == 1 and "timed out during startup" in self._log():
            self.figures.without_ray += 1  # a machine so busy that Ray gave up
            return workers
        # 0: it has ended before it could be killed, or nothing was to kill it
        assert code in (0, -9), f"{self.case.name}: exit code {code}: {self._log()}"
        left = [path for path in (self.folder / ORDERS).glob("*.json") if not path.unlink()]
        return [*waiting, *("worker in a write" for _ in left)]

    def _start(self, end: str) -> subprocess.Popen[bytes]:
        order = None
        if end == "driver in a write":
            of, most = self.rng.choice(_DRIVER_WRITES)
            order = {"who": "driver", "of": of, "nth": self.rng.randint(1, most)}
        elif end == "results":
            order = {"who": "driver", "of": self.rng.choice(_RESULTS), "nth": 1}
        if order is not None:
            order["cut"] = self.rng.choice((0.0, self.rng.random(), 1.0))
        settings = {"num_trials": self.trials, "max_failures": 1000, **self.case.hyperopt}
        told = {
            "folder": str(self.folder),
            "strategy": self.case.strategy,
            "hyperopt": settings,
            "seconds": SECONDS,
            "order": order,
        }
        return self.start(json.dumps(told), self.folder / "log.txt")

    def _worker(self, process: subprocess.Popen[bytes], kind: str) -> bool:
        """Kill a worker of this driver's own Ray, or have one die in its next write; returns whether there was one."""
        if kind == "worker in a write":
            asha = self.case.strategy in ("combined", "asha")
            of = self.rng.choice(_WORKER_WRITES if asha else (*_WORKER_WRITES, "study.journal"))
            order = {"who": "worker", "of": of, "nth": 1, "cut": self.rng.choice((0.0, self.rng.random()))}
            path = self.folder / ORDERS / f"{len(list((self.folder / ORDERS).iterdir())):02d}"
            path.write_text(json.dumps(order))
            path.rename(path.with_suffix(".json"))
            return True
        at_work = [one for one in self._children(process) if _is_a_worker_at_work(one)]
        if not at_work:
            return False
        self.rng.choice(sorted(at_work, key=lambda one: one.pid)).kill()
        self._count("worker")
        return True

    def _count(self, kind: str) -> None:
        self.figures.kills[kind] = self.figures.kills.get(kind, 0) + 1

    def _children(self, process: subprocess.Popen[bytes]) -> list[psutil.Process]:
        try:
            children = psutil.Process(process.pid).children(recursive=True)
        except psutil.Error:
            return []
        self._started.update(children)
        return children

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        self._children(process)
        process.kill()
        process.wait()

    def _everything(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the driver and all that it has started."""
        process.send_signal(signal.SIGSTOP)  # it starts nothing more
        children = self._children(process)
        process.kill()
        for child in children:
            if psutil.pid_exists(child.pid):
                child.kill()
        process.wait()

    def _look(self) -> None:
        """After any kill the study can be read, and what had ended is as it was."""
        if not (self.folder / "s/config.yaml").exists():
            return
        now = {
            trial.number: (trial.state, trial.values, trial.intermediate_values, trial.params, trial.datetime_complete)
            for trial in read_study(self.folder / "s").trials
            if trial.state.is_finished()
        }
        changed = {number for number, was in self._ended.items() if now.get(number) != was}
        assert not changed, f"{self.case.name}: trials {changed} had ended and were changed"
        self._ended = now

    def _audit(self) -> None:
        study = self.folder / "s"
        trials = read_study(study).trials
        numbers = [trial.number for trial in trials]
        assert numbers == list(range(self.trials)), f"{self.case.name}: trials {numbers}"
        folders = sorted(path.name for path in study.glob("trial_*"))
        assert folders == [f"trial_{number:04d}" for number in numbers], f"{self.case.name}: folders {folders}"
        rungs = read_study(study).plan.rungs if self.case.strategy in ("combined", "asha") else range(1, REPORTS)
        for trial in trials:
            self._audit_trial(trial, study / f"trial_{trial.number:04d}", list(rungs))
        written = json.loads((study / "summary.json").read_text())
        states = Counter(trial.state.name for trial in trials)
        assert (written["n_complete"], written["n_pruned"]) == (states["COMPLETE"], states["PRUNED"]), written
        assert written["reports_run"] == self.figures.reports, written
        best = max((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: (t.value or 0.0, -t.number))
        assert (written["best_trial"], written["best_value"]) == (best.number, best.value), written
        self.figures.trials = len(trials)
        cut = sum(self.figures.kills.values()) * self.case.hyperopt["max_concurrent"]
        assert self.figures.begun_again <= cut, f"{self.case.name}: {self.figures.begun_again} reports begun again"

    def _audit_trial(self, trial: FrozenTrial, folder: Path, rungs: list[int]) -> None:
        where, made = f"{self.case.name}: {folder.name}", len(trial.intermediate_values)
        whole = made == REPORTS
        assert trial.state == (TrialState.COMPLETE if whole else TrialState.PRUNED), f"{where}: {trial}"
        assert whole or made in rungs, f"{where} was stopped at report {made}"
        true = {number: value_of(trial.params, number) for number in range(1, made + 1)}
        assert trial.intermediate_values == true, f"{where}: {trial.intermediate_values}, not {true}"
        assert not whole or trial.value == max(true.values()), f"{where}: {trial.value}"
        rows = [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]
        assert {row["report"]: row["eval_f1"] for row in rows} == true, f"{where}: result.json"
        self._audit_calls((folder / "calls.txt").read_text().splitlines(), made, where)
        self.figures.reports += made
        expected = self.unbroken.get(trial.number)
        if expected is not None:
            assert trial.params == expected.params, f"{where}: {trial.params}, unbroken {expected.params}"
        if expected is not None and not self.case.in_ray:
            assert trial.intermediate_values == expected.intermediate_values, f"{where}: ended elsewhere than unbroken"

    def _audit_calls(self, lines: list[str], made: int, where: str) -> None:
        """No report that was whole was run again, none was left out."""
        current, whole = 0, True
        for what, number in (line.split() for line in lines):
            again = what == "begin" and int(number) == current
            # one that is whole may lack its "done", which is noted after it, but is not begun again
            expected = current if again or what == "done" else current + 1
            assert int(number) == expected, f"{where}: {lines}"
            assert not (whole and expected == current), f"{where}: {lines}"
            self.figures.begun_again += again
            current, whole = int(number), what == "done"
        assert current == made, f"{where}: {made} reports, {lines}"

    def _all_gone(self) -> None:
        """Nothing that a search has started outlives it."""
        until = time.monotonic() + 60
        while left := [one for one in self._started if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]:
            assert time.monotonic() < until, f"{self.case.name}: still there: {left}"
            time.sleep(0.2)

    def _reports(self) -> int:
        return sum(path.read_text().count("done") for path in self.folder.glob("s/trial_*/calls.txt"))

    def _deaths(self) -> list[str]:
        path = self.folder / DEATHS
        return path.read_text().splitlines() if path.exists() else []

    def _log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")[-3000:]


def _is_a_worker_at_work(process: psutil.Process) -> bool:
    try:
        title = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return title.startswith("ray::") and "IDLE" not in title and "Agent" not in title


def unbroken(case: Case, folder: Path, trials: int, start: Start) -> dict[int, FrozenTrial]:
    """Return what an unbroken search proposes, by trial; nothing where that depends on who comes first."""
    if case.in_ray and case.strategy in ("combined", "optuna"):
        return {}
    same = {**case.hyperopt, "max_concurrent": 1}
    same.pop("asha_type", None)
    strategy = "random" if case.strategy == "asha" else case.strategy
    told = {"folder": str(folder), "strategy": strategy, "hyperopt": {"num_trials": trials, **same}}
    folder.mkdir()
    process = start(json.dumps({**told, "seconds": 0.0, "order": None}), folder / "log.txt")
    assert process.wait(PATIENCE) == 0, (folder / "log.txt").read_text()
    return {trial.number: trial for trial in read_study(folder / "s").trials}


def campaign(case: Case, seed: int, trials: int = 14, start: Start = start_life) -> Figures:
    """Run one case of the campaign, a search of so many trials, in a folder that is removed afterwards.

    Args:
        case: the search, and what is killed.
        seed: of the moments.
        trials: of the search.
        start: starts each process that leads the search.
    """
    with tempfile.TemporaryDirectory(prefix="campaign", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        expected = unbroken(case, folder / "unbroken", trials, start)
        return Campaign(case, folder / "killed", random.Random(f"{seed} {case.name}"), expected, trials, start).run()


def main() -> None:
    """Run the whole campaign, or one case of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", choices=[case.name for case in CASES])
    parser.add_argument("--jobs", type=int, default=1, help="cases at once")
    arguments = parser.parse_args()
    cases = [case for case in CASES if arguments.case in (None, case.name)]
    found, faults = {}, []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        running = {pool.submit(campaign, case, arguments.seed, case.trials): case for case in cases}
        for future in as_completed(running):
            name = running[future].name
            try:
                found[name] = asdict(future.result())
            except AssertionError as fault:
                faults.append(str(fault))
            print(f"{name}: {found.get(name, faults and faults[-1])}", flush=True)
    by_kind: Counter[str] = Counter()
    for figures in found.values():
        by_kind.update(figures["kills"])
    whole = {"seed": arguments.seed, "kills": by_kind.total(), "faults": faults, "kills_by_kind": dict(by_kind)}
    print(json.dumps(whole, indent=2))
    if arguments.case is None:
        whole["cases"] = {case.name: found.get(case.name) for case in cases}
        (HERE / "results/campaign.json").write_text(json.dumps(whole, indent=2) + "\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
