"""What a search may spend, to the report, and how it ends at a target; with trainings where a model is left."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from arithmetic import REPORTS, run
from optuna.trial import TrialState

from mistral_ner.errors import ConfigError, UserError
from mistral_ner.hyperopt import search
from mistral_ner.hyperopt.study.opening import read_study
from mistral_ner.training.checkpoint import reports_on_disk

pytestmark = pytest.mark.usefixtures("ray_for_all")


@pytest.mark.parametrize("kind", ["stopping", "promotion"])
def test_max_reports_is_never_overspent_and_a_resumed_search_goes_on(tmp_path: Path, kind: str) -> None:
    """What is cut off waits at a rung; it goes on from there with the next budget, and no report is made twice."""
    with contextlib.suppress(UserError):  # no trial need have run to its end
        run(tmp_path, "asha", asha_type=kind, max_reports=13, max_concurrent=3)
    summary = json.loads((tmp_path / "s/summary.json").read_text())
    assert 13 - 6 < summary["reports_run"] <= 13, "6 reports are the longest way from one rung to the next"
    assert summary["budget_spent"] == "the reports are spent (max_reports=13)"
    assert {len(trial.intermediate_values) for trial in read_study(tmp_path / "s").trials} <= {1, 3, REPORTS}
    resumed, trials = run(tmp_path, "asha", asha_type=kind, max_concurrent=3, resume=True)
    assert resumed.budget_spent is None
    assert len(trials) == 12
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        calls = (tmp_path / "s" / f"trial_{trial.number:04d}" / "calls.txt").read_text().split()
        assert calls == [str(k) for k in range(1, len(trial.intermediate_values) + 1)]


def test_a_pruned_trial_leaves_its_reports_to_others(tmp_path: Path) -> None:
    chosen = {"optuna_pruner": "median", "optuna_n_startup_trials": 2, "num_trials": 30, "max_concurrent": 1}
    summary, _ = run(tmp_path, "optuna", max_reports=60, **chosen)
    assert summary.n_pruned > 0
    assert summary.n_complete + summary.n_pruned > 60 // REPORTS
    assert 60 - REPORTS < summary.reports_run <= 60


@pytest.mark.parametrize(
    ("strategy", "most", "rule"),
    [("random", 8, "up to its end, 9 reports, found 8"), ("combined", 2, "up to its first rung, 3 reports, found 2")],
)
def test_a_budget_that_pays_for_nothing_is_a_fault(tmp_path: Path, strategy: str, most: int, rule: str) -> None:
    with pytest.raises(ConfigError, match=f"hyperopt.max_reports: must pay for one trial {rule}"):
        run(tmp_path, strategy, max_reports=most, asha_grace_period=3)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("strategy", "final"), [("combined", True), ("random", False)])
def test_a_search_that_reached_its_target_leaves_a_model(
    tmp_path: Path, tiny: dict[str, Any], strategy: str, final: bool
) -> None:
    """At the first report, where no trial has run to its end."""
    tiny["training"] |= {"num_epochs": 20, "reports": 9}
    space = {"learning_rate": {"type": "loguniform", "low": 1e-3, "high": 3e-2}}
    hyperopt = {
        "strategy": strategy,
        "optuna_sampler": "TPE" if final else "Random",
        "target": 0.01,
        "study_name": "s",
        "num_trials": 4,
        "max_concurrent": 1,
        "results_dir": str(tmp_path),
        "asha_grace_period": 3,
        "final": {"enabled": final, "top_k": 1, "seeds": 1},
    }
    summary = search({**tiny, "search_space": space, "hyperopt": hyperopt})
    assert summary.budget_spent == "the target is reached (eval_f1 0.01)"
    assert (summary.n_complete, summary.best_trial, summary.reports_run) == (0, 0, 1)
    (trial,) = read_study(tmp_path / "s").trials
    assert trial.state == TrialState.RUNNING
    assert summary.final is not None
    assert (tmp_path / "s/final/adapter_model.safetensors").is_file()
    if not final:
        assert summary.final["settings"][0]["dev_mean"] == trial.intermediate_values[1], (
            "the very model that reached it"
        )


def test_time_that_runs_out_before_a_trial_is_whole_leaves_the_best_so_far(
    tmp_path: Path, tiny: dict[str, Any]
) -> None:
    """It is the final model as it is; a resumed search continues the trial, and then the best settings race."""
    tiny["training"] |= {"num_epochs": 30, "reports": 9}
    space = {"learning_rate": {"type": "loguniform", "low": 1e-3, "high": 3e-2}}
    place = {"strategy": "random", "optuna_sampler": "Random", "results_dir": str(tmp_path), "study_name": "s"}
    hyperopt = {**place, "num_trials": 1, "max_concurrent": 1, "final": {"top_k": 1, "seeds": 2, "share": None}}
    summary = search({**tiny, "search_space": space, "hyperopt": {**hyperopt, "timeout": 0.2}})
    made = summary.reports_run
    assert (summary.n_complete, summary.n_unfinished, summary.best_trial) == (0, 1, 0)
    assert 0 < made < 9
    assert summary.note == f"No trial completed: the best so far is trial 0, as it is after {made} of 9 reports."
    assert summary.final is not None
    assert summary.final["settings"][0]["dev"] == {"42": summary.best_value}
    assert summary.final["settings"][0]["test_f1"] is not None
    assert (tmp_path / "s/final/adapter_model.safetensors").is_file()
    before = reports_on_disk(tmp_path / "s/trial_0000")
    assert reports_on_disk(tmp_path / "s/final/candidates/trial_0000") == before, "nothing was trained again"

    summary = search({**tiny, "search_space": space, "hyperopt": {**hyperopt, "resume": True}})
    assert (summary.n_complete, summary.reports_run) == (1, 9)
    assert reports_on_disk(tmp_path / "s/trial_0000")[:made] == before
    assert summary.final is not None
    assert list(summary.final["settings"][0]["dev"]) == ["42", "43"]


def test_time_lasts_for_the_final_trainings(tmp_path: Path, tiny: dict[str, Any]) -> None:
    hyperopt = {"strategy": "random", "optuna_sampler": "Random", "results_dir": str(tmp_path), "study_name": "s"}
    hyperopt |= {"num_trials": 1000, "max_concurrent": 1, "timeout": 10, "final": {"top_k": 1, "seeds": 2}}
    space = {"learning_rate": {"type": "loguniform", "low": 1e-3, "high": 3e-2}}
    summary = search({**tiny, "search_space": space, "hyperopt": hyperopt})
    assert re.fullmatch(r"time ran out \(timeout=10 s, \d+ s of them for final trainings\)", summary.budget_spent or "")
    assert summary.n_trials < 1000
    assert summary.final is not None
    assert list(summary.final["settings"][0]["dev"]) == ["42", "43"]
