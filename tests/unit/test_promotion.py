"""Searches that pause trials at rungs, by the searcher and the scheduler of Ray Tune, without Ray and trainings.

A few slots make a report each in turn. A setting's F1 is 0 in the first third, where its loss tells good from poor.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from mistral_ner.hyperopt.engines.ray_tune import StudySearcher
from mistral_ner.hyperopt.sampling.samplers import silence_optuna
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.event_log import EventLog
from mistral_ner.hyperopt.study.study import VERDICT, Study

REPORTS = 9


class Search:
    """A study in memory that can be cut off after any report and gone on with."""

    def __init__(self, folder: Path, slots: int = 1, strategy: str = "combined", **hyperopt: Any) -> None:
        silence_optuna()
        self.slots = slots
        self.plan = Plan.of(
            {
                "output_dir": ".",
                "search_space": {"learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-1}},
                "training": {"reports": REPORTS},
                "hyperopt": {
                    "strategy": strategy,
                    "optuna_sampler": "TPE" if strategy == "combined" else "Random",
                    "asha_type": "promotion",
                    "max_concurrent": slots,
                    "results_dir": str(folder),
                    "study_name": "s",
                    **hyperopt,
                },
            }
        )
        self.storage = optuna.storages.InMemoryStorage()
        self.optuna = optuna.create_study(storage=self.storage, direction="maximize")
        self.with_losses = True
        self.continues = True  # what an objective does that is called again, or it begins with its first report
        self.idle = 0  # slots that had nothing to do while the search could still begin a trial

    def run(self, cut_off_after: int | None = None, unseen: bool = False) -> list[FrozenTrial]:
        """Run to the end, or until so many reports were made; return the trials.

        Args:
            cut_off_after: reports.
            unseen: whether the running trial then goes on to its next rung, or its end, without this search.
        """
        self.study = Study(self.plan, self.optuna, self.storage)
        searcher = StudySearcher(self.study, EventLog(self.study))
        running: list[tuple[str, int]] = []
        done: dict[int, int] = {}  # reports of the running trials
        while True:
            while len(running) < self.slots:
                trial_id = f"{self.study.reports}-{len(running)}"
                started = searcher.suggest(trial_id)
                if not isinstance(started, dict):
                    self.idle += len(running) < self.slots and not self.study.complete
                    break
                running.append((trial_id, started["number"]))
                done[started["number"]] = max(self.study.reports_of(started["number"]), default=0) * self.continues
            if not running:
                break
            if self.study.reports == cut_off_after:
                if unseen:
                    self.go_on_alone(running[0][1])
                return self.trials
            trial_id, number = running.pop(0)
            report = done[number] = done[number] + 1
            result = self.report(number, report)
            trial: Any = SimpleNamespace(config={"number": number})
            decision = searcher.scheduler.on_trial_result(None, trial, result)
            if decision == searcher.scheduler.STOP or report == REPORTS:
                searcher.on_trial_complete(trial_id)
            else:
                running.append((trial_id, number))
        searcher.end_paused()
        return self.trials

    def go_on_alone(self, number: int) -> None:
        """Write the reports of a trial into its folder, as a worker that outlives its search does."""
        made = len(self.study.reports_of(number))
        rows = [self.report(number, made + k) for k in range(1, self.plan.leg(made) + 1)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self.plan.folder / f"trial_{number:04d}" / "result.json").write_text(text)

    def report(self, number: int, report: int) -> dict[str, float]:
        good = 1 - abs(math.log10(self.trials[number].params["learning_rate"]) + 3) / 4
        metrics = {"report": report, "eval_f1": max(0.0, report / REPORTS - 0.34) * good}
        return {**metrics, "eval_loss": 2 - good - report / 100} if self.with_losses else metrics

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)


def made(trials: list[FrozenTrial]) -> Counter[int]:
    """How many trials made so many reports."""
    return Counter(len(trial.intermediate_values) for trial in trials)


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("num_trials", [1, 2, 3, 5, 20])
def test_every_search_has_a_winner_and_ends_the_others(tmp_path: Path, num_trials: int, slots: int) -> None:
    search = Search(tmp_path, slots, num_trials=num_trials)
    trials = search.run()
    assert len(trials) == num_trials
    assert made(trials)[REPORTS] >= 1
    assert set(made(trials)) <= {1, 3, REPORTS}
    for trial in trials:
        whole = len(trial.intermediate_values) == REPORTS
        assert trial.state == (TrialState.COMPLETE if whole else TrialState.PRUNED)
        assert whole or trial.user_attrs[VERDICT].startswith("promise ")
    assert not search.idle
    best = min(trials, key=lambda trial: abs(math.log10(trial.params["learning_rate"]) + 3))
    assert best.state == TrialState.COMPLETE, "the loss shows at the first rung what F1 shows at the end"


@pytest.mark.parametrize("num_trials", [2, 9])
def test_an_objective_that_begins_again_gets_past_its_rung(tmp_path: Path, num_trials: int) -> None:
    search = Search(tmp_path, num_trials=num_trials)
    search.continues = False
    assert made(search.run()) == made(Search(tmp_path / "continues", num_trials=num_trials).run())


def test_it_costs_less_than_a_third_of_all_reports(tmp_path: Path) -> None:
    assert sum(made(Search(tmp_path, 4, num_trials=20).run()).elements()) <= 0.31 * 20 * REPORTS


@pytest.mark.parametrize(("with_losses", "unseen"), [(True, False), (False, False), (True, True)])
def test_cut_off_after_any_report_it_ends_as_if_unbroken(tmp_path: Path, with_losses: bool, unseen: bool) -> None:
    def ends(trials: list[FrozenTrial]) -> list[Any]:
        return [(t.params, t.state, t.values, t.intermediate_values, t.user_attrs) for t in trials]

    settings = {"num_trials": 6, "optuna_n_startup_trials": 2}
    whole = Search(tmp_path / "whole", **settings)
    whole.with_losses = with_losses
    expected = ends(whole.run())
    for after in range(1, whole.study.reports, 1 if with_losses and not unseen else 3):
        search = Search(tmp_path / str(after), **settings)
        search.with_losses = with_losses
        search.run(cut_off_after=after, unseen=unseen)
        assert ends(search.run()) == expected, f"cut off after report {after}"


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("most", [9, 10, 15, 30])
def test_max_reports_is_spent_to_the_last_and_pays_for_a_winner(tmp_path: Path, most: int, slots: int) -> None:
    search = Search(tmp_path, slots, num_trials=50, max_reports=most)
    trials = search.run()
    assert sum(made(trials).elements()) == most
    assert made(trials)[REPORTS] >= 1
    assert search.study.spent == f"the reports are spent (max_reports={most})"
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.RUNNING}, "the others can go on"


def test_trials_that_wait_are_no_poor_ones_for_the_sampler(tmp_path: Path) -> None:
    """All of the first ten wait at their rung; TPE proposes near the best of them."""
    search = Search(tmp_path, num_trials=40, optuna_n_startup_trials=10, asha_reduction_factor=100)
    trials = search.run(cut_off_after=30)

    def distance(some: list[FrozenTrial]) -> float:
        return sum(abs(math.log10(trial.params["learning_rate"]) + 3) for trial in some) / len(some)

    assert {trial.state for trial in trials} == {TrialState.RUNNING}
    assert distance(trials[10:]) < 0.6 * distance(trials[:10])


def test_what_is_said_of_a_search(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mistral_ner")
    Search(tmp_path, num_trials=6).run()
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "trial 0   waits: promise 1" in said
    assert "(eval_loss), too few trials are at its rung" in said
    assert " continues\n" in said
    assert "stopped early: promise 1." in said


def test_in_an_extended_search_what_was_stopped_stays_stopped(tmp_path: Path) -> None:
    """And its reports count: new trials are compared with all that came before them."""
    search = Search(tmp_path, num_trials=6)
    before = [(trial.state, trial.values) for trial in search.run()]
    search.plan.config.hyperopt.num_trials = 9
    trials = search.run()
    assert len(trials) == 9
    assert [(trial.state, trial.values) for trial in trials[:6]] == before
    assert {trial.state for trial in trials[6:]} <= {TrialState.COMPLETE, TrialState.PRUNED}
