"""Random numbers of a training among others in one process: each goes on with its own, as if it were alone."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


class RandomState:
    """The states of Python's, numpy's and torch's generators that belong to one training."""

    def __init__(self) -> None:
        """Take the states as they are."""
        self.save()

    def save(self) -> None:
        """Take the states as they are."""
        self._python, self._numpy = random.getstate(), np.random.get_state()
        self._torch = {place: generator.get_state() for place, generator in _generators().items()}

    def load(self) -> None:
        """Let the generators go on from these states."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        for place, generator in _generators().items():
            if place in self._torch:  # CUDA may have come since
                generator.set_state(self._torch[place])

    @contextlib.contextmanager
    def drawing(self, device: torch.device) -> Iterator[None]:
        """Let torch draw from these states on ``device`` inside the block."""
        place, generator = str(device), _generator(device)
        generator.set_state(self._torch[place])
        yield
        self._torch[place] = generator.get_state()

    def of_torch(self) -> dict[str, torch.Tensor]:
        """Return torch's states, by device."""
        return dict(self._torch)

    def set_torch(self, states: dict[str, torch.Tensor]) -> None:
        """Replace torch's states."""
        self._torch = dict(states)


def _generators() -> dict[str, Any]:
    found = {"cpu": torch.default_generator}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        place = torch.device("cuda", torch.cuda.current_device())
        found[str(place)] = _generator(place)
    return found


def _generator(device: torch.device) -> Any:
    return torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[device.index or 0]
