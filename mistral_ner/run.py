"""One job of ``launch.py``: train the composed config."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from omegaconf import DictConfig, OmegaConf

from mistral_ner import files
from mistral_ner.config.check import check
from mistral_ner.config.hydra_errors import refuse_secrets
from mistral_ner.environment import forget_other_launchers
from mistral_ner.errors import UserError, show_user_errors
from mistral_ner.training.checkpoint import check_folder

if TYPE_CHECKING:
    from hydra.conf import HydraConf

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> Any:
    """Train ``cfg`` and return its metric; faults are shown before anything heavy is imported."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    forget_other_launchers()
    with _in_shell_folder(Path(hydra.runtime.cwd)):
        return _run(cfg, hydra)


@contextlib.contextmanager
def _in_shell_folder(folder: Path) -> Iterator[None]:
    """Work where the command was typed, which relative paths mean; ``hydra.job.chdir=true`` would move a job away."""
    before = Path.cwd()
    if before != folder and folder.is_dir():  # a worker on another machine may not have it
        os.chdir(folder)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):  # the job's folder is gone after an error
            os.chdir(before)


def _run(cfg: DictConfig, hydra: HydraConf) -> Any:
    if cfg.get("hyperopt") and cfg.hyperopt.get("trial") is not None:
        from mistral_ner.hyperopt.engines.trial import run_job

        return run_job(cfg)
    with show_user_errors(debug=bool(hydra.verbose)), _remove_folder_after_error(Path(hydra.runtime.output_dir)):
        refuse_secrets(hydra)
        config = check(cfg, typed=True)
        if config.hyperopt.strategy != "none":
            _restart_as_search(hydra, config.hyperopt.strategy)
        from mistral_ner.training.inputs.check import NOTHING_FOUND, check_inputs

        check_folder(config)
        splits = check_inputs(config)
        _save_composed(cfg, Path(hydra.runtime.output_dir) / ".hydra")
        from mistral_ner.train import fit
        from mistral_ner.training.inputs.prepare import describe_data, prepare
        from mistral_ner.training.predictions import score_and_write, write_splits
        from mistral_ner.training.schedule import Schedule

        def report(number: int, metrics: dict[str, float]) -> None:
            scores = "  ".join(f"{name} {metrics[name]:.4f}" for name in _PRINTED_METRICS if name in metrics)
            log.info("report %d/%d  %s", number, config.training.reports, scores)

        with files.name_full_disk(Path(config.output_dir)):
            log.info("what was read:\n%s", describe_data(config, splits))
            _, data = prepare(config, splits)
            log.info("%s", Schedule.of(config.training, len(data.train)))
            value = fit(config, report)
            write_splits(Path(config.output_dir), splits)
            scores = {split: score_and_write(config, split, splits) for split in ("dev", "test")}
            metrics = {split: found.metrics for split, found in scores.items() if found is not None}
            files.write_json(Path(config.output_dir) / "metrics.json", metrics)
            log.info("%s", "  ".join(f"{split} F1 {found['f1']:.4f}" for split, found in metrics.items()))
        if value == 0 and config.training.metric == "eval_f1":
            log.warning("%s", NOTHING_FOUND)
        log.info("best %s %.4f; adapter and tokenizer in %s/adapter", config.training.metric, value, config.output_dir)
        return value


def _save_composed(cfg: DictConfig, folder: Path) -> None:
    """Save what Hydra has composed, as Hydra would, but without passwords and only for a folder's first run."""
    from hydra.core.hydra_config import HydraConfig

    if folder.exists():
        return
    hydra: Any = HydraConfig.instance().cfg
    for name, saved in (("config", cfg), ("hydra", hydra), ("overrides", hydra.hydra.overrides.task)):
        files.write_text(folder / f"{name}.yaml", files.redact(OmegaConf.to_yaml(saved)))


_PRINTED_METRICS = ("eval_loss", "eval_precision", "eval_recall", "eval_f1")


def _restart_as_search(hydra: HydraConf, strategy: str) -> NoReturn:
    """Start this command again with ``-m``: a config that names a strategy asks for a search.

    A config cannot choose Hydra's multirun mode, so the process has to be replaced.

    Raises:
        UserError: the config names a strategy without its engine, and adding the group would change other choices.
    """
    from mistral_ner.hyperopt.sweepers import ENGINES

    more = []
    if str(hydra.sweeper._target_).rpartition(".")[2] not in ENGINES:  # hyperopt.strategy=…, not hyperopt=…
        typed = any(override.lstrip("+").startswith("hyperopt=") for override in hydra.overrides.task)
        if str(hydra.mode) != "RunMode.RUN" or typed or hydra.runtime.choices.get("hyperopt") != "none":
            raise UserError(
                f"hyperopt.strategy: {strategy} needs its engine, which the group hyperopt={strategy} sets\n"
                f"  fix: hyperopt={strategy}, or in a config of yours: defaults: [{strategy}, _self_]"
            )
        more = [f"hyperopt={strategy}"]
    _remove_unused(Path(hydra.runtime.output_dir))
    sys.stdout.flush()
    os.execv(sys.executable, [*sys.orig_argv, "-m", *more])


@contextlib.contextmanager
def _remove_folder_after_error(folder: Path) -> Iterator[None]:
    """Remove the run's folder after an error, if it holds only what is written before every job."""
    try:
        yield
    except UserError:
        _remove_unused(folder)
        raise


def _remove_unused(folder: Path) -> None:
    own_log = next((path for path in folder.glob("*.log") if not path.stat().st_size), None)
    if own_log is not None:  # Hydra opens it before a job begins
        _close_logs(folder)
        own_log.unlink()
    if {path.name for path in folder.iterdir()} <= _BEFORE_A_TRAINING:
        _close_logs(folder)
        shutil.rmtree(folder, ignore_errors=True)
        _remove_empty_parents(folder)


_BEFORE_A_TRAINING = {".hydra", ".lock", "launch.log", "config.yaml"}


def _close_logs(folder: Path) -> None:
    for handler in list(logging.getLogger().handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == folder:
            handler.close()
            logging.getLogger().removeHandler(handler)


def _remove_empty_parents(folder: Path) -> None:
    """Remove the day's folder and ``outputs`` if they are below the working directory and empty now."""
    for parent in folder.parents[:2]:
        if Path.cwd() not in parent.parents or {path.name for path in parent.iterdir()} - {"multirun.yaml"}:
            return
        (parent / "multirun.yaml").unlink(missing_ok=True)  # of an ordinary sweep
        parent.rmdir()
