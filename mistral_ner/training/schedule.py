"""When a training reports: a fixed number of times, spread evenly over its optimiser steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mistral_ner.config.schema import TrainingConfig
from mistral_ner.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """The number of optimiser steps of a training, the steps after which it reports, and the passes over the data."""

    steps: int
    report_steps: tuple[int, ...]
    epochs: float

    def __str__(self) -> str:
        """Say how long the training is."""
        reports = len(self.report_steps)
        return f"{self.steps} optimiser steps ({self.epochs:.3g} epochs), {reports} report{'s' * (reports != 1)}"

    @classmethod
    def of(cls, training: TrainingConfig, windows: int) -> Schedule:
        """Spread ``training.reports`` evenly over the steps of a training on ``windows`` windows.

        Raises:
            UserError: there are more reports than steps.
        """
        batches = math.ceil(windows / training.per_device_train_batch_size)
        per_epoch = max(1, math.ceil(batches / training.gradient_accumulation_steps))
        epochs = count_epochs(training, per_epoch)
        steps = max(1, math.ceil(round(epochs * per_epoch, 6)))
        if steps < training.reports:
            raise UserError(
                f"training.reports={training.reports} needs as many optimiser steps, but {windows} windows in batches "
                f"of {training.per_device_train_batch_size} x {training.gradient_accumulation_steps} for "
                f"{epochs:g} epochs make {steps}; fix: training.num_epochs="
                f"{math.ceil(training.reports / per_epoch)} or training.reports={steps}"
            )
        report_steps = tuple(round(k * steps / training.reports) for k in range(1, training.reports + 1))
        return cls(steps, report_steps, steps / per_epoch)


def count_epochs(training: TrainingConfig, steps_per_epoch: int) -> float:
    """Return ``training.num_epochs``; if it is null, as many as make ``min_steps`` optimiser steps.

    A small data set needs more epochs than a large one: what a training learns depends on its steps, and a fixed number
    of epochs makes 50 of them out of 100 sentences. The number stays between ``min_epochs`` and ``max_epochs``.
    """
    if training.num_epochs is not None:
        return training.num_epochs
    return min(training.max_epochs, max(training.min_epochs, training.min_steps / steps_per_epoch))
