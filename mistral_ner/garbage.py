"""How often a process of ours looks for garbage."""

from __future__ import annotations

import gc

# While torch, transformers and peft are imported, looking for garbage takes 0.4 of 6 seconds; with Python's own 700, 10
# and 10 it takes 1.05 (Python 3.11). Peak memory is the same.
_THRESHOLDS = 50_000, 20, 50


def collect_rarely() -> None:
    """Let this process, a command or a worker, look for cycles of garbage after more new objects than by default.

    Trainings release their memory by themselves, at their end (:mod:`mistral_ner.training.memory`). What the user has
    switched off, or made rarer still, is left as it is.
    """
    now = gc.get_threshold()[0]
    if gc.isenabled() and 0 < now < _THRESHOLDS[0]:
        gc.set_threshold(*_THRESHOLDS)
