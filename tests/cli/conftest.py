"""What the tests of the commands share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _workers(forked_workers: None) -> None:
    """All tests of this tier use them."""


@pytest.fixture(scope="session")
def small(toy_files: dict[str, str]) -> list[str]:
    """Overrides for a training of about a second."""
    paths = [f"data.{name}={path}" for name, path in toy_files.items()]
    return [
        "model=tiny",
        "data=files",
        *paths,
        "training.reports=3",
        "training.num_epochs=2",
        "training.threads=1",
        "training.per_device_train_batch_size=8",
    ]
