"""Which settings stay in the race for the final model: the rule alone, with trainings whose outcomes are given."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mistral_ner.config.schema import Config
from mistral_ner.hyperopt.cluster.workers import Here
from mistral_ner.hyperopt.results.race import Race
from mistral_ner.hyperopt.results.trainings import Candidate, Finalist, Trainings, seconds_of
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.training.checkpoint import Progress

SENTENCES = 200


def plan(folder: Path, share: float | None = None, seeds: int = 3) -> Plan:
    return Plan.of(
        {
            "output_dir": str(folder),
            "search_space": {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2}},
            "hyperopt": {
                "strategy": "random",
                "optuna_sampler": "Random",
                "max_concurrent": 1,
                "results_dir": str(folder),
                "study_name": "s",
                "timeout": 60,
                "final": {"share": share, "seeds": seeds},
            },
        }
    )


@dataclass
class Given(Trainings):
    """Trainings that take a second and have the F1 that is given for a trial and a seed."""

    f1: dict[Any, list[float]] = field(default_factory=dict)
    trained: list[tuple[int | None, int]] = field(default_factory=list)

    def train(self, finalists: Sequence[Finalist], seed: int) -> None:
        for one in finalists:
            own = seed == 42 and one.candidate.trial is not None
            name = one.candidate.name if own else f"final/candidates/{one.candidate.name}_seed_{seed}"
            write_run(self.plan.folder / name, self.f1[one.candidate.trial][seed - 42])
            config = Config(output_dir=str(self.plan.folder / name))
            one.trained[seed] = config, self.f1[one.candidate.trial][seed - 42]
            if not own:
                self.trained.append((one.candidate.trial, seed))

    def scores(self, finalists: Sequence[Finalist], split: str) -> list[dict[int, Any]]:
        return [{seed: score(value) for seed, (_, value) in one.trained.items()} for one in finalists]


def write_run(folder: Path, f1: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"report": 1, "eval_f1": f1, "time_s": 1.0}]
    Progress(folder, "max", "eval_f1", reports=rows)._write()


def score(f1: float) -> Any:
    """Each sentence has an entity; the first ones are found."""
    right = np.arange(SENTENCES) < round(f1 * SENTENCES)
    return SimpleNamespace(counts=np.stack([np.ones(SENTENCES, int), np.ones(SENTENCES, int), right], axis=1))


def race(
    folder: Path,
    f1: dict[Any, list[float]],
    share: float | None = None,
    seeds: int = 3,
    trials: int = 0,
    left: float | None = None,
) -> tuple[Race, Given, list[int | None]]:
    """Run a race of the default config (None) and trials; the search has ``trials`` more of a second each.

    There are ``left`` seconds until the timeout, and no time passes: trainings only say that they took any.
    """
    made = plan(folder, share, seeds)
    rates = {trial: 1e-3 if trial is None else 1e-4 * (trial + 2) for trial in f1}
    finalists = [Finalist(Candidate(trial, {"learning_rate": rates[trial]})) for trial in f1]
    for candidate in (one.candidate for one in finalists if one.candidate.trial is not None):
        write_run(made.folder / candidate.name, f1[candidate.trial][0])
    for number in range(trials):
        write_run(made.folder / f"trial_{100 + number:04d}", 0.1)
    trainings = Given(made, Here(), f1=f1)
    deadline = None if left is None else time.monotonic() + left
    run = Race(trainings, finalists, [42 + place for place in range(seeds)], deadline)
    return run, trainings, [one.candidate.trial for one in run.run()]


def test_who_cannot_win_leaves_and_who_is_near_stays(tmp_path: Path) -> None:
    f1 = {1: [0.80, 0.79, 0.80], 2: [0.79, 0.81, 0.80], 3: [0.42, 0.40, 0.80], None: [0.41, 0.40, 0.41]}
    run, trainings, left = race(tmp_path, f1)
    assert left == [2, 1]
    assert {(one, 44) for one in (3, None)}.isdisjoint(trainings.trained), "they had left"
    assert (1, 42) not in trainings.trained, "the search has trained it"
    out = {one.candidate.trial: one.out for one in run.finalists}
    assert out[3] is not None
    assert "cannot win: " in out[3]
    assert run.cut is None
    assert run.new_seeds == [43, 44]


def test_a_seed_that_went_wrong_drops_nobody(tmp_path: Path) -> None:
    """What differs as much between the seeds of one setting may be chance."""
    f1 = {1: [0.80, 0.79, 0.80], 2: [0.80, 0.40, 0.80]}
    _, trainings, left = race(tmp_path, f1)
    assert left == [1, 2]
    assert (2, 44) in trainings.trained


def test_one_that_is_left_alone_needs_no_more_seeds(tmp_path: Path) -> None:
    f1 = {1: [0.80, 0.79, 0.80], 2: [0.41, 0.40, 0.41], None: [0.41, 0.40, 0.41]}
    run, trainings, left = race(tmp_path, f1)
    assert left == [1]
    assert all(seed < 44 for _, seed in trainings.trained)
    assert run.new_seeds == [43], "its value in the search is too high"


def test_the_time_is_at_most_that_of_the_search(tmp_path: Path) -> None:
    """The search: two trials, and those given, of a second each; the default config is none of them."""
    f1 = {1: [0.80, 0.79, 0.80], 2: [0.79, 0.80, 0.80], None: [0.78, 0.79, 0.79]}
    whole, all_of_them, _ = race(tmp_path / "a", f1, share=1.0, trials=5)
    assert whole.cut is None
    assert len(all_of_them.trained) == 7
    run, trainings, left = race(tmp_path / "b", f1, share=1.0, trials=1)
    assert trainings.trained == [(None, 42), (1, 43), (None, 43)], "the best so far and the default config"
    assert run.cut == "trial_0002 stopped before seed 43; seed 44 was left out"
    assert left == [1, None]
    spent = sum(map(seconds_of, (tmp_path / "b/s/final/candidates").iterdir()))
    assert spent <= sum(map(seconds_of, (tmp_path / "b/s").glob("trial_*")))
    run, trainings, left = race(tmp_path / "c", f1, share=0.2, trials=1)
    assert trainings.trained == [(None, 42)], "which the search has not trained"
    assert run.cut == "seed 43 was left out"
    assert left == [1, 2, None]


def test_no_lap_begins_that_would_end_after_the_timeout(tmp_path: Path) -> None:
    f1 = {1: [0.80, 0.79, 0.80], 2: [0.79, 0.80, 0.80], None: [0.78, 0.79, 0.79]}
    run, trainings, left = race(tmp_path / "a", f1, left=60)
    assert (run.cut, len(trainings.trained)) == (None, 7)
    run, trainings, left = race(tmp_path / "b", f1, left=1.9)  # a lap of two takes two seconds
    assert trainings.trained == [(None, 42)], "which the search has not trained"
    assert run.cut == "seed 43 was left out"
    run, trainings, left = race(tmp_path / "c", f1, left=0.5)
    assert trainings.trained == []
    assert run.cut == "the default config was left out; seed 43 was left out"
    assert left == [1, 2]
    assert {one.candidate.trial: one.out for one in run.finalists}[None] == "not trained: no time left"


def test_why_laps_are_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    f1 = {1: [0.80, 0.79, 0.80], None: [0.78, 0.79, 0.79]}
    race(tmp_path / "a", f1, left=1.5)
    race(tmp_path / "b", f1, share=0.2, left=60)
    said = [one for one in caplog.messages if "was left out" in one]
    assert said == [
        "final trainings: seed 43 was left out: hyperopt.timeout=60 s leaves no time for more",
        "final trainings: seed 43 was left out: they take at most 0.2 of the search's time (hyperopt.final.share)",
    ]


def test_without_times_there_is_no_limit(tmp_path: Path) -> None:
    f1 = {None: [0.8, 0.8, 0.8]}
    made = plan(tmp_path, share=1.0)
    trainings = Given(made, Here(), f1=f1)
    run = Race(trainings, [Finalist(Candidate(None, {}))], [42, 43, 44])
    assert [one.mean for one in run.run()] == [pytest.approx(0.8)]
    assert trainings.trained == [(None, 42), (None, 43)]


def test_a_race_that_goes_on_decides_as_before(tmp_path: Path) -> None:
    f1 = {1: [0.80, 0.79, 0.80], 2: [0.79, 0.80, 0.80], None: [0.41, 0.40, 0.41]}
    first, _, left = race(tmp_path, f1, share=1.0, trials=4)
    again, _, left_again = race(tmp_path, f1, share=1.0, trials=4)
    assert (left, first.cut) == (left_again, again.cut)
