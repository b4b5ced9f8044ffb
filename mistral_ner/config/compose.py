"""Composes ``conf/`` for the commands that are no run of ``launch.py``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mistral_ner.config.hydra_errors import explain
from mistral_ner.errors import UserError

CONF = Path(__file__).parents[2] / "conf"


def compose(overrides: Iterable[str]) -> DictConfig:
    """Return the composed config with these overrides and an ``output_dir``, which only a run has.

    Raises:
        UserError: an override cannot be read, or names what is not there.
    """
    import hydra
    from hydra.errors import HydraException

    try:
        with hydra.initialize_config_dir(str(CONF)):
            composed = hydra.compose("config", list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from None
    OmegaConf.set_struct(composed, False)
    composed.output_dir = "."
    return composed
