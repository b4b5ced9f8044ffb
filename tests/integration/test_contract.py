"""What every strategy promises, on the real engines, with an objective of arithmetic instead of a training.

The objective keeps its progress as a training does, and goes on from there when it is called again.
"""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import optuna
import pytest
from arithmetic import REPORTS, SPACE, STRATEGIES, arithmetic, config, run, states, value_of
from optuna.trial import TrialState

from mistral_ner.errors import UserError
from mistral_ner.hyperopt import search
from mistral_ner.hyperopt.sampling.known import APART, KnownTrials
from mistral_ner.hyperopt.sampling.promise import Judge
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.opening import _read_warm_trials, read_study

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("ray_for_all")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_whole_search(tmp_path: Path, strategy: str) -> None:
    """Exact trial count, true states and values; first the default, what is enqueued, and what the space names."""
    enqueue = [{"learning_rate": 2e-3, "lora_r": 4}, {"learning_rate": 5e-4, "lora_r": 16}]
    first = [{"learning_rate": 3e-3, "lora_r": 4}]
    summary, trials = run(tmp_path, strategy, enqueue=enqueue, search_space={**SPACE, "first": first})
    assert [trial.number for trial in trials] == list(range(12))
    assert trials[0].params == {"learning_rate": 1e-3, "lora_r": 8, "num_epochs": 4}
    assert [trial.params for trial in trials[1:4]] == enqueue + first
    for trial in trials:
        assert ("num_epochs" in trial.params) == (trial.params["lora_r"] == 8)
        expected = {k: value_of(trial.params, k) for k in range(1, len(trial.intermediate_values) + 1)}
        assert trial.intermediate_values == pytest.approx(expected)
        if trial.state == TrialState.COMPLETE:
            assert len(trial.intermediate_values) == REPORTS
            assert trial.value == max(trial.intermediate_values.values())
        else:
            assert trial.state == TrialState.PRUNED
            assert len(trial.intermediate_values) in (1, 3)
    if strategy in ("optuna", "random"):
        assert states(trials) == {"COMPLETE": 12}
    else:
        assert states(trials)["PRUNED"] >= 4
    assert summary.best_trial == 0
    assert summary.best_value == pytest.approx(1.09)
    assert summary.reports_run == sum(len(trial.intermediate_values) for trial in trials)


@pytest.mark.parametrize("strategy", ["combined", "optuna"])
def test_every_trial_of_a_search_meets_its_constraints(tmp_path: Path, strategy: str) -> None:
    """Also one that names the config's value of a parameter, and a bound that names another parameter."""
    made = config(tmp_path, strategy, num_trials=6, constraints=["learning_rate * lora_r <= 1e-2", "num_epochs > 2"])
    made["search_space"] = {**SPACE, "warmup_ratio": {"type": "uniform", "low": 0, "high": "weight_decay"}}
    made["search_space"]["weight_decay"] = {"type": "uniform", "low": 0, "high": 0.5}
    summary = search(made, arithmetic())
    trials = [trial.params for trial in read_study(tmp_path / "s").trials]
    assert (len(trials), summary.n_failed) == (6, 0)
    for one in trials:
        assert one["learning_rate"] * one["lora_r"] <= 1e-2
        assert one.get("num_epochs", 4) > 2
        assert one["warmup_ratio"] <= one["weight_decay"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_timeout_then_resume(tmp_path: Path, strategy: str) -> None:
    """Time runs out in the middle; resumed, every trial ends, none twice, no report is made twice, nothing is lost."""
    slow = arithmetic(seconds=0.5)
    with_time = {"timeout": 3 if strategy in ("combined", "asha") else 6, "num_trials": 6}
    with contextlib.suppress(UserError):  # where no trial completed in time
        run(tmp_path, strategy, slow, **with_time)
    written = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert written["budget_spent"] == f"time ran out (timeout={with_time['timeout']} s)"
    trials = read_study(tmp_path / "s").trials
    cut = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
    ended = {trial.number: trial for trial in trials if trial.state.is_finished()}
    assert cut or len(trials) < 6
    summary, trials = run(tmp_path, strategy, arithmetic(), num_trials=6, resume=True)
    assert [trial.number for trial in trials] == list(range(6))
    assert set(states(trials)) <= {"COMPLETE", "PRUNED"}
    for number, trial in ended.items():
        assert trials[number].values == trial.values
        assert trials[number].datetime_complete == trial.datetime_complete
    for trial in trials:
        calls = (tmp_path / "s" / f"trial_{trial.number:04d}" / "calls.txt").read_text().split()
        assert calls == [str(k) for k in range(1, len(calls) + 1)]
        assert len(trial.intermediate_values) == len(calls)
    assert summary.wall_s > written["wall_s"] >= with_time["timeout"], "both runs count"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_seed_decides_what_is_proposed_in_one_run_or_in_two(tmp_path: Path, strategy: str) -> None:
    """With one worker, an extended study proposes what one of the same seed does that was that long from the start.

    Not so where trials wait at rungs: the end of the shorter search was theirs (tests/unit/test_promotion.py).
    """
    chosen = {"max_concurrent": 1, "optuna_n_startup_trials": 5}
    run(tmp_path / "short", strategy, num_trials=8, **chosen)
    _, extended = run(tmp_path / "short", strategy, num_trials=14, resume=True, **chosen)
    _, whole = run(tmp_path / "long", strategy, num_trials=14, **chosen)
    assert [trial.params for trial in extended] == [trial.params for trial in whole]
    assert [trial.state for trial in extended] == [trial.state for trial in whole], "the rungs are known again"
    assert [trial.intermediate_values for trial in extended] == [trial.intermediate_values for trial in whole]
    search({**config(tmp_path / "other", strategy, num_trials=14, **chosen), "seed": 2}, arithmetic())
    other = read_study(tmp_path / "other" / "s").trials
    assert [trial.params for trial in other][1:] != [trial.params for trial in whole][1:]


@pytest.mark.parametrize("strategy", ["combined", "random"])
def test_too_many_failures_end_the_search(tmp_path: Path, strategy: str) -> None:
    made = config(tmp_path, strategy, num_trials=30, enqueue_default=False)
    made["search_space"] = {"learning_rate": {"type": "loguniform", "low": 2e-2, "high": 1e-1}}
    with pytest.raises(
        UserError, match=r"([6-8]) of \1 trials failed \(max_failure_rate=0.33\): \1 x ValueError: too high"
    ):
        search(made, arithmetic(breaks="raises"))
    assert len(read_study(tmp_path / "s").trials) <= 8
    assert not (tmp_path / "s" / "best_config.yaml").exists()


@pytest.mark.parametrize("strategy", ["combined", "random"])
def test_nothing_completes(tmp_path: Path, strategy: str) -> None:
    made = config(tmp_path, strategy, num_trials=2, enqueue_default=False)
    made["search_space"] = {"learning_rate": {"type": "choice", "choices": [2e-2, 3e-2]}}
    with pytest.raises(UserError, match=r"no trial of s completed \(2 x ValueError: too high a rate\)"):
        search(made, arithmetic(breaks="raises"))
    assert not (tmp_path / "s" / "best_config.yaml").exists()
    assert json.loads((tmp_path / "s" / "summary.json").read_text())["best_trial"] is None


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_max_reports(tmp_path: Path, strategy: str) -> None:
    most = 15 if strategy in ("combined", "asha") else 30
    summary, trials = run(tmp_path, strategy, arithmetic(seconds=0.05), max_reports=most)
    assert summary.budget_spent == f"the reports are spent (max_reports={most})"
    # never more, and less only where it does not pay for one more trial up to its next rung, or its end
    assert summary.reports_run == most if strategy in ("combined", "asha") else most - most % REPORTS
    assert len(trials) < 12
    assert all(len(trial.intermediate_values) in (1, 3, REPORTS) for trial in trials)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_target_at_the_first_report(tmp_path: Path, strategy: str) -> None:
    """The trial that reached it wins, though it went no further; its config repeats just that."""
    summary, _ = run(tmp_path, strategy, arithmetic(seconds=0.2), target=1.005, max_concurrent=1)
    assert summary.budget_spent == "the target is reached (eval_f1 1.005)"
    assert summary.best_trial == 0
    assert summary.best_value >= 1.005
    best = (tmp_path / "s" / "best_config.yaml").read_text()
    stop = len(read_study(tmp_path / "s").trials[0].intermediate_values)
    assert f"stop_after: {stop}" in best or stop == REPORTS


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_minimise(tmp_path: Path, strategy: str) -> None:
    made = config(tmp_path, strategy, mode="min", num_trials=8)
    made["training"]["mode"] = "min"
    summary = search(made, arithmetic())
    complete = [trial.value for trial in read_study(tmp_path / "s").trials if trial.state == TrialState.COMPLETE]
    assert summary.best_value == min(value for value in complete if value is not None)


@pytest.mark.parametrize("strategy", ["combined", "asha"])
def test_promotion_pauses_and_goes_on_with_the_best(tmp_path: Path, strategy: str) -> None:
    summary, trials = run(tmp_path, strategy, num_trials=18, asha_type="promotion")
    first = sorted((trial.intermediate_values[1] for trial in trials), reverse=True)
    went_on = [trial for trial in trials if len(trial.intermediate_values) > 1]
    assert 0 < len(went_on) <= 18 / 3 + 2
    assert max(trial.intermediate_values[1] for trial in went_on) == first[0]
    assert {len(trial.intermediate_values) for trial in trials} <= {1, 3, 9}
    for trial in trials:
        calls = (tmp_path / "s" / f"trial_{trial.number:04d}" / "calls.txt").read_text().split()
        assert calls == [str(k) for k in range(1, len(calls) + 1)], "a promoted trial goes on, it does not begin again"
    assert summary.n_complete >= 1


def test_the_median_pruner_stops_what_is_under_the_median(tmp_path: Path) -> None:
    chosen = {"optuna_pruner": "median", "optuna_n_startup_trials": 3, "max_concurrent": 1, "num_trials": 14}
    _, trials = run(tmp_path, "optuna", **chosen)
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert pruned
    for trial in pruned:
        before = [t.intermediate_values for t in trials[: trial.number] if t.state == TrialState.COMPLETE]
        last = max(trial.intermediate_values)
        values = sorted(values[last] for values in before)
        middle = (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2
        assert max(trial.intermediate_values.values()) < middle


@pytest.mark.parametrize("pruner", ["hyperband", "successive_halving", "percentile", "wilcoxon"])
def test_each_pruner_stops_some(tmp_path: Path, pruner: str) -> None:
    chosen = {"optuna_pruner": pruner, "optuna_n_startup_trials": 3, "max_concurrent": 1, "num_trials": 20}
    summary, _ = run(tmp_path, "optuna", **chosen)
    assert summary.n_pruned >= 2
    assert summary.n_complete >= 1


def test_tpe_concentrates(tmp_path: Path) -> None:
    """Its later proposals lie nearer to the best than random ones do."""

    def spread(strategy: str) -> float:
        _, trials = run(tmp_path / strategy, strategy, num_trials=40, max_concurrent=1, optuna_n_startup_trials=10)
        return sum(abs(math.log10(trial.params["learning_rate"]) + 3) for trial in trials[20:]) / 20

    assert spread("optuna") < 0.6 * spread("random")


@pytest.mark.parametrize("sampler", ["CMA", "GPSampler", "QMC", "Random"])
def test_each_sampler_proposes_in_the_space(tmp_path: Path, sampler: str, caplog: pytest.LogCaptureFixture) -> None:
    chosen = {"optuna_sampler": sampler, "max_concurrent": 1, "num_trials": 14, "optuna_n_startup_trials": 4}
    with caplog.at_level("WARNING"):
        _, trials = run(tmp_path, "optuna", **chosen)
    assert all(1e-5 <= trial.params["learning_rate"] <= 1e-1 for trial in trials)
    assert len({trial.params["learning_rate"] for trial in trials}) == 14
    said = {"CMA": "draws lora_r at random", "QMC": "draws lora_r at random", "GPSampler": "of lora_r as unordered"}
    assert said.get(sampler, "") in caplog.text


def test_warm_start_informs_the_sampler(tmp_path: Path) -> None:
    """TPE proposes near the best from its first trial on, without a random start."""
    search(config(tmp_path, "optuna", num_trials=30, max_concurrent=1, study_name="earlier"), arithmetic())
    made = config(tmp_path, "optuna", study_name="s", num_trials=10, max_concurrent=1, enqueue_default=False)
    made["hyperopt"]["warm_start"] = "earlier"
    search(made, arithmetic())
    cold = config(tmp_path, "optuna", study_name="cold", num_trials=10, max_concurrent=1, enqueue_default=False)
    search(cold, arithmetic())

    def distance(name: str) -> float:
        trials = read_study(tmp_path / name).trials
        assert len(trials) == 10, "the earlier study's trials are not this one's"
        return sum(abs(math.log10(trial.params["learning_rate"]) + 3) for trial in trials)

    assert distance("s") < 0.7 * distance("cold")


def test_earlier_studies_count_by_rank(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One of them was much easier and had its best elsewhere: its values are all higher, which must not decide."""
    caplog.set_level("INFO", "mistral_ner")
    search(config(tmp_path, "optuna", num_trials=30, max_concurrent=1, study_name="like"), arithmetic())
    search(config(tmp_path, "optuna", num_trials=10, max_concurrent=1, study_name="easy"), arithmetic(easier=9.0))
    made = config(tmp_path, "optuna", study_name="s", num_trials=3, max_concurrent=1, enqueue_default=False)
    made["hyperopt"]["warm_start"] = ["easy", str(tmp_path / "like")]
    search(made, arithmetic())
    assert "30 of 30 trials of " in caplog.text
    plan = Plan.of(made)
    warm = _read_warm_trials(plan)
    for place, count in ((1, 10), (2, 30)):
        values = sorted(one.value for one in warm if one.number // APART == place)
        assert len(values) == count
        assert 0 < values[0] < 0.3, "the worst of each"
        assert 0.7 < values[-1] < 1, "the best of each"
    own = read_study(tmp_path / "s").trials
    seen = KnownTrials(warm).complete([*warm, *own], Judge(plan))
    assert sorted(one.value for one in seen if one.number < APART) == pytest.approx([1 / 6, 1 / 2, 5 / 6])
    assert all(one.value > 0.1 for one in own if one.value is not None), "the study itself keeps its values"


def test_two_metrics_give_a_pareto_front(tmp_path: Path) -> None:
    """Accuracy against the rank: no trial on the front is beaten in both."""
    summary, trials = run(tmp_path, "optuna", second_metric="eval_seconds", num_trials=16, max_concurrent=1)
    assert summary.pareto
    front = {row["trial"] for row in summary.pareto}
    for number in front:
        mine = trials[number].values
        assert not any(t.values[0] > mine[0] and t.values[1] < mine[1] for t in trials)
    assert all(trial.values[1] == trial.params["lora_r"] for trial in trials)


@pytest.mark.parametrize(("strategy", "pruner"), [("combined", "none"), ("optuna", "median")])
def test_the_first_of_two_metrics_stops_trials(tmp_path: Path, strategy: str, pruner: str) -> None:
    chosen = {"optuna_pruner": pruner, "optuna_n_startup_trials": 3, "num_trials": 14, "max_concurrent": 1}
    summary, trials = run(tmp_path, strategy, second_metric="eval_seconds", **chosen)
    ended = {state: [t for t in trials if t.state == state] for state in (TrialState.COMPLETE, TrialState.PRUNED)}
    assert len(ended[TrialState.PRUNED]) >= 2
    assert summary.n_complete + summary.n_pruned == 14
    assert summary.pareto
    assert {row["trial"] for row in summary.pareto} <= {trial.number for trial in ended[TrialState.COMPLETE]}
    assert summary.best_value == max(trial.values[0] for trial in ended[TrialState.COMPLETE])


def test_resume_refuses_another_search(tmp_path: Path) -> None:
    run(tmp_path, "random", num_trials=3, max_concurrent=1)
    before = (tmp_path / "s" / "study.journal").read_bytes()
    with pytest.raises(UserError, match=r"the study 's' exists already in .*hyperopt.resume=true"):
        run(tmp_path, "random", num_trials=3, max_concurrent=1)
    changed = config(tmp_path, "random", num_trials=5, max_concurrent=1, resume=True)
    changed["search_space"] = {
        **SPACE,
        "lora_r": {"type": "choice", "choices": [4, 8]},
        "num_epochs": SPACE["num_epochs"],
    }
    with pytest.raises(UserError, match=r"search space of s has changed \(lora_r: was model.lora_r choice\(4, 8, 16\)"):
        search(changed, arithmetic())
    changed = config(tmp_path, "random", num_trials=5, max_concurrent=1, resume=True)
    changed["data"] = {"max_length": 64}
    with pytest.raises(UserError, match=r"s was another search \(data.max_length: was 128, is 64\).*warm_start=s"):
        search(changed, arithmetic())
    with pytest.raises(UserError, match=r"no study 't' to resume in .*did you mean 's'|there are: s"):
        run(tmp_path, "random", study_name="t", resume=True)
    assert (tmp_path / "s" / "study.journal").read_bytes() == before


def test_optuna_is_quiet() -> None:
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING
