"""Ctrl-C and SIGTERM during a search: once ends it in order, twice at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mistral_ner.errors import INTERRUPTED


class Interrupted(KeyboardInterrupt):
    """Somebody asked the search to end."""


class _Handler:
    """Raises at the first signal, but never in the middle of a write to the study; leaves at the second."""

    def __init__(self) -> None:
        self.signals = 0
        self.held = 0
        self.name = ""

    def __call__(self, number: int, _: FrameType | None) -> None:
        self.signals += 1
        self.name = signal.Signals(number).name
        if self.signals > 1:
            os._exit(INTERRUPTED)  # what is on disk is whole at any moment
        if not self.held:
            raise Interrupted(self.name)


_active: _Handler | None = None


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into one :class:`Interrupted`; outside the main thread signals are not ours."""
    global _active
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _active = _Handler()
    before = {number: signal.signal(number, _active) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _active = None
        for number, handler in before.items():
            signal.signal(number, handler)


def handle_again() -> None:
    """Take the signals back from a library that installed handlers of its own: Ray dies of SIGTERM with a dump."""
    if _active is not None and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _active)


def received() -> str:
    """Return the name of the signal that ended the search."""
    return _active.name if _active is not None and _active.name else "SIGINT"


@contextmanager
def held() -> Iterator[None]:
    """Keep a signal that comes inside until the end of the block."""
    handler = _active
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler.held += 1
    before = handler.signals
    try:
        yield
    finally:
        handler.held -= 1
    if not handler.held and handler.signals > before:
        raise Interrupted(handler.name)
