"""What a sampler proposes, checked: no settings that a constraint forbids, and none twice if the space is finite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from mistral_ner.hyperopt.spec.plan import ENQUEUED, Plan

_DRAWS, _RANDOM_DRAWS = 10, 1000  # proposals of the sampler, then random ones, before the check gives up


class CheckedSampler(BaseSampler):
    """Draws whole settings with another sampler until they pass; then at random among those that are left.

    Args:
        plan: the search, whose constraints and space count.
        sampler: draws; some draw the same again, so it gets few attempts.
        seed: of the random choice.
    """

    def __init__(self, plan: Plan, sampler: BaseSampler, seed: int) -> None:
        self.plan, self.sampler = plan, sampler
        self._rng = np.random.default_rng(seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Any:
        """Return the whole space: all parameters are drawn together."""
        return self.plan.space.distributions()

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """Return settings that pass, as Optuna stores them; if none can be found, the sampler's own."""
        given = trial.system_attrs.get(ENQUEUED, {})
        tried = self._tried(study, trial) if self.plan.settings is not None else set()
        first = None
        for drawn in self._draws(study, trial, given):
            first = first or drawn
            if self.plan.allows(self.plan.space.decode(drawn)) and _key(drawn) not in tried:
                return drawn
        return first or {}

    def _draws(self, study: optuna.Study, trial: FrozenTrial, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for _ in range(_DRAWS):
            yield self._draw(study, trial, given)
        space = self.plan.space
        if self.plan.settings is not None:
            for place in self._rng.permutation(len(self.plan.settings)):
                settings = space.encode(self.plan.settings[place])
                if all(settings.get(name) == value for name, value in given.items()):
                    yield settings
            return
        fixed = space.decode(given)
        for _ in range(_RANDOM_DRAWS):
            yield space.encode(space.draw(self._rng, fixed))

    def _draw(self, study: optuna.Study, trial: FrozenTrial, given: dict[str, Any]) -> dict[str, Any]:
        """Draw what the sampler proposes, parameter by parameter as a trial asks for them."""
        together = self.sampler.infer_relative_search_space(study, trial)
        drawn = {**self.sampler.sample_relative(study, trial, together), **given}
        space, found = self.plan.space, dict[str, Any]()
        for parameter in space:
            if parameter in space.in_play(space.decode(found)):
                value = drawn.get(parameter.name)
                if parameter.name not in drawn:
                    distribution = parameter.distribution()
                    value = self.sampler.sample_independent(study, trial, parameter.name, distribution)
                found[parameter.name] = value
        return found

    def _tried(self, study: optuna.Study, trial: FrozenTrial) -> set[Any]:
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        return distinct_settings(others)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Draw one parameter that was not drawn with the others."""
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Tell the sampler."""
        self.sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Tell the sampler."""
        self.sampler.after_trial(study, trial, state, values)


def distinct_settings(trials: Sequence[FrozenTrial]) -> set[Any]:
    """Return the different settings of trials, those that wait included."""
    return {_key(trial.system_attrs.get(ENQUEUED, {}) | trial.params) for trial in trials}


def _key(params: dict[str, Any]) -> frozenset[tuple[str, str]]:
    """Return settings in a form to compare: steps of a float may differ in the last bits."""
    return frozenset((name, f"{v:.9g}" if isinstance(v, float) else repr(v)) for name, v in params.items())
