"""Opening a study: a new one, one to go on with, or one only to look at. One process at a time leads a study."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mistral_ner import config as schema
from mistral_ner import files
from mistral_ner.config import Config, UserError, nearest, to_container
from mistral_ner.hyperopt.plan import Plan, saved_config
from mistral_ner.hyperopt.samplers import pruner, quiet, sampler
from mistral_ner.hyperopt.search_space import parse
from mistral_ner.hyperopt.storage import JOURNAL, check_journal, redacted, settle, storage
from mistral_ner.hyperopt.study import SECONDS, STARTED, Study
from mistral_ner.tracking import prepare_tracker

SPACE = "search_space"  # user attribute of a study: its search space as text by parameter
_MADE = "made"  # user attribute of a study whose making was not cut off

# What a resumed search may change: how much it spends, where it runs, what is done with its results.
_MAY_CHANGE = {
    *("num_trials", "max_concurrent", "timeout", "max_reports", "target", "enqueue_default", "enqueue", "warm_start"),
    *("resume", "max_failures", "max_failure_rate", "optuna_enabled", "asha_enabled", "optuna_sampler"),
    *("optuna_n_startup_trials", "results_dir", "storage_url", "ray_address", "resources_per_trial", "log_to_file"),
    *("final", "merge", "save_best_config", "dry_run", "trial"),
}

log = logging.getLogger(__name__)


class StudyExistsError(UserError):
    """A study of this name is on disk already."""


@contextmanager
def lead(plan: Plan) -> Iterator[Study]:
    """Make the study or, with ``hyperopt.resume``, go on with it; no other process may do so until the end.

    Raises:
        StudyExistsError: there is one of this name, and it is not to be resumed.
        UserError: there is none to resume, it is led by another process, or it was another search.
    """
    made = (plan.folder / "config.yaml").exists()
    if made and not plan.config.hyperopt.resume:
        raise _exists(plan)
    if not made and plan.config.hyperopt.resume:
        raise UserError(_nothing_to_resume(plan))
    warm = warm_trials(plan)
    prepare_tracker(plan.config.tracking)
    quiet()
    plan.folder.mkdir(parents=True, exist_ok=True)
    with _lock(plan.folder, plan.config.hyperopt.study_name):
        study = _resumed(plan, warm) if made else _created(plan, warm)
        study.optuna.set_user_attr(STARTED, time.time())
        try:
            yield study
        finally:
            study.optuna.set_user_attr(SECONDS, round(study.seconds_in_all, 3))
            settle(study.optuna._storage)


def look(folder: Path) -> Study:
    """Open the study in a folder to read it, whoever leads it and whatever state it is in.

    Raises:
        UserError: there is none.
    """
    folder = folder.absolute()
    if not (folder / "config.yaml").exists():
        raise UserError(f"no study in {folder}: it has no config.yaml; fix: name the folder of a search")
    quiet()
    plan = saved_plan(folder)
    study = Study(plan, _load(plan, mend=False))
    study.started = time.monotonic() - max(0.0, _run_seconds(study))
    return study


def saved_plan(folder: Path) -> Plan:
    """Return the plan of the study in a folder, which may have been moved since."""
    config = saved_config(folder / "config.yaml")
    config.hyperopt.results_dir = str(folder.parent)
    space, faults = parse(config.search_space)
    if faults:
        raise schema.ConfigError(faults)
    return Plan(config, space, folder_name=folder.name)


def newest(results_dir: Path) -> Path:
    """Return the folder of the study that was begun or resumed last.

    Raises:
        UserError: there is none.
    """
    found = sorted(results_dir.glob("*/study.lock"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"no study in {results_dir}; fix: name its folder, or python launch.py hyperopt=combined -m")
    return found[-1].parent


def _run_seconds(study: Study) -> float:
    """Wall time of the latest run of a study that this process does not lead: until its last sign of life."""
    started = study.optuna.user_attrs.get(STARTED)
    ends = [trial.datetime_complete or trial.datetime_start for trial in study.trials]
    stamps = [end.timestamp() for end in ends if end is not None]
    if started is None or not stamps or study.optuna.user_attrs.get(SECONDS) is not None:
        return 0.0
    return max(stamps) - float(started)


def _exists(plan: Plan) -> StudyExistsError:
    name, url = plan.config.hyperopt.study_name, plan.config.hyperopt.storage_url
    return StudyExistsError(
        f"the study {name!r} exists already in {redacted(url) if url else plan.folder}; "
        f"fix: another name, hyperopt.study_name={name}_2, or go on with it, hyperopt.resume=true"
    )


def _nothing_to_resume(plan: Plan) -> str:
    name, folder = plan.config.hyperopt.study_name, plan.folder.parent
    there = sorted(path.parent.name for path in folder.glob("*/study.lock"))
    hint = nearest(name, there) or (f"; there are: {', '.join(there)}" if there else "")
    return f"no study {name!r} to resume in {folder}{hint}; fix: its name, or hyperopt.resume=false to begin it"


@contextmanager
def _lock(folder: Path, name: str) -> Iterator[None]:
    """Hold the study for this process; the kernel lets go of it if the process dies."""
    with (folder / "study.lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"the study {name!r} is led by another process ({file.read().strip()}); "
                f"fix: wait for its end, or another name, hyperopt.study_name={name}_2"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _created(plan: Plan, warm: list[FrozenTrial]) -> Study:
    hyperopt = plan.config.hyperopt
    place = storage(plan.folder, hyperopt.storage_url)
    if hyperopt.storage_url and hyperopt.storage_url.startswith("sqlite") and plan.at_once > 1:
        log.warning("SQLite locks when several trials write; hyperopt.storage_url=null is made for it")
    directions = [StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE for mode in _modes(plan)]
    for attempt in (1, 2):
        try:
            study = optuna.create_study(study_name=hyperopt.study_name, storage=place, directions=directions)
            break
        except optuna.exceptions.DuplicatedStudyError:
            left = optuna.load_study(study_name=hyperopt.study_name, storage=place)
            if _MADE in left.user_attrs or attempt == 2:
                raise _exists(plan) from None
            optuna.delete_study(study_name=hyperopt.study_name, storage=place)  # its making was cut off
    study.pruner = pruner(plan)
    study.sampler = sampler(plan, 0)
    study.set_user_attr(SPACE, plan.space.describe())
    for values in plan.enqueued:
        study.enqueue_trial(plan.space.encode(values))
    settle(place)
    _save_config(plan)  # from here on there is a study
    study.set_user_attr(_MADE, True)
    return Study(plan, study, warm)


def _modes(plan: Plan) -> list[str]:
    hyperopt = plan.config.hyperopt
    return [hyperopt.mode, *([hyperopt.second_mode] if hyperopt.second_metric is not None else [])]


def _resumed(plan: Plan, warm: list[FrozenTrial]) -> Study:
    saved = saved_config(plan.folder / "config.yaml")
    _refuse_another_search(plan, saved)
    if plan.config.training.threads != saved.training.threads:
        log.warning("training.threads stays %s: numbers depend on it", saved.training.threads)
        plan.config.training.threads = saved.training.threads
    study = _load(plan)
    old, new = study.user_attrs.get(SPACE, {}), plan.space.describe()
    if old != new:
        changes = [f"{n}: was {old.get(n, 'absent')}, is {new.get(n, 'absent')}" for n in sorted({*old, *new})]
        changed = [text for text, n in zip(changes, sorted({*old, *new}), strict=True) if old.get(n) != new.get(n)]
        name = plan.config.hyperopt.study_name
        raise UserError(
            f"the search space of {name} has changed ({'; '.join(changed)}); fix: the same space, or a new study that "
            f"learns from this one: hyperopt.resume=false hyperopt.study_name={name}_2 hyperopt.warm_start={name}"
        )
    for values in plan.config.hyperopt.enqueue:
        if values not in saved.hyperopt.enqueue:
            study.enqueue_trial(plan.space.encode(values))
    _save_config(plan)
    study.set_user_attr(_MADE, True)  # a crash may have come between the config and this
    return Study(plan, study, warm)


def _refuse_another_search(plan: Plan, saved: Config) -> None:
    """Trials of different trainings or rules cannot be compared."""
    old, new = to_container(saved), to_container(plan.config)
    changed = [] if old["seed"] == new["seed"] else [f"seed: was {old['seed']}, is {new['seed']}"]
    for group in ("model", "data", "training", "hyperopt"):
        free = {"cache_dir", "threads"} | (_MAY_CHANGE if group == "hyperopt" else set())
        changed += [
            f"{group}.{key}: was {old[group].get(key)!r}, is {value!r}"
            for key, value in new[group].items()
            if key not in free and old[group].get(key) != value
        ]
    if changed:
        name = plan.config.hyperopt.study_name
        raise UserError(
            f"{name} was another search ({'; '.join(changed)}); fix: the same settings, or a new study that learns "
            f"from this one: hyperopt.resume=false hyperopt.study_name={name}_2 hyperopt.warm_start={name}"
        )


def _load(plan: Plan, mend: bool = True) -> optuna.Study:
    hyperopt, journal = plan.config.hyperopt, plan.folder / JOURNAL
    if hyperopt.storage_url is None and journal.exists():
        if mend:  # who only looks may see a line that the leader has half written
            check_journal(journal)
    elif hyperopt.storage_url is None:
        raise UserError(f"{journal} is missing; fix: restore it, or search anew under another hyperopt.study_name")
    elif "***" in hyperopt.storage_url:
        raise UserError(
            f"the password of {hyperopt.storage_url} is not saved; fix: give hyperopt.storage_url again, "
            f"or leave the password to the database's own means (PGPASSWORD, ~/.pgpass)"
        )
    try:
        study = optuna.load_study(
            study_name=hyperopt.study_name,
            storage=storage(plan.folder, hyperopt.storage_url),
            sampler=sampler(plan, 0),
            pruner=pruner(plan),
        )
    except (KeyError, AssertionError, ValueError, TypeError) as error:
        raise UserError(
            f"{redacted(hyperopt.storage_url or str(journal))} holds no readable study {hyperopt.study_name!r} "
            f"({type(error).__name__}); fix: restore it, or search anew under another hyperopt.study_name"
        ) from None
    return study


def _save_config(plan: Plan) -> None:
    """Write what repeats the search: the resolved config, with the space as it was after the command line."""
    container: dict[str, Any] = to_container(plan.config)
    container["search_space"] = plan.space.to_block()
    if url := container["hyperopt"]["storage_url"]:
        container["hyperopt"]["storage_url"] = redacted(url)
    container["hyperopt"]["resume"] = False
    files.write_yaml(plan.folder / "config.yaml", container)


def warm_trials(plan: Plan) -> list[FrozenTrial]:
    """Return the ended trials of ``hyperopt.warm_start`` whose settings the space holds, with its distributions.

    Raises:
        UserError: there is no such study, or it looked for another metric.
    """
    name = plan.config.hyperopt.warm_start
    if name is None:
        return []
    near = plan.folder.parent / name
    earlier = look(near if near.is_dir() else Path(name).expanduser())
    theirs, ours = earlier.plan.config.hyperopt, plan.config.hyperopt
    if (theirs.metric, theirs.mode) != (ours.metric, ours.mode) or theirs.second_metric != ours.second_metric:
        raise UserError(
            f"hyperopt.warm_start={name} looked for {theirs.metric} ({theirs.mode}), this search for {ours.metric} "
            f"({ours.mode}); fix: hyperopt.metric={theirs.metric} hyperopt.mode={theirs.mode}, or no warm_start"
        )
    distributions = plan.space.distributions()
    found = []
    for trial in earlier.trials:
        values = earlier.plan.space.decode(trial.params)
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or not plan.space.holds(values):
            continue
        params = plan.space.encode({name: values[name] for name in plan.space.names if name in values})
        known = optuna.trial.create_trial(
            state=trial.state,
            values=trial.values if trial.state == TrialState.COMPLETE else None,
            params=params,
            distributions={name: distributions[name] for name in params},
            intermediate_values=trial.intermediate_values,
        )
        known.number = _APART + trial.number
        found.append(known)
    log.info("warm start: %d of %d trials of %s lie in the search space", len(found), len(earlier.trials), name)
    return found


_APART = 10**6  # added to the numbers of an earlier study's trials, so that they are nobody's in this one
