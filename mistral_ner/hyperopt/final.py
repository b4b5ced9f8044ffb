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
from typing import Any

from mistral_ner import files
from mistral_ner.config import Config, UserError, to_container
from mistral_ner.hyperopt import fits
from mistral_ner.hyperopt.bootstrap import distinguishable, interval, resampled_f1
from mistral_ner.hyperopt.card import card
from mistral_ner.hyperopt.faults import value_at
from mistral_ner.hyperopt.logs import trial_logs
from mistral_ner.hyperopt.plan import Plan, saved_config, trial_name
from mistral_ner.metrics import IntArray
from mistral_ner.progress import best_report, reports_on_disk

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


def finalise(plan: Plan, complete: Sequence[Candidate]) -> Final:
    """Train the candidates, choose, and write ``final/``; cut off, it goes on where it was when called again.

    Args:
        plan: the search.
        complete: its complete trials.

    Raises:
        UserError: no training of any candidate came to its end.
    """
    folder = plan.folder / FOLDER
    wanted = plan.config.hyperopt.final
    seeds = [plan.config.seed + 1 + index for index in range(wanted.seeds)]
    runs, failures = [], dict[str, str]()
    for candidate in candidates(plan, complete):
        trained: dict[int, tuple[Config, float]] = {}
        for seed in seeds:
            config = _config(plan, candidate, seed)
            try:
                trained[seed] = config, _train(config)
            except UserError as error:
                failures[Path(config.output_dir).name] = str(error)
        # a mean over fewer seeds is no fair comparison
        if len(trained) == len(seeds):
            runs.append(_Run(candidate, trained))
    if not runs:
        raise UserError(
            f"no final training came to its end ({'; '.join(sorted(set(failures.values())))}); see "
            f"{folder}/candidates, or type hyperopt.final.enabled=false for the best single trial"
        )
    runs.sort(key=lambda run: -plan.sign * run.mean)
    final, scored = _judged(plan, runs, seeds, failures)
    _write(plan, runs[0].trained[final.seed][0], final, scored)
    return final


def keep(plan: Plan, candidate: Candidate) -> Final:
    """Write ``final/`` from a trial of the search as it is, for those who want the best single trial.

    Args:
        plan: the search.
        candidate: a trial; its value is the best of many, and too good to be true. One that was cut off, by the
            target that it reached, has no adapter yet: it is trained again up to its best report.
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
        _train(config)
    (plan.folder / FOLDER).mkdir(exist_ok=True)
    run = _Run(candidate, {config.seed: (config, float(candidate.value or 0.0))})
    final, scored = _judged(plan, [run], [config.seed], {})
    _write(plan, config, final, scored)
    return final


@dataclass
class _Run:
    candidate: Candidate
    trained: dict[int, tuple[Config, float]]  # by seed

    @property
    def mean(self) -> float:
        return mean(value for _, value in self.trained.values())

    def scores(self, split: str) -> tuple[list[dict[str, float]], list[IntArray]]:
        """Metrics and counts of each training; empty lists where the split is."""
        from mistral_ner.score import score

        found = [score(config, Path(config.output_dir) / "adapter", split) for config, _ in self.trained.values()]
        return [one.metrics for one in found if one], [one.counts for one in found if one]


def _config(plan: Plan, candidate: Candidate, seed: int) -> Config:
    folder = plan.folder / FOLDER / "candidates" / f"{candidate.name}_seed_{seed}"
    if not (folder / "config.yaml").exists():
        config = plan.trial_config(candidate.trial or 0, candidate.params)
        config.output_dir, config.seed = str(folder), seed
        config.tracking = replace(plan.config.tracking)  # off for trials only
        # nothing else runs now: the machine is this training's alone
        share = (config.training.threads or 1) * plan.at_once
        config.training.threads = max(1, min(fits.cores(), share))
        files.write_yaml(folder / "config.yaml", to_container(config))
    return saved_config(folder / "config.yaml")


def _train(config: Config) -> float:
    from mistral_ner.train import fit

    folder = Path(config.output_dir)
    log.info("final training %s", folder.name)
    with trial_logs(folder), files.full_disk_named(folder):
        value = fit(config)
    log.info("final training %s  %s %.4f", folder.name, config.training.metric, value)
    return value


def _judged(
    plan: Plan, runs: list[_Run], seeds: list[int], failures: dict[str, str]
) -> tuple[Final, dict[str, dict[str, float]]]:
    """Return the end, and the final model's metrics by split."""
    results, first, scored = list[Result](), list[IntArray](), dict[str, dict[str, float]]()
    winner = runs[0].trained
    best = max(winner, key=lambda seed: (plan.sign * winner[seed][1], -seed))
    for run in runs:
        metrics, counts = run.scores("dev")
        if not results:
            first, scored["dev"] = counts, metrics[seeds.index(best)]
        results.append(_result(plan, run, metrics, counts))
        results[-1].distinguishable = len(results) > 1 and distinguishable(first, counts)
    # the choice is made: only now is the test split looked at
    for index, (run, result) in enumerate(zip(runs, results, strict=True)):
        if index and not result.default:
            continue
        metrics, counts = run.scores("test")
        if counts:
            result.test_f1 = mean(one["f1"] for one in metrics)
            result.test_f1_interval = interval(resampled_f1(counts))
            scored.setdefault("test", metrics[seeds.index(best)])
    return Final(plan.config.hyperopt.metric, seeds, best, results, failures), scored


def _result(plan: Plan, run: _Run, metrics: list[dict[str, float]], counts: list[IntArray]) -> Result:
    values = {str(seed): value for seed, (_, value) in run.trained.items()}
    return Result(
        trial=run.candidate.trial,
        default=_is_default(plan, run.candidate),
        params=run.candidate.params,
        search_value=run.candidate.value,
        dev=values,
        dev_mean=run.mean,
        dev_std=stdev(values.values()) if len(values) > 1 else 0.0,
        dev_f1=mean(one["f1"] for one in metrics),
        dev_f1_interval=interval(resampled_f1(counts)),
    )


def _is_default(plan: Plan, candidate: Candidate) -> bool:
    return all(value_at(plan.config, path) == value for path, value in plan.space.by_path(candidate.params).items())


def _write(plan: Plan, config: Config, final: Final, scored: dict[str, dict[str, float]]) -> None:
    """Copy the final model to ``final/``; ``final.json`` comes last, so that it stands for a whole folder."""
    from mistral_ner.model.stored import save_merged, saved_labels

    folder, source = plan.folder / FOLDER, Path(config.output_dir) / "adapter"
    (folder / "final.json").unlink(missing_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name != "report.json":
            shutil.copy2(path, folder / path.name)
    files.write_json(folder / "metrics.json", scored)
    files.write_text(folder / "README.md", card(config, asdict(final), scored))
    if plan.config.hyperopt.merge:
        save_merged(config, saved_labels(source), source, folder / "merged")
    files.write_json(folder / "final.json", asdict(final))


def read_final(folder: Path) -> dict[str, Any] | None:
    """Return what ``final/final.json`` of the study in ``folder`` holds, None where the final model is not there."""
    try:
        found = json.loads((folder / FOLDER / "final.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
