"""One job of ``launch.py``: train the composed config."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig

from mistral_ner import files
from mistral_ner.config import UserError, check
from mistral_ner.errors import shown_to_the_user

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> Any:
    """Train ``cfg`` and return its metric; faults are shown before anything heavy is imported."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    if cfg.get("hyperopt") and cfg.hyperopt.get("trial") is not None:
        from mistral_ner.hyperopt.job import run_job

        return run_job(check(cfg), int(cfg.hyperopt.trial))  # its errors are the engine's to name
    with shown_to_the_user(debug=bool(hydra.verbose)), _nothing_left(Path(hydra.runtime.output_dir)):
        config = check(cfg)
        if config.hyperopt.strategy != "none":
            _start_as_a_search(Path(hydra.runtime.output_dir))
        from mistral_ner.inputs import check_inputs

        check_inputs(config)
        from mistral_ner.train import fit

        def report(number: int, metrics: dict[str, float]) -> None:
            scores = "  ".join(f"{name} {metrics[name]:.4f}" for name in _SHOWN if name in metrics)
            log.info("report %d/%d  %s", number, config.training.reports, scores)

        with files.full_disk_named(Path(config.output_dir)):
            value = fit(config, report)
        log.info("best %s %.4f; adapter and tokenizer in %s/adapter", config.training.metric, value, config.output_dir)
        return value


_SHOWN = ("eval_loss", "eval_precision", "eval_recall", "eval_f1")


def _start_as_a_search(folder: Path) -> NoReturn:
    """Start this command again with ``-m``: a config that names a strategy is searched, and its winner trained.

    Hydra lets no config choose its multirun mode, so that the process has to be replaced.
    """
    _remove(folder)
    sys.stdout.flush()
    os.execv(sys.executable, [*sys.orig_argv, "-m"])


@contextlib.contextmanager
def _nothing_left(folder: Path) -> Iterator[None]:
    """Remove the run's folder after an error, if nothing but what Hydra writes before each job lies in it."""
    try:
        yield
    except UserError:
        _remove(folder)
        raise


def _remove(folder: Path) -> None:
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
    """Remove the day's folder, and ``outputs``, where they lie in the working directory and hold nothing else now."""
    for parent in folder.parents[:2]:
        if Path.cwd() not in parent.parents or {path.name for path in parent.iterdir()} - {"multirun.yaml"}:
            return
        (parent / "multirun.yaml").unlink(missing_ok=True)  # of an ordinary sweep
        parent.rmdir()
