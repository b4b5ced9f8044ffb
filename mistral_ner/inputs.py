"""A look at what a run will need, before anything heavy is imported: a person learns of a fault in a second."""

from __future__ import annotations

from mistral_ner.config import Config, ConfigError
from mistral_ner.data.read import read_ahead
from mistral_ner.model.source import check_model
from mistral_ner.tracking import prepare_tracker, tracker_fault


def check_inputs(config: Config) -> None:
    """Read the data, which the training then does not read again, and look at the files of a local model.

    Raises:
        UserError: names what is wrong, with its fix.
    """
    if (fault := tracker_fault(config.tracking)) is not None:
        raise ConfigError([fault])
    prepare_tracker(config.tracking)
    check_model(config.model)
    read_ahead(config.data)
