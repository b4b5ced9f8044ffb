"""The final trainings: the best settings are trained again with several seeds, and the best mean on dev wins.

The best of many noisy trials looks better than it is. So the values of the search only select the settings to train
again, the new means on dev select the winner, and the test split is scored after that.
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
from mistral_ner.config.schema import Config, to_container
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster.workers import Failed, Workers, keep_to_share
from mistral_ner.hyperopt.results.bootstrap import distinguishable, interval, resample_f1
from mistral_ner.hyperopt.results.merged import merge
from mistral_ner.hyperopt.results.model_card import write_card
from mistral_ner.hyperopt.spec import capacity
from mistral_ner.hyperopt.spec.faults import value_at
from mistral_ner.hyperopt.spec.plan import Plan, read_saved_config, trial_name
from mistral_ner.hyperopt.study.live_view import FinalView, NoView, can_show
from mistral_ner.hyperopt.study.study import GO_ON
from mistral_ner.hyperopt.study.trial_log import write_trial_log
from mistral_ner.training.checkpoint import best_report, find_best, reports_on_disk

if TYPE_CHECKING:
    from mistral_ner.metrics import IntArray, Score

log = logging.getLogger(__name__)

FOLDER = "final"


@dataclass(frozen=True)
class Candidate:
    """Settings to train again: those of a trial, or of the default config (trial None)."""

    trial: int | None
    params: dict[str, Any]  # by parameter name
    value: float | None = None  # of its best report in the search

    @property
    def name(self) -> str:
        """The first part of the names of its trainings' folders."""
        return "default" if self.trial is None else trial_name(self.trial)


@dataclass
class Result:
    """The trainings of a candidate: the metric on dev by seed, and F1 with its 95% interval over sentences."""

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
    test_f1: float | None = None  # of the winner and the default config only
    test_f1_interval: tuple[float, float] | None = None


@dataclass
class Final:
    """The outcome of the final trainings, as ``final/final.json`` holds it."""

    metric: str
    seeds: list[int]
    seed: int  # of the final model: the winner's training that is best on dev
    settings: list[Result]  # the winner first
    failures: dict[str, str]  # why trainings failed, by folder name

    @property
    def winner(self) -> Result:
        """The settings with the best mean on dev."""
        return self.settings[0]

    @property
    def default(self) -> Result | None:
        """The default config's settings, or None if one of their trainings failed."""
        return next((result for result in self.settings if result.default), None)


def choose_candidates(plan: Plan, complete: Sequence[Candidate]) -> list[Candidate]:
    """Return the ``top_k`` best different settings, and the default config unless it is among them."""
    default = Candidate(None, {p.name: value_at(plan.config, p.path) for p in plan.space})
    chosen: list[Candidate] = []
    for one in sorted(complete, key=lambda c: (-plan.sign * (c.value or 0.0), c.trial)):
        if all(_without_seed(plan, one) != _without_seed(plan, other) for other in chosen):
            chosen.append(one)
    chosen = chosen[: plan.config.hyperopt.final.top_k]
    return chosen if any(_is_default(plan, one) for one in chosen) else [*chosen, default]


def finalise(plan: Plan, complete: Sequence[Candidate], workers: Workers) -> Final:
    """Train the candidates, choose the winner, and write ``final/``; called again after a crash, it continues.

    Args:
        plan: the search.
        complete: its complete trials.
        workers: train and score.

    Raises:
        UserError: no candidate's trainings were all completed.
    """
    folder = plan.folder / FOLDER
    wanted = plan.config.hyperopt.final
    seeds = [plan.config.seed + 1 + index for index in range(wanted.seeds)]
    chosen = choose_candidates(plan, complete)
    sharing = None if workers.elsewhere else min(workers.at_once, len(chosen) * len(seeds))
    configs = [[_config(plan, candidate, seed, sharing) for seed in seeds] for candidate in chosen]
    values, failures = _train_all(plan, [config for of_one in configs for config in of_one], workers)
    runs = []
    for candidate, of_one in zip(chosen, configs, strict=True):
        # a mean over fewer seeds cannot be compared
        if all(config.output_dir in values for config in of_one):
            runs.append(_Run(candidate, {config.seed: (config, values[config.output_dir]) for config in of_one}))
    if not runs:
        raise UserError(
            f"no final training was completed ({'; '.join(sorted(set(failures.values())))}); see "
            f"{folder}/candidates, or hyperopt.final.enabled=false for the best single trial"
        )
    runs.sort(key=lambda run: -plan.sign * run.mean)
    final, scored = _judge(plan, runs, seeds, failures, workers)
    _write(plan, runs[0].trained[final.seed][0], final, scored, workers)
    return final


def finalise_trial(plan: Plan, candidate: Candidate, workers: Workers) -> Final:
    """Write ``final/`` from the best single trial, without final trainings.

    Args:
        plan: the search.
        candidate: a trial; its value is the best of many, and therefore too high. A trial that was cut off when it
            reached the target has no adapter yet: it is trained again, up to its best report.
        workers: train and score.

    Raises:
        UserError: that training failed.
    """
    assert candidate.trial is not None
    config = read_saved_config(plan.folder / candidate.name / "config.yaml")
    config.output_dir = str(plan.folder / candidate.name)  # the study may have been moved
    if not (plan.folder / candidate.name / "adapter").is_dir():
        reports = reports_on_disk(plan.folder / candidate.name)
        best = best_report(reports, plan.config.hyperopt.metric, plan.sign)
        config.training.stop_after = int(best["report"]) if best else None
        config.output_dir = str(plan.folder / FOLDER / "candidates" / candidate.name)
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        _, failures = _train_all(plan, [config], workers)
        if failures:
            raise UserError(*failures.values())
    (plan.folder / FOLDER).mkdir(exist_ok=True)
    run = _Run(candidate, {config.seed: (config, float(candidate.value or 0.0))})
    final, scored = _judge(plan, [run], [config.seed], {}, workers)
    _write(plan, config, final, scored, workers)
    return final


@dataclass
class _Run:
    candidate: Candidate
    trained: dict[int, tuple[Config, float]]  # by seed

    @property
    def mean(self) -> float:
        return mean(value for _, value in self.trained.values())


def _config(plan: Plan, candidate: Candidate, seed: int, sharing: int | None) -> Config:
    """Return a final training's config; ``sharing`` of them share this machine, None if each has CPUs of its own."""
    folder = plan.folder / FOLDER / "candidates" / f"{candidate.name}_seed_{seed}"
    if not (folder / "config.yaml").exists():
        config = plan.trial_config(candidate.trial or 0, candidate.params)
        config.output_dir, config.seed = str(folder), seed
        config.training.patience = plan.config.training.patience  # no scheduler decides here
        config.tracking = replace(plan.config.tracking)  # off for trials only
        if sharing is not None:  # the whole machine, where nothing else runs now
            share = (config.training.threads or 1) * plan.passes
            config.training.threads = max(1, min(capacity.cores(), share) // sharing)
        files.write_yaml(folder / "config.yaml", to_container(config))
    return read_saved_config(folder / "config.yaml")


def _train_all(plan: Plan, configs: Sequence[Config], workers: Workers) -> tuple[dict[str, float], dict[str, str]]:
    """Return the metric of each training by its folder, and why the others failed by their folders' names."""
    values, failures = dict[str, float](), dict[str, str]()
    log.info("final trainings: %d, %d at once", len(configs), min(workers.at_once, len(configs)))
    folders = [Path(config.output_dir) for config in configs]
    view = FinalView(plan, folders=folders, at_once=workers.at_once) if can_show() else NoView()
    with view:
        for config, value in workers.each(_train, configs):
            folder = Path(config.output_dir)
            view.end_training(folders.index(folder), isinstance(value, Failed))
            if isinstance(value, Failed):
                failures[folder.name] = value.reason
                log.warning("final training %s  failed: %s", folder.name, value.reason)
            else:
                values[config.output_dir] = value
                log.info("final training %s  %s %.4f", folder.name, config.training.metric, value)
    return values, failures


def _train(config: Config) -> float:
    from mistral_ner.train import fit

    keep_to_share(config)
    folder = Path(config.output_dir)
    with write_trial_log(folder), files.name_full_disk(folder):
        return fit(config)


def _scores(runs: Sequence[_Run], split: str, workers: Workers) -> list[list[Score]]:
    """Return what each training scores on a split, by run and seed; empty lists where the split is."""
    wanted = [(config, split) for run in runs for config, _ in run.trained.values()]
    found: dict[str, Score | None] = {}
    for (config, _), result in workers.each(_score, wanted):
        if isinstance(result, Failed):
            raise UserError(
                f"{config.output_dir} could not be scored: {result.reason}; the trainings are kept: {GO_ON}"
            )
        found[config.output_dir] = result
    by_run = [[found[config.output_dir] for config, _ in run.trained.values()] for run in runs]
    return [[one for one in scores if one is not None] for scores in by_run]


def _score(wanted: tuple[Config, str]) -> Score | None:
    from mistral_ner.training.predictions import read_again, score_and_write

    config, split = wanted
    return score_and_write(config, split, read_again(config.data))


def _judge(
    plan: Plan, runs: list[_Run], seeds: list[int], failures: dict[str, str], workers: Workers
) -> tuple[Final, dict[str, dict[str, float]]]:
    """Return the outcome, and the final model's metrics by split."""
    winner = runs[0].trained
    best = find_best({seed: value for seed, (_, value) in winner.items()}, plan.sign)
    assert best is not None, "each run has a training"
    place = seeds.index(best[0])
    dev = _scores(runs, "dev", workers)
    results = [_build_result(plan, run, scores) for run, scores in zip(runs, dev, strict=True)]
    for result, scores in zip(results, dev, strict=True):
        result.distinguishable = result is not results[0] and distinguishable(_counts(dev[0]), _counts(scores))
    # only now that the winner is chosen is the test split scored
    reported = [index for index, result in enumerate(results) if index == 0 or result.default]
    test = _scores([runs[index] for index in reported], "test", workers)
    for index, scores in zip(reported, test, strict=True):
        if scores:
            results[index].test_f1 = mean(one.metrics["f1"] for one in scores)
            results[index].test_f1_interval = interval(resample_f1(_counts(scores)))
    scored = {split: found[0][place].metrics for split, found in (("dev", dev), ("test", test)) if found[0]}
    return Final(plan.config.hyperopt.metric, seeds, best[0], results, failures), scored


def _counts(scores: Sequence[Score]) -> list[IntArray]:
    return [one.counts for one in scores]


def _build_result(plan: Plan, run: _Run, dev: list[Score]) -> Result:
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
        dev_f1_interval=interval(resample_f1(_counts(dev))),
    )


def _is_default(plan: Plan, candidate: Candidate) -> bool:
    return all(value_at(plan.config, path) == value for path, value in _without_seed(plan, candidate).items())


def _without_seed(plan: Plan, candidate: Candidate) -> dict[str, Any]:
    """Return settings by path, without a searched seed: final trainings have seeds of their own."""
    return {path: value for path, value in plan.space.by_path(candidate.params).items() if path != "seed"}


def _write(plan: Plan, config: Config, final: Final, scored: dict[str, dict[str, float]], workers: Workers) -> None:
    """Copy the final model to ``final/``; ``final.json`` is written last and shows that the folder is complete."""
    folder, source = plan.folder / FOLDER, Path(config.output_dir) / "adapter"
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
