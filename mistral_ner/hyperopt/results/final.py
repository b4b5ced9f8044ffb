"""The final model: the best settings race for it, the best mean on dev wins, and ``final/`` gets the winner.

The best of many noisy trials looks better than it is. So the values of the search only select the settings to train
again. All their trainings together select the winner; what is said of it rests on the seeds that the search has not
seen, and on the test split, which is scored after that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from mistral_ner import files
from mistral_ner.config.schema import Config
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster.workers import Workers
from mistral_ner.hyperopt.results.bootstrap import distinguishable, interval, resample_f1
from mistral_ner.hyperopt.results.merged import merge
from mistral_ner.hyperopt.results.model_card import write_card
from mistral_ner.hyperopt.results.race import Race
from mistral_ner.hyperopt.results.trainings import (
    FOLDER,
    Candidate,
    Finalist,
    Trainings,
    choose_candidates,
    is_default,
    read_trial_config,
    take_over,
)
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.training.checkpoint import find_best, reports_on_disk

if TYPE_CHECKING:
    from mistral_ner.metrics import IntArray, Score


@dataclass
class Result:
    """The trainings of a candidate: the metric on dev by seed, and F1 with its 95% interval over sentences."""

    trial: int | None
    default: bool  # whether these are the default config's settings
    params: dict[str, Any]
    search_value: float | None
    dev: dict[str, float]
    dev_mean: float  # over all seeds, by which the winner is chosen
    dev_std: float
    dev_f1: float  # over the new seeds, if there are any
    dev_f1_interval: tuple[float, float]
    distinguishable: bool = True  # from the winner, by a paired bootstrap over the sentences of dev
    test_f1: float | None = None  # of the winner and the default config only
    test_f1_interval: tuple[float, float] | None = None
    out: str | None = None  # why these settings left the race


@dataclass
class Final:
    """The outcome of the final trainings, as ``final/final.json`` holds it."""

    metric: str
    seeds: list[int]  # of the winner's trainings
    seed: int  # of the final model: the winner's training that is best on dev
    settings: list[Result]  # the winner first
    failures: dict[str, str]  # why trainings failed, by folder name
    new_seeds: list[int] = field(default_factory=list)  # those of the race that the search has not seen
    cut: str | None = None  # what the time did not pay for

    @property
    def winner(self) -> Result:
        """The settings with the best mean on dev of those that ran the race to its end."""
        return self.settings[0]

    @property
    def default(self) -> Result | None:
        """The default config's settings, or None if their training failed."""
        return next((result for result in self.settings if result.default), None)


def finalise(plan: Plan, complete: Sequence[Candidate], workers: Workers, deadline: float | None = None) -> Final:
    """Let the candidates race, and write ``final/``; called again after a crash, it continues.

    Args:
        plan: the search.
        complete: its complete trials.
        workers: train and score.
        deadline: when no lap begins any more, by ``time.monotonic``; None: whenever the plan says.

    Raises:
        UserError: no candidate's trainings were all completed.
    """
    finalists = [Finalist(one) for one in choose_candidates(plan, complete)]
    sharing = None if workers.elsewhere else min(workers.at_once, len(finalists))
    trainings = Trainings(plan, workers, sharing)
    seeds = [plan.config.seed + place for place in range(plan.config.hyperopt.final.seeds)]
    race = Race(trainings, finalists, seeds, deadline)
    winners = race.run()
    if not winners:
        raise UserError(
            f"no final training was completed ({'; '.join(sorted(set(trainings.failures.values())))}); see "
            f"{plan.folder / FOLDER}/candidates, or hyperopt.final.enabled=false for the best single trial"
        )
    losers = sorted((one for one in finalists if one.out and one.trained), key=lambda one: -plan.sign * one.mean)
    final, scored = _judge(trainings, [*winners, *losers], race.new_seeds, race.cut)
    _write(plan, winners[0].trained[final.seed][0], final, scored, workers)
    return final


def finalise_trial(plan: Plan, candidate: Candidate, workers: Workers) -> Final:
    """Write ``final/`` from the best single trial, without final trainings.

    Args:
        plan: the search.
        candidate: a trial; its value is the best of many, and therefore too high. A trial that was cut off when it
            reached the target, or when time ran out, has no adapter yet: it gets that of its best report.
        workers: train and score.

    Raises:
        UserError: that training failed.
    """
    trial, config = plan.folder / candidate.name, read_trial_config(plan, candidate)
    trainings = Trainings(plan, workers)
    if not (trial / "adapter").is_dir():
        folder, made = plan.folder / FOLDER / "candidates" / candidate.name, len(reports_on_disk(trial))
        config = take_over(plan, candidate, folder, stop_after=made)
        trainings.run([config])
        if trainings.failures:
            raise UserError(*trainings.failures.values())
    only = Finalist(candidate, {config.seed: (config, float(candidate.value or 0.0))})
    final, scored = _judge(trainings, [only], [])
    _write(plan, config, final, scored, workers)
    return final


def _judge(
    trainings: Trainings, finalists: Sequence[Finalist], new_seeds: Sequence[int], cut: str | None = None
) -> tuple[Final, dict[str, dict[str, float]]]:
    """Return the outcome, the winner being the first, and the final model's metrics by split."""
    plan, winner = trainings.plan, finalists[0].trained
    best = find_best({seed: value for seed, (_, value) in winner.items()}, plan.sign)
    assert best is not None, "each finalist has a training"
    dev = trainings.scores(finalists, "dev")
    results = [_build_result(plan, one, scores, new_seeds) for one, scores in zip(finalists, dev, strict=True)]
    for result, scores in zip(results[1:], dev[1:], strict=True):
        same = _told_by(scores, new_seeds)  # those that leave the race have fewer seeds than the winner
        result.distinguishable = distinguishable(_counts(dev[0], same), _counts(scores, same))
    # only now that the winner is chosen is the test split scored
    reported = [place for place, result in enumerate(results) if place == 0 or result.default]
    test = trainings.scores([finalists[place] for place in reported], "test")
    for place, scores in zip(reported, test, strict=True):
        if scores:
            results[place].test_f1 = mean(one.metrics["f1"] for one in scores.values())
            results[place].test_f1_interval = interval(resample_f1(_counts(scores, scores)))
    scored = {split: found[0][best[0]].metrics for split, found in (("dev", dev), ("test", test)) if found[0]}
    metric = plan.config.hyperopt.metric
    return Final(metric, list(winner), best[0], results, trainings.failures, list(new_seeds), cut), scored


def _told_by(scores: Mapping[int, Score], new_seeds: Sequence[int]) -> list[int]:
    """Return the seeds that say how good settings are: the new ones, or all if there are none of these."""
    return [seed for seed in scores if seed in new_seeds] or list(scores)


def _counts(scores: Mapping[int, Score], seeds: Iterable[int]) -> list[IntArray]:
    return [scores[seed].counts for seed in seeds]


def _build_result(plan: Plan, one: Finalist, dev: Mapping[int, Score], new_seeds: Sequence[int]) -> Result:
    values = {seed: value for seed, (_, value) in one.trained.items()}
    told_by = _told_by(dev, new_seeds)
    return Result(
        trial=one.candidate.trial,
        default=is_default(plan, one.candidate),
        params=one.candidate.params,
        search_value=one.candidate.value,
        dev={str(seed): value for seed, value in values.items()},
        dev_mean=one.mean,
        dev_std=stdev(values.values()) if len(values) > 1 else 0.0,
        dev_f1=mean(dev[seed].metrics["f1"] for seed in told_by),
        dev_f1_interval=interval(resample_f1(_counts(dev, told_by))),
        out=one.out,
    )


def _write(plan: Plan, config: Config, final: Final, scored: dict[str, dict[str, float]], workers: Workers) -> None:
    """Copy the final model to ``final/``; ``final.json`` is written last and shows that the folder is complete."""
    folder, source = plan.folder / FOLDER, Path(config.output_dir) / "adapter"
    folder.mkdir(exist_ok=True)  # nothing was trained anew
    (folder / "final.json").unlink(missing_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != "report.json":
            shutil.copy2(path, folder / path.name)
    for path in Path(config.output_dir).glob("predictions_*.jsonl"):
        shutil.copy2(path, folder / path.name)
    _write_splits(plan)
    files.write_json(folder / "metrics.json", scored)
    merged = merge(config, source, folder, list(scored), workers) if plan.config.hyperopt.merge else None
    files.write_text(folder / "README.md", write_card(config, asdict(final), scored, merged))
    files.write_json(folder / "final.json", asdict(final))


def _write_splits(plan: Plan) -> None:
    from mistral_ner.training.predictions import read_again, write_splits  # late, because it imports torch

    write_splits(plan.folder, read_again(plan.config.data))


def read_final(folder: Path) -> dict[str, Any] | None:
    """Return what ``final/final.json`` of the study in ``folder`` holds, or None if there is no final model."""
    try:
        found = json.loads((folder / FOLDER / "final.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
