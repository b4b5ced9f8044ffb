"""Experiment trackers: each tracked training is a run of Weights & Biases, MLflow or TensorBoard.

Trackers get keys and addresses from their own settings (WANDB_API_KEY, ``wandb login``, MLFLOW_TRACKING_URI), never
from a config. Trainer's callbacks write the metrics. The run with its name, group and config begins and ends here,
because a process trains more than once and the callbacks leave a run open.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mistral_ner.config.schema import Config, TrackingConfig, to_container
from mistral_ner.environment import restore_variable
from mistral_ner.errors import Fault, UserError

log = logging.getLogger(__name__)

_KEY = "tracking.report_to"


def tracker_fault(tracking: TrackingConfig) -> Fault | None:
    """Return why the chosen tracker cannot be used, None if it can be used or none is chosen."""
    name = tracking.report_to
    if name == "none":
        return None
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:  # a folder wandb/, which W&B creates, is a package without origin
        return Fault(_KEY, f"{name} is not installed", "pip install -e '.[tracking]', or tracking=none")
    if name == "wandb":
        import wandb

        if wandb.setup().settings.mode in ("online", "shared") and not wandb.login(prompt=False):
            return Fault(_KEY, "wandb is not logged in", "wandb login, or WANDB_MODE=offline, or tracking=none")
    return None


def prepare_tracker(tracking: TrackingConfig) -> None:
    """Create the project in a tracker's store before several processes write there.

    Without MLFLOW_TRACKING_URI MLflow's store is ``mlflow.db`` in the working directory. Workers have other working
    directories and get the store's address from the environment.

    Raises:
        UserError: MLflow's store cannot be reached.
    """
    if tracking.report_to != "mlflow":
        return
    import mlflow

    os.environ.setdefault("MLFLOW_TRACKING_URI", mlflow.get_tracking_uri())
    try:
        with _quiet_mlflow():
            mlflow.set_experiment(tracking.project)
    except Exception as error:
        raise UserError(
            f"MLflow's store {mlflow.get_tracking_uri()} cannot be used ({str(error).splitlines()[0]}); "
            "fix: MLFLOW_TRACKING_URI=ADDRESS, or tracking=none"
        ) from None


@contextmanager
def track(config: Config) -> Iterator[list[str]]:
    """Track the training in the block; yields the names of Trainer's callbacks to use.

    A tracker that fails gives a warning and no error: the training goes on.
    """
    hyperopt, folder = config.hyperopt, Path(config.output_dir)
    group = None if hyperopt.strategy == "none" else hyperopt.study_name
    container = {k: v for k, v in to_container(config).items() if k not in ("search_space", "hyperopt", "budget")}
    with tracker_run(config.tracking, folder, _run_name(config, group), group, container) as run:
        yield [] if run is None else [config.tracking.report_to]


@contextmanager
def tracker_run(
    tracking: TrackingConfig, folder: Path, name: str, group: str | None, config: dict[str, Any]
) -> Iterator[Any]:
    """Begin and end a run of the chosen tracker; yields the tracker's own run, None without one.

    Args:
        tracking: which tracker, which project.
        folder: where a tracker that writes files puts them.
        name: of the run.
        group: the study's name, which groups its runs.
        config: logged with the run.
    """
    if tracking.report_to == "none":
        yield None
        return
    begin = {"wandb": _wandb, "mlflow": _mlflow, "tensorboard": _tensorboard}[tracking.report_to]
    context = begin(tracking.project, folder, name, group, config)
    try:
        run = context.__enter__()
    except Exception as error:
        log.warning("not tracked: %s cannot begin a run: %s", tracking.report_to, error)
        yield None
        return
    try:
        yield run
    except BaseException as error:
        context.__exit__(type(error), error, error.__traceback__)
        raise
    context.__exit__(None, None, None)


@contextmanager
def _wandb(project: str, folder: Path, name: str, group: str | None, config: dict[str, Any]) -> Iterator[Any]:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(project=project, name=name, group=group, config=config, dir=str(folder), reinit="finish_previous")
    failed = 1
    try:
        yield run
        failed = 0
    finally:
        run.finish(exit_code=failed)


@contextmanager
def _mlflow(project: str, folder: Path, name: str, group: str | None, config: dict[str, Any]) -> Iterator[Any]:
    import mlflow

    tags = {} if group is None else {"study": group}
    with _quiet_mlflow(), restore_variable(_MLFLOW):
        mlflow.set_experiment(project)
        with mlflow.start_run(run_name=name, nested=mlflow.active_run() is not None, tags=tags) as run:
            # the prefix keeps them apart from Trainer's arguments, some of which have the same names
            mlflow.log_params({f"config.{key}": str(value)[:500] for key, value in _flatten(config).items()})
            yield run
            mlflow.flush_async_logging()  # the callback logs asynchronously


@contextmanager
def _tensorboard(project: str, folder: Path, name: str, group: str | None, config: dict[str, Any]) -> Iterator[Any]:
    with restore_variable(_TENSORBOARD):
        os.environ[_TENSORBOARD] = str(folder / "runs")
        yield folder / "runs"


_TENSORBOARD = "TENSORBOARD_LOGGING_DIR"  # read by Trainer's callback
_MLFLOW = "MLFLOW_EXPERIMENT_ID"  # left by set_experiment: the next run in this process would take it for a user's own


def _run_name(config: Config, group: str | None) -> str:
    """Return a run's name: its folder's path in the study, or the last two parts of the path."""
    folder = Path(config.output_dir)
    study = Path(config.hyperopt.results_dir) / config.hyperopt.study_name
    if group is not None and folder.is_relative_to(study):
        return f"{group}/{folder.relative_to(study)}"
    return "/".join(folder.parts[-2:])


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


@contextmanager
def _quiet_mlflow() -> Iterator[None]:
    """Keep MLflow's messages about its tables and columns off the screen."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
