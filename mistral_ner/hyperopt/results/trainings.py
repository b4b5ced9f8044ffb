"""The trainings that a final model is chosen from: runs of the search itself, and new ones with other seeds."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from mistral_ner import files
from mistral_ner.config.schema import Config, to_container
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster.road import Road, work_in
from mistral_ner.hyperopt.cluster.workers import Failed, Workers
from mistral_ner.hyperopt.spec import capacity
from mistral_ner.hyperopt.spec.faults import value_at
from mistral_ner.hyperopt.spec.plan import Plan, read_saved_config, trial_name
from mistral_ner.hyperopt.study.event_log import write_trial_log
from mistral_ner.hyperopt.study.live_view import FinalView, NoView, can_show
from mistral_ner.hyperopt.study.study import GO_ON
from mistral_ner.training.checkpoint import CHECKPOINTS, finished_value, reports_on_disk
from mistral_ner.training.gpu import keep_to_share

if TYPE_CHECKING:
    from mistral_ner.metrics import Score

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


@dataclass(eq=False)
class Finalist:
    """Settings in the race for the final model, with their trainings."""

    candidate: Candidate
    trained: dict[int, tuple[Config, float]] = field(default_factory=dict)  # config and metric by seed
    out: str | None = None  # why it left the race

    @property
    def mean(self) -> float:
        """The mean of the metric over its seeds."""
        return mean(value for _, value in self.trained.values())


@dataclass
class Trainings:
    """Trains and scores finalists, each once.

    Args:
        plan: the search.
        workers: train and score.
        sharing: how many trainings share this machine's CPUs; None if each has its own.
    """

    plan: Plan
    workers: Workers
    sharing: int | None = None
    failures: dict[str, str] = field(default_factory=dict)  # why trainings failed, by folder name
    _scores: dict[tuple[str, str], Score | None] = field(default_factory=dict)  # by folder and split

    def train(self, finalists: Sequence[Finalist], seed: int) -> None:
        """Train finalists with a seed; what the search has trained is taken from there."""
        by_name = {one.candidate.name: one for one in finalists}
        owned = {name: self._of_the_search(one.candidate, seed) for name, one in by_name.items()}
        new = {name: self._config(one.candidate, seed) for name, one in by_name.items() if owned[name] is None}
        values = self.run([*new.values()]) if new else {}
        for name, one in by_name.items():
            if (own := owned[name]) is not None:
                one.trained[seed] = own
            elif (config := new[name]).output_dir in values:
                one.trained[seed] = config, values[config.output_dir]
            else:
                one.out = f"failed with seed {seed}: {self.failures[Path(config.output_dir).name]}"

    def run(self, configs: Sequence[Config]) -> dict[str, float]:
        """Return the metric of each training by its folder; note why the others failed. Called again, it continues."""
        values, at_once = dict[str, float](), min(self.workers.at_once, len(configs))
        folders = [Path(config.output_dir) for config in configs]
        log.info("final trainings: %s, %d at once", ", ".join(folder.name for folder in folders), at_once)
        view = FinalView(self.plan, folders=folders, at_once=at_once) if can_show() else NoView()
        with view:
            for (config, _), value in self.workers.each(_train, [(one, self._road(one)) for one in configs]):
                folder = Path(config.output_dir)
                view.end_training(folders.index(folder), isinstance(value, Failed))
                if isinstance(value, Failed):
                    self.failures[folder.name] = value.reason
                    log.warning("final training %s  failed: %s", folder.name, value.reason)
                else:
                    values[config.output_dir] = value
                    log.info("final training %s  %s %.4f", folder.name, config.training.metric, value)
        return values

    def _config(self, candidate: Candidate, seed: int) -> Config:
        """Return the config of a new training, written to its folder before it begins."""
        folder = self.plan.folder / FOLDER / "candidates" / f"{candidate.name}_seed_{seed}"
        if candidate.trial is not None and self._is_run_of(candidate, seed) and has_checkpoint(self.plan, candidate):
            return take_over(self.plan, candidate, folder)
        if not (folder / "config.yaml").exists():
            config = self.plan.trial_config(candidate.trial or 0, candidate.params)
            config.output_dir, config.seed = str(folder), seed
            config.training.patience = self.plan.config.training.patience  # no scheduler decides here
            config.tracking = replace(self.plan.config.tracking)  # off for trials only
            if self.sharing is not None:  # the whole machine, where nothing else runs now
                share = (config.training.threads or 1) * self.plan.passes
                config.training.threads = max(1, min(capacity.cores(), share) // self.sharing)
            files.write_yaml(folder / "config.yaml", to_container(config))
        return read_saved_config(folder / "config.yaml")

    def _of_the_search(self, candidate: Candidate, seed: int) -> tuple[Config, float] | None:
        """Return the config and the metric of the candidate's trial, if that was this very training and is whole."""
        if candidate.trial is None or not self._is_run_of(candidate, seed):
            return None
        value = finished_value(self.plan.folder / candidate.name)
        return None if value is None else (read_trial_config(self.plan, candidate), value)

    def _is_run_of(self, candidate: Candidate, seed: int) -> bool:
        """Whether the candidate's trial trains just what a final training with ``seed`` would."""
        if not (self.plan.folder / candidate.name / "config.yaml").exists():
            return False
        config = read_trial_config(self.plan, candidate)
        return config.seed == seed and config.training.patience == self.plan.config.training.patience

    def scores(self, finalists: Sequence[Finalist], split: str) -> list[dict[int, Score]]:
        """Return what each training scores on a split, by finalist and seed; empty dicts where the split is.

        Raises:
            UserError: a training could not be scored.
        """
        configs = [config for one in finalists for config, _ in one.trained.values()]
        wanted = [(one, split, self._road(one)) for one in configs if (one.output_dir, split) not in self._scores]
        for (config, *_), result in self.workers.each(_score, wanted):
            if isinstance(result, Failed):
                raise UserError(
                    f"{config.output_dir} could not be scored: {result.reason}; the trainings are kept: {GO_ON}"
                )
            self._scores[config.output_dir, split] = result
        found = [
            {seed: self._scores[config.output_dir, split] for seed, (config, _) in one.trained.items()}
            for one in finalists
        ]
        return [{seed: score for seed, score in one.items() if score is not None} for one in found]

    def _road(self, config: Config) -> Road | None:
        office = self.workers.office
        return office.issue(Path(config.output_dir)) if office is not None else None


def read_trial_config(plan: Plan, candidate: Candidate) -> Config:
    """Return the config of a candidate's trial."""
    return read_saved_config(plan.folder / candidate.name / "config.yaml")


def has_checkpoint(plan: Plan, candidate: Candidate) -> bool:
    """Whether a candidate's trial was cut off and can be continued."""
    return (plan.folder / candidate.name / CHECKPOINTS).is_dir()


def take_over(plan: Plan, candidate: Candidate, folder: Path, stop_after: int | None = None) -> Config:
    """Return the config of a training in ``folder`` that goes on from the last report of a candidate's trial.

    The trial keeps its own folder as it is: a resumed search may continue it.

    Args:
        plan: the search.
        candidate: a trial that was cut off.
        folder: gets a copy of the trial's reports and checkpoints.
        stop_after: the last report to make, None: as many as a trial makes.
    """
    config, trial = read_trial_config(plan, candidate), plan.folder / candidate.name
    config.output_dir = str(folder)
    config.training.stop_after = stop_after or config.training.stop_after
    # written last: a copy that was cut off is made again, and so is one of a trial that has reported since
    if not (folder / "config.yaml").exists() or read_saved_config(folder / "config.yaml").training != config.training:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(trial, folder, ignore=shutil.ignore_patterns("config.yaml", "logs.txt", ".lock"))
        files.write_yaml(folder / "config.yaml", to_container(config))
    return config


def _train(wanted: tuple[Config, Road | None]) -> float:
    from mistral_ner.train import fit

    config, road = wanted
    keep_to_share(config)
    with (
        work_in(Path(config.output_dir), road) as place,
        write_trial_log(place.folder),
        files.name_full_disk(place.folder),
    ):
        place.settle(config, trains=True)
        return fit(config, lambda *_: place.save())


def _score(wanted: tuple[Config, str, Road | None]) -> Score | None:
    from mistral_ner.training.predictions import read_again, score_and_write

    config, split, road = wanted
    with work_in(Path(config.output_dir), road) as place:
        place.settle(config, trains=True)
        return score_and_write(config, split, read_again(config.data))


def seconds_of(folder: Path) -> float:
    """Return the seconds of wall time that a training's reports took."""
    return sum(float(row.get("time_s", 0.0)) for row in reports_on_disk(folder))


def choose_candidates(plan: Plan, complete: Sequence[Candidate]) -> list[Candidate]:
    """Return the ``top_k`` best different settings, and the default config unless it is among them.

    The default config is its own trial, where the search has one that is complete.
    """
    default = Candidate(None, {p.name: value_at(plan.config, p.path) for p in plan.space})
    chosen: list[Candidate] = []
    for one in sorted(complete, key=lambda c: (-plan.sign * (c.value or 0.0), c.trial)):
        if all(without_seed(plan, one) != without_seed(plan, other) for other in chosen):
            chosen.append(one)
    tried = next((one for one in chosen if is_default(plan, one)), default)
    chosen = chosen[: plan.config.hyperopt.final.top_k]
    return chosen if tried in chosen else [*chosen, tried]


def is_default(plan: Plan, candidate: Candidate) -> bool:
    """Whether a candidate has the default config's settings."""
    return all(value_at(plan.config, path) == value for path, value in without_seed(plan, candidate).items())


def without_seed(plan: Plan, candidate: Candidate) -> Mapping[str, Any]:
    """Return settings by path, without a searched seed: final trainings have seeds of their own."""
    return {path: value for path, value in plan.space.by_path(candidate.params).items() if path != "seed"}
