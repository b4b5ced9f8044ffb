"""When ``timeout`` ends a search: the final trainings have to fit into it, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.budget import Clock, seconds_for_finals


def plan(folder: Path, **hyperopt: Any) -> Plan:
    """Two trials of nine reports at once; three settings and the default config race, with three seeds."""
    return Plan.of(
        {
            "output_dir": str(folder),
            "search_space": {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2}},
            "training": {"reports": 9, "threads": 1},
            "hyperopt": {
                "strategy": "random",
                "optuna_sampler": "Random",
                "max_concurrent": 2,
                "results_dir": str(folder),
                "study_name": "s",
                **hyperopt,
            },
        }
    )


@pytest.mark.parametrize(
    ("training", "share", "kept"),
    [
        (10.0, 1.0, 50.0),  # two more seeds of four settings, two at once, and a trial that is to end first
        (100.0, 1.0, 300.0),
        (100.0, 0.5, 200.0),
        (100.0, None, 300.0),
        (300.0, 1.0, 300.0),
        (301.0, 1.0, 0.0),
        (201.0, 0.5, 0.0),
    ],
)
def test_final_trainings_get_what_they_can_use(
    tmp_path: Path, training: float, share: float | None, kept: float
) -> None:
    made = plan(tmp_path, timeout=600, final={"share": share})
    assert seconds_for_finals(made, training, left=600) == pytest.approx(kept)


def at(clock: Clock, seconds: float, reports: int, completed: int = 2) -> str | None:
    clock.stop(seconds)
    return clock.time_is_up(reports, completed)


def test_the_search_leaves_them_their_time(tmp_path: Path) -> None:
    clock = Clock(plan(tmp_path, timeout=600), trains_finals=True)
    assert at(clock, 200, 36) is None, "a training takes 100 s: the final ones get 300 s"
    assert at(clock, 299, 53) is None
    assert at(clock, 301, 54) == "time ran out (timeout=600 s, 300 s of them for final trainings)"
    assert at(clock, 301, 1) is not None, "what is over stays so"


def test_time_that_does_not_pay_for_them_is_the_searchs(tmp_path: Path) -> None:
    clock = Clock(plan(tmp_path, timeout=600), trains_finals=True)
    assert at(clock, 301, 15) is None, "a training takes 361 s"
    assert at(clock, 599, 30) is None
    assert at(clock, 600, 30) == "time ran out (timeout=600 s)"


@pytest.mark.parametrize("timeout", [660, 690, 715, 740])
def test_one_look_a_trial_suffices(tmp_path: Path, timeout: int) -> None:
    """A training takes 100 s, a race of two 200."""
    final = {"top_k": 1, "seeds": 2}
    clock = Clock(plan(tmp_path, timeout=timeout, max_concurrent=1, final=final), trains_finals=True)
    looks = {
        seconds: at(clock, seconds, seconds * 9 // 100, completed=seconds // 100) for seconds in range(100, 800, 100)
    }
    ended = next(seconds for seconds, said in looks.items() if said)
    assert timeout - ended >= 220
    assert "of them for final trainings" in str(looks[ended])


def test_a_race_needs_two(tmp_path: Path) -> None:
    clock = Clock(plan(tmp_path, timeout=600), trains_finals=True)
    assert at(clock, 350, 63, completed=1) is None
    assert at(clock, 351, 63, completed=2) is not None


def test_the_search_goes_on_where_it_is_too_late_for_them(tmp_path: Path) -> None:
    """A training takes 250 s: half of the time would pay for one, and what is left does not."""
    clock = Clock(plan(tmp_path, timeout=600), trains_finals=True)
    assert at(clock, 350, 25, completed=1) is None
    assert at(clock, 360, 26, completed=2) is None
    assert at(clock, 599, 43, completed=3) is None
    assert at(clock, 600, 43, completed=3) == "time ran out (timeout=600 s)"


@pytest.mark.parametrize("without", [{"final": {"enabled": False}}, {"final": {"seeds": 1}}, "no trainings"])
def test_without_final_trainings_all_of_it_is_the_searchs(tmp_path: Path, without: Any) -> None:
    more = {} if isinstance(without, str) else without
    clock = Clock(plan(tmp_path, timeout=600, **more), trains_finals=without != "no trainings")
    assert at(clock, 599, 500) is None
    assert at(clock, 600, 500) == "time ran out (timeout=600 s)"


def test_only_this_runs_reports_tell_how_long_they_take(tmp_path: Path) -> None:
    clock = Clock(plan(tmp_path, timeout=600), made_before=1000, trains_finals=True)
    assert at(clock, 301, 1000) is None, "nothing is known yet"
    assert at(clock, 301, 1015) is None
    assert at(clock, 310, 1060) == "time ran out (timeout=600 s, 300 s of them for final trainings)"


def test_no_timeout(tmp_path: Path) -> None:
    clock = Clock(plan(tmp_path), trains_finals=True)
    assert at(clock, 1e6, 10) is None
    assert clock.deadline is None
