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
from mistral_ner.composing import refuse_secrets
from mistral_ner.config import UserError, check
from mistral_ner.errors import shown_to_the_user
from mistral_ner.progress import check_folder

if TYPE_CHECKING:
    from hydra.conf import HydraConf

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> Any:
    """Train ``cfg`` and return its metric; faults are shown before anything heavy is imported."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    if cfg.get("hyperopt") and cfg.hyperopt.get("trial") is not None:
        from mistral_ner.hyperopt.job import run_job

        return run_job(check(cfg), int(cfg.hyperopt.trial))  # its errors are the engine's to name
    with shown_to_the_user(debug=bool(hydra.verbose)), _nothing_left(Path(hydra.runtime.output_dir)):
        refuse_secrets(hydra)
        config = check(cfg)
        if config.hyperopt.strategy != "none":
            _start_as_a_search(hydra, config.hyperopt.strategy)
        from mistral_ner.inputs import check_inputs

        check_folder(config)
        check_inputs(config)
        _save_composed(cfg, Path(hydra.runtime.output_dir) / ".hydra")
        from mistral_ner.train import fit

        def report(number: int, metrics: dict[str, float]) -> None:
            scores = "  ".join(f"{name} {metrics[name]:.4f}" for name in _SHOWN if name in metrics)
            log.info("report %d/%d  %s", number, config.training.reports, scores)

        with files.full_disk_named(Path(config.output_dir)):
            value = fit(config, report)
        log.info("best %s %.4f; adapter and tokenizer in %s/adapter", config.training.metric, value, config.output_dir)
        return value


def _save_composed(cfg: DictConfig, folder: Path) -> None:
    """Save what Hydra has composed, as Hydra would, but without passwords and only for the first run in a folder."""
    from hydra.core.hydra_config import HydraConfig

    if folder.exists():
        return
    hydra: Any = HydraConfig.instance().cfg
    for name, saved in (("config", cfg), ("hydra", hydra), ("overrides", hydra.hydra.overrides.task)):
        files.write_text(folder / f"{name}.yaml", files.redacted(OmegaConf.to_yaml(saved)))


_SHOWN = ("eval_loss", "eval_precision", "eval_recall", "eval_f1")


def _start_as_a_search(hydra: HydraConf, strategy: str) -> NoReturn:
    """Start this command again with ``-m``: a config that names a strategy is searched, and its winner trained.

    Hydra lets no config choose its multirun mode, so that the process has to be replaced.

    Raises:
        UserError: the strategy was named without its engine, and this command does not say where it belongs.
    """
    from mistral_ner.hyperopt.plugins import ENGINES

    more = []
    if str(hydra.sweeper._target_).rpartition(".")[2] not in ENGINES:  # hyperopt.strategy=…, not hyperopt=…
        typed = any(override.lstrip("+").startswith("hyperopt=") for override in hydra.overrides.task)
        if str(hydra.mode) != "RunMode.RUN" or typed or hydra.runtime.choices.get("hyperopt") != "none":
            raise UserError(
                f"hyperopt.strategy: {strategy} has no engine here, which the group hyperopt={strategy} brings\n"
                f"  fix: hyperopt={strategy}, or in a config of yours: defaults: [{strategy}, _self_]"
            )
        more = [f"hyperopt={strategy}"]
    _remove(Path(hydra.runtime.output_dir))
    sys.stdout.flush()
    os.execv(sys.executable, [*sys.orig_argv, "-m", *more])


@contextlib.contextmanager
def _nothing_left(folder: Path) -> Iterator[None]:
    """Remove the run's folder after an error, if nothing but what is written before each job lies in it."""
    try:
        yield
    except UserError:
        _remove(folder)
        raise


def _remove(folder: Path) -> None:
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
    """Remove the day's folder, and ``outputs``, where they lie in the working directory and hold nothing else now."""
    for parent in folder.parents[:2]:
        if Path.cwd() not in parent.parents or {path.name for path in parent.iterdir()} - {"multirun.yaml"}:
            return
        (parent / "multirun.yaml").unlink(missing_ok=True)  # of an ordinary sweep
        parent.rmdir()
