"""Opening a study: to create it, to resume it, or only to read it. Only one process at a time leads a study."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from filelock import Timeout
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from mistral_ner import files, locks
from mistral_ner.config.schema import Config, to_container
from mistral_ner.data.read import reads_the_same
from mistral_ner.errors import ConfigError, UserError, nearest
from mistral_ner.hyperopt.sampling.known import rank_warm_trials
from mistral_ner.hyperopt.sampling.samplers import build_pruner, build_sampler, silence_optuna
from mistral_ner.hyperopt.spec.parse import parse
from mistral_ner.hyperopt.spec.plan import Plan, read_saved_config
from mistral_ner.hyperopt.study.running import RunningTrial
from mistral_ner.hyperopt.study.storage import JOURNAL, STORAGE_URL, check_journal, open_storage, settle
from mistral_ner.hyperopt.study.study import CALLED_OFF, SECONDS, STARTED, Study
from mistral_ner.training.tracking import prepare_tracker

SPACE = "search_space"  # user attribute of a study: its search space, as text for each parameter
_CREATED = "made"  # user attribute of a study that was created completely

# What a resumed search may change: its budgets, where it runs, and what happens to its results.
_MAY_CHANGE = {
    *("num_trials", "max_concurrent", "timeout", "max_reports", "target", "enqueue_default", "enqueue", "warm_start"),
    *("resume", "max_failures", "max_failure_rate", "optuna_enabled", "asha_enabled", "optuna_sampler"),
    *("optuna_n_startup_trials", "results_dir", "storage_url", "ray_address", "resources_per_trial", "log_to_file"),
    *("final", "merge", "save_best_config", "dry_run", "trial", "mirror"),
    "search_space",  # compared as a whole
}

log = logging.getLogger(__name__)


class StudyExistsError(UserError):
    """A study of this name already exists."""


@contextmanager
def lead_study(plan: Plan) -> Iterator[Study]:
    """Create the study or, with ``hyperopt.resume``, continue it; no other process can lead it inside the block.

    Raises:
        StudyExistsError: a study of this name exists, and ``resume`` is off.
        UserError: there is no study to resume, another process leads it, or it was a different search.
    """
    renames = plan.named_by_time and not plan.config.hyperopt.resume
    exists = not renames and (plan.folder / "config.yaml").exists()
    if exists and not plan.config.hyperopt.resume:
        raise _build_exists_error(plan)
    if not exists and plan.config.hyperopt.resume:
        raise UserError(_explain_nothing_to_resume(plan))
    warm = _read_warm_trials(plan)
    prepare_tracker(plan.config.tracking)
    silence_optuna()
    if renames:  # another search may have begun in the same second
        plan.config.hyperopt.study_name = files.claim_folder(plan.folder).name
    plan.folder.mkdir(parents=True, exist_ok=True)
    with _lock(plan.folder, plan.config.hyperopt.study_name):
        study = _resume(plan, warm) if exists else _create(plan, warm)
        study.optuna.set_user_attr(STARTED, time.time())
        if study.optuna.user_attrs.get(CALLED_OFF):
            study.optuna.set_user_attr(CALLED_OFF, False)
        study.optuna.set_metric_names(list(_list_directions(plan)))  # optuna-dashboard writes them at its axes
        try:
            yield study
        finally:
            if study.trials:
                study.optuna.set_user_attr(SECONDS, round(study.seconds_in_all, 3))
                settle(study.storage)
            else:
                _remove_unused(study)


def _remove_unused(study: Study) -> None:
    """Remove a study that has no trial: the corrected command may use its name."""
    folder = study.plan.folder
    if study.plan.config.hyperopt.storage_url is not None:
        optuna.delete_study(study_name=study.optuna.study_name, storage=study.storage)
    for path in (*(folder / name for name in _OWN_FILES), *folder.glob("experiment_state*"), *folder.glob("*.flock")):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # it holds what is not ours
        folder.rmdir()


_OWN_FILES = ("config.yaml", JOURNAL, "hyperopt.log", "study.lock", "searcher-state.json")


def read_study(folder: Path) -> Study:
    """Open the study in a folder for reading, in any state and even while another process leads it.

    Raises:
        UserError: the folder holds no study.
    """
    folder = folder.absolute()
    if not (folder / "config.yaml").exists():
        raise UserError(f"no study in {folder}: it has no config.yaml; fix: name the folder of a search")
    silence_optuna()
    plan = read_saved_plan(folder)
    study = Study(plan, *_load(plan, mend=False))
    study.clock.stop(max(0.0, _estimate_seconds(study)))
    return study


def open_trial(folder: Path, number: int) -> RunningTrial:
    """Open a running trial of the study in a folder, in the process that it runs in.

    The URL of a database comes from the environment, because it may hold a password.
    """
    silence_optuna()
    plan = read_saved_plan(folder)
    hyperopt = plan.config.hyperopt
    url = os.environ[STORAGE_URL] if hyperopt.storage_url is not None else None
    storage = open_storage(folder, url)
    study = optuna.load_study(study_name=hyperopt.study_name, storage=storage, pruner=build_pruner(plan))
    return RunningTrial.find(plan, storage, study, number)


def read_saved_plan(folder: Path) -> Plan:
    """Return the plan of the study in a folder, even if the folder was moved.

    Raises:
        UserError: the config is damaged.
        ConfigError: its search space cannot be read.
    """
    config = read_saved_config(folder / "config.yaml")
    config.hyperopt.results_dir = str(folder.parent)
    space, faults = parse(config.search_space)
    if faults:
        raise ConfigError(faults)
    return Plan(config, space, folder_name=folder.name)


def find_newest(results_dir: Path) -> Path:
    """Return the folder of the study that was created or resumed last.

    Raises:
        UserError: there is no study.
    """
    found = sorted(results_dir.glob("*/study.lock"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"no study in {results_dir}; fix: name its folder, or python launch.py hyperopt=combined -m")
    return found[-1].parent


def _estimate_seconds(study: Study) -> float:
    """Return the seconds of a run that has not recorded its end: until the last start or end of a trial."""
    started = study.optuna.user_attrs.get(STARTED)
    ends = [trial.datetime_complete or trial.datetime_start for trial in study.trials]
    stamps = [end.timestamp() for end in ends if end is not None]
    if started is None or not stamps or study.optuna.user_attrs.get(SECONDS) is not None:
        return 0.0
    return max(stamps) - float(started)


def _build_exists_error(plan: Plan) -> StudyExistsError:
    name, url = plan.config.hyperopt.study_name, plan.config.hyperopt.storage_url
    return StudyExistsError(
        f"the study {name!r} exists already in {files.redact(url) if url else plan.folder}; "
        f"fix: another name, hyperopt.study_name={name}_2, or go on with it, hyperopt.resume=true"
    )


def _explain_nothing_to_resume(plan: Plan) -> str:
    name, folder = plan.config.hyperopt.study_name, plan.folder.parent
    there = sorted(path.parent.name for path in folder.glob("*/study.lock"))
    hint = nearest(name, there) or (f"; there are: {', '.join(there)}" if there else "")
    return f"no study {name!r} to resume in {folder}{hint}; fix: its name, or hyperopt.resume=false to begin it"


@contextmanager
def _lock(folder: Path, name: str) -> Iterator[None]:
    """Let no other process lead the study inside the block."""
    path = folder / "study.lock"
    with ExitStack() as held:
        try:
            held.enter_context(locks.hold(path, timeout=0))
        except Timeout:
            raise UserError(
                f"the study {name!r} is led by another process ({_read_owner(path)}); "
                f"fix: wait for its end, or another name, hyperopt.study_name={name}_2"
            ) from None
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield


def _read_owner(path: Path) -> str:
    return " ".join(path.read_text(encoding="utf-8").split())


def _create(plan: Plan, warm: list[FrozenTrial]) -> Study:
    hyperopt = plan.config.hyperopt
    storage = open_storage(plan.folder, hyperopt.storage_url)
    if hyperopt.storage_url and hyperopt.storage_url.startswith("sqlite") and plan.at_once > 1:
        log.warning("SQLite locks when several trials write; hyperopt.storage_url=null is made for it")
    named = _list_directions(plan)
    for attempt in (1, 2):
        try:
            study = optuna.create_study(study_name=hyperopt.study_name, storage=storage, directions=[*named.values()])
            break
        except optuna.exceptions.DuplicatedStudyError:
            left = optuna.load_study(study_name=hyperopt.study_name, storage=storage)
            if _CREATED in left.user_attrs or attempt == 2:
                raise _build_exists_error(plan) from None
            optuna.delete_study(study_name=hyperopt.study_name, storage=storage)  # it was not created completely
    study.pruner = build_pruner(plan)
    study.sampler = build_sampler(plan, 0)
    study.set_user_attr(SPACE, plan.space.describe())
    for values in plan.enqueued:
        study.enqueue_trial(plan.space.encode(values))
    settle(storage)
    _save_config(plan)  # from here on the study exists
    study.set_user_attr(_CREATED, True)
    return Study(plan, study, storage, warm)


def _list_directions(plan: Plan) -> dict[str, StudyDirection]:
    hyperopt, names = plan.config.hyperopt, {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
    second = {} if hyperopt.second_metric is None else {hyperopt.second_metric: names[hyperopt.second_mode]}
    return {hyperopt.metric: names[hyperopt.mode], **second}


def _resume(plan: Plan, warm: list[FrozenTrial]) -> Study:
    saved = read_saved_config(plan.folder / "config.yaml")
    _refuse_another_search(plan, saved)
    if plan.config.training.threads != saved.training.threads:
        log.warning("training.threads stays %s: numbers depend on it", saved.training.threads)
        plan.config.training.threads = saved.training.threads
    study, storage = _load(plan)
    old, new = study.user_attrs.get(SPACE, {}), plan.space.describe()
    if old != new:
        changes = [f"{n}: was {old.get(n, 'absent')}, is {new.get(n, 'absent')}" for n in sorted({*old, *new})]
        changed = [text for text, n in zip(changes, sorted({*old, *new}), strict=True) if old.get(n) != new.get(n)]
        name = plan.config.hyperopt.study_name
        raise UserError(
            f"the search space of {name} has changed ({'; '.join(changed)}); fix: the same space, or a new study that "
            f"learns from this one: hyperopt.resume=false hyperopt.study_name={name}_2 hyperopt.warm_start={name}"
        )
    known = [*saved.hyperopt.enqueue, *parse(saved.search_space)[0].first]
    for values in plan.given:
        if values not in known:
            study.enqueue_trial(plan.space.encode(values))
    _save_config(plan)
    study.set_user_attr(_CREATED, True)  # a crash may have come between writing the config and this
    return Study(plan, study, storage, warm)


def _refuse_another_search(plan: Plan, saved: Config) -> None:
    """Raise UserError if the search would train or compare trials in another way than before."""
    old, new = to_container(saved), to_container(plan.config)
    if old["data"] != new["data"] and reads_the_same(saved.data, plan.config.data):
        old["data"] = new["data"]
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


def _load(plan: Plan, mend: bool = True) -> tuple[optuna.Study, BaseStorage]:
    hyperopt, journal = plan.config.hyperopt, plan.folder / JOURNAL
    if hyperopt.storage_url is None and journal.exists():
        if mend:  # a reader may see a line that the leader has half written
            check_journal(journal)
    elif hyperopt.storage_url is None:
        raise UserError(f"{journal} is missing; fix: restore it, or search anew under another hyperopt.study_name")
    elif "***" in hyperopt.storage_url:
        raise UserError(
            f"the password of {hyperopt.storage_url} is not saved; fix: give hyperopt.storage_url again, "
            f"or leave the password to the database's own means (PGPASSWORD, ~/.pgpass)"
        )
    try:
        storage = open_storage(plan.folder, hyperopt.storage_url)
        study = optuna.load_study(
            study_name=hyperopt.study_name, storage=storage, sampler=build_sampler(plan, 0), pruner=build_pruner(plan)
        )
    except (KeyError, AssertionError, ValueError, TypeError) as error:
        raise UserError(
            f"{files.redact(hyperopt.storage_url or str(journal))} holds no readable study {hyperopt.study_name!r} "
            f"({type(error).__name__}); fix: restore it, or search anew under another hyperopt.study_name"
        ) from None
    return study, storage


def _save_config(plan: Plan) -> None:
    """Write the config that repeats the search, with the command line's changes to the search space."""
    container: dict[str, Any] = to_container(plan.config)
    container["search_space"] = plan.space.to_block()
    if url := container["hyperopt"]["storage_url"]:
        container["hyperopt"]["storage_url"] = files.redact(url)
    container["hyperopt"]["resume"] = False
    files.write_yaml(plan.folder / "config.yaml", container)


def _read_warm_trials(plan: Plan) -> list[FrozenTrial]:
    """Return the trials of the earlier studies that ``hyperopt.warm_start`` names, in this search's space.

    Raises:
        UserError: there is no such study, or it searched for another metric.
    """
    found: list[FrozenTrial] = []
    for place, name in enumerate(plan.config.hyperopt.earlier_studies, 1):
        near = plan.folder.parent / name
        earlier = read_study(near if near.is_dir() else files.expand(name))
        found += rank_warm_trials(plan, name, earlier.plan, earlier.trials, place)
    return found
