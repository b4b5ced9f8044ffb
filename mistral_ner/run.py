"""One job of ``launch.py``: train the composed config."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from mistral_ner.config import UserError, check
from mistral_ner.errors import shown_to_the_user

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> float:
    """Train ``cfg`` and return its metric; faults are shown before anything heavy is imported."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    if cfg.get("hyperopt") and cfg.hyperopt.get("trial") is not None:
        from mistral_ner.hyperopt.job import run_job

        return run_job(check(cfg))  # its errors are the engine's to name
    with shown_to_the_user(debug=bool(hydra.verbose)):
        config = check(cfg)
        if config.hyperopt.strategy != "none":
            raise UserError(
                f"hyperopt={config.hyperopt.strategy} is a search, which needs -m; "
                f"fix: python launch.py hyperopt={config.hyperopt.strategy} -m"
            )
        from mistral_ner.train import fit

        def report(number: int, metrics: dict[str, float]) -> None:
            scores = "  ".join(f"{name} {metrics[name]:.4f}" for name in _SHOWN if name in metrics)
            log.info("report %d/%d  %s", number, config.training.reports, scores)

        value = fit(config, report)
        log.info("best %s %.4f; adapter and tokenizer in %s/adapter", config.training.metric, value, config.output_dir)
        return value


_SHOWN = ("eval_loss", "eval_precision", "eval_recall", "eval_f1")
