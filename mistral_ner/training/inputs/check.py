"""Checks what a run will need before anything heavy is imported, so that a fault shows within a second."""

from __future__ import annotations

import sys

from mistral_ner.config.schema import Config
from mistral_ner.data.read import Splits, load_splits
from mistral_ner.errors import ConfigError, UserError
from mistral_ner.model.source import check_model
from mistral_ner.training.tracking import prepare_tracker, tracker_fault

NOTHING_FOUND = (
    "F1 is 0: the model finds no entity of dev. Look at the sentence under 'what was read': if its entities are "
    "right, train longer (training.num_epochs=null training.min_steps=1000) or faster (training.learning_rate=...), or "
    "take another model"
)


def check_inputs(config: Config) -> Splits:
    """Check the tracker and the files of a local model, read the data and return it.

    ``prepare`` accepts the data, so that it is not read again.

    Raises:
        UserError: names what is wrong, with its fix.
    """
    if sys.flags.optimize > 1:
        raise UserError(
            "PYTHONOPTIMIZE=2, or python -OO, takes away the docstrings that transformers reads while it is imported; "
            "fix: unset PYTHONOPTIMIZE"
        )
    if (fault := tracker_fault(config.tracking)) is not None:
        raise ConfigError([fault])
    prepare_tracker(config.tracking)
    check_model(config.model)
    return load_splits(config.data)
