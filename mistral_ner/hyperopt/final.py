"""The winner, honestly: the best settings are trained again with several seeds, and the best of their means wins.

The best of many noisy trials is too good to be true. So the search's value chooses whom to train again, never the
winner; dev chooses the winner, and the test split is scored after that.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from mistral_ner import files
from mistral_ner.config import Config, UserError, to_container
from mistral_ner.hyperopt import fits
from mistral_ner.hyperopt.bootstrap import distinguishable, interval, resampled_f1
from mistral_ner.hyperopt.card import card
from mistral_ner.hyperopt.faults import value_at
from mistral_ner.hyperopt.logs import trial_logs
from mistral_ner.hyperopt.plan import Plan, saved_config, trial_name
from mistral_ner.hyperopt.workers import Failed, Workers
from mistral_ner.progress import best_report, reports_on_disk

if TYPE_CHECKING:
    from mistral_ner.metrics import IntArray, Score

log = logging.getLogger(__name__)

FOLDER = "final"


@dataclass(frozen=True)
class Candidate:
    """Settings to train again: a trial of the search with its value there, or the default config (trial None)."""

    trial: int | None
    params: dict[str, Any]  # by parameter name
    value: float | None = None  # at its best report in the search

    @property
    def name(self) -> str:
        """The first part of its trainings' folders."""
        return "default" if self.trial is None else trial_name(self.trial)


@dataclass
class Result:
    """A candidate's trainings: the metric on dev by seed, and F1 with its 95% interval over sentences."""

    trial: int | None
    default: bool  # whether these are the default config's settings
    params: dict[str, Any]
    search_value: float | None
    dev: dict[str, float]
    dev_mean: float
    dev_std: float
    dev_f1: float
    dev_f1_interval: tuple[float, float]
    distinguishable: bool = True  # from the winner, by a paired bootstrap over the sentences of dev
    test_f1: float | None = None  # of the winner and the default config alone
    test_f1_interval: tuple[float, float] | None = None


@dataclass
class Final:
    """The end of a search; ``final/final.json`` holds just this."""

    metric: str
    seeds: list[int]
    seed: int  # of the winner's training that is the final model: the best on dev
    settings: list[Result]  # the winner first
    failures: dict[str, str]  # folder of a training and why it failed

    @property
    def winner(self) -> Result:
        """The settings with the best mean on dev."""
        return self.settings[0]

    @property
    def default(self) -> Result | None:
        """The default config's settings, None where their trainings failed."""
        return next((result for result in self.settings if result.default), None)


def candidates(plan: Plan, complete: Sequence[Candidate]) -> list[Candidate]:
    """Return the ``top_k`` best of different settings, and the default config where it is none of them."""
    default = Candidate(None, {p.name: value_at(plan.config, p.path) for p in plan.space})
    chosen: list[Candidate] = []
    for one in sorted(complete, key=lambda c: (-plan.sign * (c.value or 0.0), c.trial)):
        if all(one.params != other.params for other in chosen):
            chosen.append(one)
    chosen = chosen[: plan.config.hyperopt.final.top_k]
    return chosen if any(_is_default(plan, one) for one in chosen) else [*chosen, default]


def finalise(plan: Plan, complete: Sequence[Candidate], workers: Workers) -> Final:
    """Train the candidates, choose, and write ``final/``; cut off, it goes on where it was when called again.

    Args:
        plan: the search.
        complete: its complete trials.
        workers: who trains and scores.

    Raises:
        UserError: no training of any candidate came to its end.
    """
    folder = plan.folder / FOLDER
    wanted = plan.config.hyperopt.final
    seeds = [plan.config.seed + 1 + index for index in range(wanted.seeds)]
    chosen = candidates(plan, complete)
    at_once = min(workers.at_once, len(chosen) * len(seeds))
    configs = [[_config(plan, candidate, seed, at_once) for seed in seeds] for candidate in chosen]
    values, failures = _trained([config for of_one in configs for config in of_one], workers)
    runs = []
    for candidate, of_one in zip(chosen, configs, strict=True):
        # a mean over fewer seeds is no fair comparison
        if all(config.output_dir in values for config in of_one):
            runs.append(_Run(candidate, {config.seed: (config, values[config.output_dir]) for config in of_one}))
    if not runs:
        raise UserError(
            f"no final training came to its end ({'; '.join(sorted(set(failures.values())))}); see "
            f"{folder}/candidates, or type hyperopt.final.enabled=false for the best single trial"
        )
    runs.sort(key=lambda run: -plan.sign * run.mean)
    final, scored = _judged(plan, runs, seeds, failures, workers)
    _write(plan, runs[0].trained[final.seed][0], final, scored)
    return final


def keep(plan: Plan, candidate: Candidate, workers: Workers) -> Final:
    """Write ``final/`` from a trial of the search as it is, for those who want the best single trial.

    Args:
        plan: the search.
        candidate: a trial; its value is the best of many, and too good to be true. One that was cut off, by the
            target that it reached, has no adapter yet: it is trained again up to its best report.
        workers: who trains and scores.

    Raises:
        UserError: the training that was cut off failed when it went on.
    """
    assert candidate.trial is not None
    config = saved_config(plan.folder / candidate.name / "config.yaml")
    config.output_dir = str(plan.folder / candidate.name)  # where the study lies now
    if not (plan.folder / candidate.name / "adapter").is_dir():
        reports = reports_on_disk(plan.folder / candidate.name)
        best = best_report(reports, plan.config.hyperopt.metric, plan.sign)
        config.training.stop_after = int(best["report"]) if best else None
        config.output_dir = str(plan.folder / FOLDER / "candidates" / candidate.name)
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        _, failures = _trained([config], workers)
        if failures:
            raise UserError(*failures.values())
    (plan.folder / FOLDER).mkdir(exist_ok=True)
    run = _Run(candidate, {config.seed: (config, float(candidate.value or 0.0))})
    final, scored = _judged(plan, [run], [config.seed], {}, workers)
    _write(plan, config, final, scored)
    return final


@dataclass
class _Run:
    candidate: Candidate
    trained: dict[int, tuple[Config, float]]  # by seed

    @property
    def mean(self) -> float:
        return mean(value for _, value in self.trained.values())


def _config(plan: Plan, candidate: Candidate, seed: int, at_once: int) -> Config:
    folder = plan.folder / FOLDER / "candidates" / f"{candidate.name}_seed_{seed}"
    if not (folder / "config.yaml").exists():
        config = plan.trial_config(candidate.trial or 0, candidate.params)
        config.output_dir, config.seed = str(folder), seed
        config.tracking = replace(plan.config.tracking)  # off for trials only
        # nothing else runs now: the machine is these trainings' alone
        share = (config.training.threads or 1) * plan.at_once
        config.training.threads = max(1, min(fits.cores(), share) // at_once)
        files.write_yaml(folder / "config.yaml", to_container(config))
    return saved_config(folder / "config.yaml")


def _trained(configs: Sequence[Config], workers: Workers) -> tuple[dict[str, float], dict[str, str]]:
    """Return the metric of each training by its folder, and by the folder's name why others failed."""
    values, failures = dict[str, float](), dict[str, str]()
    log.info("final trainings: %d, %d at once", len(configs), min(workers.at_once, len(configs)))
    for config, value in workers.each(_train, configs):
        name = Path(config.output_dir).name
        if isinstance(value, Failed):
            failures[name] = value.reason
            log.warning("final training %s  failed: %s", name, value.reason)
        else:
            values[config.output_dir] = value
            log.info("final training %s  %s %.4f", name, config.training.metric, value)
    return values, failures


def _train(config: Config) -> float:
    from mistral_ner.train import fit

    folder = Path(config.output_dir)
    with trial_logs(folder), files.full_disk_named(folder):
        return fit(config)


def _scores(runs: Sequence[_Run], split: str, workers: Workers) -> list[list[Score]]:
    """Return what each training scores on a split, by run and seed; empty lists where the split is."""
    wanted = [(config, split) for run in runs for config, _ in run.trained.values()]
    found: dict[str, Score | None] = {}
    for (config, _), result in workers.each(_score, wanted):
        if isinstance(result, Failed):
            raise UserError(f"{config.output_dir} could not be scored: {result.reason}")
        found[config.output_dir] = result
    by_run = [[found[config.output_dir] for config, _ in run.trained.values()] for run in runs]
    return [[one for one in scores if one is not None] for scores in by_run]


def _score(wanted: tuple[Config, str]) -> Score | None:
    from mistral_ner.score import score

    config, split = wanted
    return score(config, Path(config.output_dir) / "adapter", split)


def _judged(
    plan: Plan, runs: list[_Run], seeds: list[int], failures: dict[str, str], workers: Workers
) -> tuple[Final, dict[str, dict[str, float]]]:
    """Return the end, and the final model's metrics by split."""
    winner = runs[0].trained
    best = max(winner, key=lambda seed: (plan.sign * winner[seed][1], -seed))
    place = seeds.index(best)
    dev = _scores(runs, "dev", workers)
    results = [_result(plan, run, scores) for run, scores in zip(runs, dev, strict=True)]
    for result, scores in zip(results, dev, strict=True):
        result.distinguishable = result is not results[0] and distinguishable(_counts(dev[0]), _counts(scores))
    # the choice is made: only now is the test split looked at
    shown = [index for index, result in enumerate(results) if index == 0 or result.default]
    test = _scores([runs[index] for index in shown], "test", workers)
    for index, scores in zip(shown, test, strict=True):
        if scores:
            results[index].test_f1 = mean(one.metrics["f1"] for one in scores)
            results[index].test_f1_interval = interval(resampled_f1(_counts(scores)))
    scored = {split: found[0][place].metrics for split, found in (("dev", dev), ("test", test)) if found[0]}
    return Final(plan.config.hyperopt.metric, seeds, best, results, failures), scored


def _counts(scores: Sequence[Score]) -> list[IntArray]:
    return [one.counts for one in scores]


def _result(plan: Plan, run: _Run, dev: list[Score]) -> Result:
    values = {str(seed): value for seed, (_, value) in run.trained.items()}
    return Result(
        trial=run.candidate.trial,
        default=_is_default(plan, run.candidate),
        params=run.candidate.params,
        search_value=run.candidate.value,
        dev=values,
        dev_mean=run.mean,
        dev_std=stdev(values.values()) if len(values) > 1 else 0.0,
        dev_f1=mean(one.metrics["f1"] for one in dev),
        dev_f1_interval=interval(resampled_f1(_counts(dev))),
    )


def _is_default(plan: Plan, candidate: Candidate) -> bool:
    return all(value_at(plan.config, path) == value for path, value in plan.space.by_path(candidate.params).items())


def _write(plan: Plan, config: Config, final: Final, scored: dict[str, dict[str, float]]) -> None:
    """Copy the final model to ``final/``; ``final.json`` comes last, so that it stands for a whole folder."""
    folder, source = plan.folder / FOLDER, Path(config.output_dir) / "adapter"
    (folder / "final.json").unlink(missing_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != "report.json":
            shutil.copy2(path, folder / path.name)
    files.write_json(folder / "metrics.json", scored)
    files.write_text(folder / "README.md", card(config, asdict(final), scored))
    if plan.config.hyperopt.merge:
        from mistral_ner.model.stored import save_merged, saved_labels  # late: all else here needs no torch

        save_merged(config, saved_labels(source), source, folder / "merged")
    files.write_json(folder / "final.json", asdict(final))


def read_final(folder: Path) -> dict[str, Any] | None:
    """Return what ``final/final.json`` of the study in ``folder`` holds, None where the final model is not there."""
    try:
        found = json.loads((folder / FOLDER / "final.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
