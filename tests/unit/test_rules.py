"""The two forms of ASHA, by themselves: no Ray, no study."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from mistral_ner.hyperopt.engines.rules import Compare, Promotion, Rule, Stopping
from mistral_ner.hyperopt.sampling.promise import Scores, Seen


def trial(number: int, state: TrialState, *values: float) -> FrozenTrial:
    """A trial of a study with reports counted from 1."""
    reports = dict(enumerate(values, 1))
    made = optuna.create_trial(
        state=state, intermediate_values=reports, value=values[-1] if state.is_finished() else None
    )
    made.number = number
    return made


def by_metric(sign: int = 1) -> Compare:
    """Compare by the metric alone, of which more is better with a sign of 1."""
    return lambda _, seen: Scores({trial: sign * one.metric for trial, one in seen.items()}, "eval_f1", sign)


def first_reports(rule: Rule, *values: float) -> list[bool]:
    return [rule.reported(number, 1, Seen(value)) for number, value in enumerate(values)]


def test_a_trial_below_the_cutoff_stops_and_the_first_one_never_does() -> None:
    rule = Stopping([1, 3], 3, by_metric())
    assert first_reports(rule, 0.5, 0.4, 0.6, 0.52) == [False, True, False, True]
    assert rule.stopped == {1: 1, 3: 1}
    assert rule.next() is None, "what has stopped does not continue"


def test_less_is_better_with_the_other_sign() -> None:
    assert first_reports(Stopping([1], 3, by_metric(-1)), 0.5, 0.6, 0.4) == [False, True, False]


def test_a_trial_is_compared_once_at_a_rung_and_at_no_other_report() -> None:
    rule = Stopping([2], 3, by_metric())
    assert not rule.reported(0, 2, Seen(0.9))
    assert not rule.reported(1, 1, Seen(0.1)), "before the rung"
    assert rule.reported(1, 3, Seen(0.1)), "the first report that is not before the rung"
    assert not rule.reported(0, 3, Seen(0.0)), "it has passed this rung"


def test_of_ties_one_in_the_factor_continues() -> None:
    assert first_reports(Stopping([1], 3, by_metric()), *[0.0] * 9).count(False) == 3


def test_brackets_are_drawn_by_trial_and_seed_and_later_ones_are_rarer() -> None:
    def compared(seed: int, brackets: int = 2) -> list[bool]:
        """Whether each trial is compared at the first rung; it stops there, because it is the worst so far."""
        rule = Stopping([1, 3], 3, by_metric(), brackets=brackets, seed=seed)
        return first_reports(rule, *[-float(number) for number in range(200)])

    assert compared(1, brackets=1) == [False] + [True] * 199
    assert compared(1) == compared(1) != compared(2)
    assert 0.6 < sum(compared(1)) / 200 < 0.85, "1 / (1 + exp(-1)) = 0.73"


def test_a_stop_that_the_study_contradicts_is_forgotten() -> None:
    rule = Stopping([1], 3, by_metric())
    first_reports(rule, 0.9, 0.1, 0.1, 0.1)
    rule.settle(
        [
            trial(1, TrialState.RUNNING, 0.1),
            trial(2, TrialState.RUNNING, 0.1, 0.2),  # it had continued
            trial(3, TrialState.PRUNED, 0.1),
        ]
    )
    assert set(rule.stopped) == {1}


def test_promotion_pauses_all_but_the_best_and_continues_the_best_later() -> None:
    rule = Promotion([1, 3], 3, by_metric())
    assert first_reports(rule, 0.5, 0.4, 0.6) == [True, True, False], "of three, one continues"
    assert rule.next() is None
    assert first_reports(rule, *[0.5, 0.4, 0.6, 0.3, 0.3, 0.3])[3:] == [True] * 3
    assert rule.next() == 0, "of six, two continue"
    assert rule.paused == {1, 3, 4, 5}
    assert not rule.stopped


def test_promotion_prefers_the_highest_rung() -> None:
    rule = Promotion([1, 3], 2, by_metric())
    rule.reported(0, 3, Seen(0.1))
    first_reports(rule, 0.0, 0.9, 0.8, 0.7)
    rule.reported(9, 3, Seen(0.05))
    assert rule.next() == 0


@pytest.mark.parametrize(
    ("left", "paused"),
    [
        (trial(0, TrialState.RUNNING, 0.1), {0}),
        (trial(0, TrialState.RUNNING, 0.1, 0.2), set()),  # it had continued
        (trial(0, TrialState.PRUNED, 0.1), set()),
    ],
)
def test_a_pause_that_the_study_contradicts_is_forgotten(left: FrozenTrial, paused: set[int]) -> None:
    rule = Promotion([1], 3, by_metric())
    rule.reported(0, 1, Seen(0.1))
    rule.settle([left])
    assert rule.paused == paused


def test_what_is_said_of_a_trial_that_waits_or_stopped() -> None:
    rule: Rule = Promotion([1], 3, by_metric())
    first_reports(rule, 0.31, 0.2)
    assert rule.verdict(0) == "promise 0.31 (eval_f1), too few trials are at its rung"
    first_reports(rule, 0.31, 0.2, 0.44)
    assert rule.verdict(0) == "promise 0.31 (eval_f1), its rung needs 0.44"
    assert rule.verdict(7) is None
    rule = Stopping([1], 3, by_metric(-1))
    first_reports(rule, 0.3, 0.5)
    assert rule.verdict(1) == "promise 0.5 (eval_f1), its rung needs 0.3"


def test_who_cannot_be_paid_waits_and_may_continue_later() -> None:
    rule = Promotion([1, 3], 3, by_metric())
    first_reports(rule, 0.5, 0.4, 0.6)
    rule.hold(2)
    assert rule.paused == {0, 1, 2}
    assert rule.next() == 2


def test_the_best_of_those_that_got_furthest_can_always_continue() -> None:
    """A search of few trials needs a winner, though no rung lets one pass."""
    rule = Promotion([1, 3], 3, by_metric())
    first_reports(rule, 0.5, 0.9)
    assert rule.next() is None
    assert rule.best_paused() == 1
    rule.reported(1, 3, Seen(0.1))
    assert rule.best_paused() == 1, "it waits at the higher rung now"
    assert rule.best_paused() == 0
    assert rule.best_paused() is None
