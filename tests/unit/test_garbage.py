"""A process of ours looks for garbage rarely, unless its user has said how often it does."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from mistral_ner.garbage import collect_rarely


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.enable()
    gc.set_threshold(*before)


def test_pythons_own_thresholds_are_raised() -> None:
    gc.set_threshold(700, 10, 10)
    collect_rarely()
    assert gc.get_threshold() == (50_000, 20, 50)


@pytest.mark.parametrize("own", [(100_000, 10, 10), (0, 0, 0)], ids=["rarer", "never"])
def test_what_the_user_has_chosen_stays(own: tuple[int, int, int]) -> None:
    gc.set_threshold(*own)
    collect_rarely()
    assert gc.get_threshold() == own


def test_a_collector_that_is_off_stays_as_it_is() -> None:
    gc.set_threshold(700, 10, 10)
    gc.disable()
    collect_rarely()
    assert not gc.isenabled()
    assert gc.get_threshold() == (700, 10, 10)
