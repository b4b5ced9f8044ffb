"""When a training reports: a fixed number of times, evenly over its optimiser steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mistral_ner.config import TrainingConfig, UserError


@dataclass(frozen=True)
class Schedule:
    """Optimiser steps of a training and those after which it reports."""

    steps: int
    report_steps: tuple[int, ...]

    @classmethod
    def of(cls, training: TrainingConfig, windows: int) -> Schedule:
        """Spread ``training.reports`` evenly over the steps that ``windows`` training windows give.

        Raises:
            UserError: there are more reports than steps.
        """
        batches = math.ceil(windows / training.per_device_train_batch_size)
        per_epoch = max(1, math.ceil(batches / training.gradient_accumulation_steps))
        steps = max(1, math.ceil(training.num_epochs * per_epoch))
        if steps < training.reports:
            raise UserError(
                f"training.reports={training.reports} needs as many optimiser steps, but {windows} windows in batches "
                f"of {training.per_device_train_batch_size} x {training.gradient_accumulation_steps} for "
                f"{training.num_epochs:g} epochs make {steps}; fix: training.num_epochs="
                f"{math.ceil(training.reports / per_epoch)} or training.reports={steps}"
            )
        return cls(steps, tuple(round(k * steps / training.reports) for k in range(1, training.reports + 1)))
