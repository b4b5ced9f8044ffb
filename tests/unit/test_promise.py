"""How promising trials look before their end: by the metric, or by the loss where it sees more."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from mistral_ner.config.schema import to_container
from mistral_ner.errors import ConfigError
from mistral_ner.hyperopt.sampling.promise import Judge, PromisedStudy, Seen, estimate, look_at, losses_to_keep
from mistral_ner.hyperopt.spec.plan import Plan

SPACE = {"learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-1}}


def plan(metric: str = "eval_f1", mode: str = "max", space: dict[str, Any] = SPACE, **hyperopt: Any) -> Plan:
    return Plan.of(
        {
            "output_dir": ".",
            "search_space": space,
            "training": {"metric": metric, "mode": mode},
            "hyperopt": {"strategy": "combined", "metric": metric, "mode": mode, **hyperopt},
        }
    )


def trial(number: int, values: list[float], losses: list[float | None] = (), state: str = "PRUNED") -> FrozenTrial:  # type: ignore[assignment]
    """A trial with reports counted from 1."""
    made = optuna.create_trial(
        state=TrialState[state],
        intermediate_values=dict(enumerate(values, 1)),
        user_attrs={f"eval_loss_{report}": loss for report, loss in enumerate(losses, 1)},
        value=max(values) if state == "COMPLETE" else None,
    )
    made.number = number
    return made


BLIND = {0: Seen(0.0, 0.9), 1: Seen(0.0, 0.5), 2: Seen(0.01, 0.7)}


def ranked(scores: dict[int, float]) -> list[int]:
    return sorted(scores, key=lambda number: -scores[number])


def test_the_loss_judges_as_long_as_the_metric_is_blind() -> None:
    judge = Judge(plan())
    early, late = judge.scores(1, BLIND), judge.scores(6, BLIND)
    assert (early.by, ranked(early.of)) == ("eval_loss", [1, 2, 0])
    assert (late.by, ranked(late.of)) == ("eval_f1", [2, 0, 1])
    assert early.tell(0, early.of[1]) == "promise 0.9 (eval_loss), its rung needs 0.5"


def test_both_judge_once_enough_trials_have_left_zero_behind() -> None:
    """As many as the rung lets pass: one in three. On few sentences the lowest loss is the same for all good trials."""
    seen = {0: Seen(0.56, 0.67), 1: Seen(0.47, 0.66), 2: Seen(0.3, 0.8), 3: Seen(0.0, 1.5), 4: Seen(0.0, 0.7)}
    scores = Judge(plan()).scores(3, seen)
    assert scores.of == {0: 0.875, 1: 0.875, 2: 0.375, 3: 0.0625, 4: 0.3125}
    assert scores.tell(2, scores.of[1]) == "promise 0.375 (ranks by eval_f1 and eval_loss), its rung needs 0.875"
    few = {**seen, **{number: Seen(0.02, 1.0) for number in range(5, 10)}}
    assert Judge(plan()).scores(3, few).by == "eval_loss"
    assert Judge(plan(asha_reduction_factor=4)).scores(3, few).by != "eval_loss"


def test_a_trial_without_a_loss_makes_all_be_judged_by_the_metric() -> None:
    """Objectives need not report one, and studies of earlier versions did not keep it."""
    assert Judge(plan()).scores(1, {**BLIND, 3: Seen(0.3)}).by == "eval_f1"


@pytest.mark.parametrize(
    ("made", "by"),
    [
        (plan("eval_f1_PER"), "eval_loss"),
        (plan("eval_macro_f1"), "eval_loss"),
        (plan("eval_accuracy"), "eval_accuracy"),  # never blind: most tokens are outside of entities
        (plan("eval_f1", "min"), "eval_f1"),
        (plan("eval_seconds", "min"), "eval_seconds"),
        (plan("eval_seconds", "min", judge="eval_loss"), "eval_loss"),
        (plan(judge="metric"), "eval_f1"),
        (plan(space={**SPACE, "label_all_subwords": {"type": "choice", "choices": [True, False]}}), "eval_f1"),
    ],
)
def test_auto_judges_by_the_loss_only_where_it_stands_for_the_metric(made: Plan, by: str) -> None:
    assert Judge(made).scores(1, BLIND).by == by


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_metric_judges_in_its_mode(mode: str) -> None:
    scores = Judge(plan("eval_seconds", mode)).scores(1, {0: Seen(1.0), 1: Seen(3.0), 2: Seen(2.0)})
    assert ranked(scores.of) == ([1, 2, 0] if mode == "max" else [0, 2, 1])


def test_a_chosen_loss_judges_to_the_end() -> None:
    assert Judge(plan(judge="eval_loss")).scores(8, BLIND).by == "eval_loss"


def test_a_loss_that_is_not_finite_is_the_worst() -> None:
    seen = {0: Seen(0.04, math.inf), 1: Seen(0.0, 5.0), 2: Seen(0.0, 0.5)}
    scores = Judge(plan()).scores(1, seen)
    assert ranked(scores.of) == [2, 1, 0]
    assert all(map(math.isfinite, scores.of.values())), "percentiles are taken of them"


def test_the_lowest_loss_so_far_counts() -> None:
    """One that rises again has learned all that it can; it has not become worse."""
    overfits = trial(0, [0.0, 0.2, 0.3], [0.9, 0.5, 0.8])
    assert look_at(overfits, 1) == Seen(0.0, 0.9)
    assert look_at(overfits, 3) == Seen(0.3, 0.5)
    assert look_at(trial(0, [0.0, 0.2], [None, 0.7]), 2) == Seen(0.2, 0.7)
    assert look_at(trial(0, [0.0], [None]), 1) == Seen(0.0, math.inf)
    assert look_at(trial(0, [0.0]), 1) == Seen(0.0, None)


def test_a_report_keeps_its_loss_if_something_will_judge_by_it() -> None:
    metrics = {"eval_f1": 0.5, "eval_loss": 0.7}
    assert losses_to_keep(plan(), 2, metrics) == {"eval_loss_2": 0.7}
    assert losses_to_keep(plan(), 2, {**metrics, "eval_loss": math.nan}) == {"eval_loss_2": None}
    assert losses_to_keep(plan(), 2, {"eval_f1": 0.5}) == {}
    assert losses_to_keep(plan(judge="metric"), 2, metrics) == {}
    assert losses_to_keep(plan(strategy="optuna"), 2, metrics) == {}
    assert losses_to_keep(plan(strategy="optuna", optuna_pruner="median"), 2, metrics) == {"eval_loss_2": 0.7}
    with pytest.raises(KeyError, match=r"judge=eval_loss needs eval_loss in every report; there are: eval_f1; fix"):
        losses_to_keep(plan(judge="eval_loss"), 2, {"eval_f1": 0.5})


def test_a_stopped_trial_is_placed_between_those_that_ran_to_their_end() -> None:
    whole = [trial(0, [0.0] * 8 + [0.6], [0.5] * 9, "COMPLETE"), trial(1, [0.0] * 8 + [0.2], [0.9] * 9, "COMPLETE")]
    stopped = [trial(2, [0.0], [0.7]), trial(3, [0.01], [1.1]), trial(4, [0.0], [0.4]), trial(5, [0.0], [1.3])]
    found = estimate(Judge(plan()), [*whole, *stopped])
    assert found[2] == pytest.approx(0.4), "its loss lies in the middle"
    assert ranked(found) == [4, 2, 3, 5]
    assert found[4] == pytest.approx(0.6), "never above the best that was seen"
    assert found[5] == 0.0


def test_without_losses_a_stopped_trial_has_its_best_report() -> None:
    trials = [trial(0, [0.3] * 9, state="COMPLETE"), trial(1, [0.1, 0.3, 0.2]), trial(2, [0.4], state="RUNNING")]
    assert estimate(Judge(plan()), trials) == {1: 0.3, 2: 0.4}
    assert estimate(Judge(plan("eval_seconds", "min")), trials) == {1: 0.1, 2: 0.4}


@pytest.mark.parametrize(("with_losses", "pruned"), [(True, [2]), (False, [])])
def test_a_pruner_sees_the_losses(with_losses: bool, pruned: list[int]) -> None:
    """F1 is 0 in all of them; the median pruner keeps what is as good as the median."""
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=2))
    losses = {0: [0.5] * 9, 1: [0.6] * 9}
    for number, of_trial in losses.items():
        study.add_trial(trial(number, [0.0] * 9, of_trial if with_losses else [], "COMPLETE"))
    stopped = []
    for number, loss in ((2, 0.9), (3, 0.5)):
        asked = trial(number, [0.0], [loss] if with_losses else [], "RUNNING")
        view = PromisedStudy(study, Judge(plan(strategy="optuna", optuna_pruner="median")), 1)
        if study.pruner.prune(view, view.show(asked)):  # type: ignore[arg-type]
            stopped.append(number)
    assert stopped == pruned


def test_the_first_rung_follows_from_the_judge() -> None:
    def form(**hyperopt: Any) -> tuple[str | None, list[int]]:
        if hyperopt.get("strategy") == "asha":
            hyperopt["optuna_sampler"] = "Random"
        made = plan(**hyperopt)
        return made.config.hyperopt.asha_type, made.rungs

    assert form() == ("stopping", [1, 3])
    assert form(strategy="asha") == ("stopping", [1, 3])
    assert form(judge="metric") == ("stopping", [3])
    assert form(metric="eval_seconds", mode="min") == ("stopping", [3])
    assert form(asha_type="promotion", asha_grace_period=2) == ("promotion", [2, 6])
    assert form(asha_max_t=3) == ("stopping", [1])


@pytest.mark.parametrize("strategy", ["combined", "asha", "optuna", "random"])
def test_what_a_study_saves_is_read_again_without_a_word(strategy: str, caplog: pytest.LogCaptureFixture) -> None:
    sampler = "TPE" if strategy in ("combined", "optuna") else "Random"
    Plan.of(to_container(plan(strategy=strategy, optuna_sampler=sampler).config))
    assert not caplog.records


@pytest.mark.parametrize("reports", [12, 20, 27, 100])
def test_the_rungs_lie_at_a_ninth_and_a_third(reports: int) -> None:
    made = Plan.of(
        {
            "output_dir": ".",
            "search_space": SPACE,
            "training": {"reports": reports},
            "hyperopt": {"strategy": "combined", "asha_max_t": reports},
        }
    )
    first, second = made.rungs
    assert first == math.ceil(reports / 9)
    assert second == 3 * first


def test_an_unknown_judge_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"hyperopt.judge: .*auto.*metric.*eval_loss"):
        plan(judge="train_loss")
