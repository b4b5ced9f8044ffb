"""Ctrl-C, SIGTERM and the like during a search: the first signal ends it in order, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mistral_ner.errors import INTERRUPTED

# Ctrl-C, `kill`, a terminal that closes, and what batch systems send before they kill
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


class Interrupted(KeyboardInterrupt):
    """A signal asked the search to end."""


class _Handler:
    """Raises at the first signal, but never during a write to the study; exits at the second."""

    def __init__(self) -> None:
        self.signals = 0
        self.delays = 0
        self.name = ""

    def __call__(self, number: int, _: FrameType | None) -> None:
        self.signals += 1
        if number == signal.SIGHUP:
            _leave_terminal()
        self.name = signal.Signals(number).name
        if self.signals > 1:
            os._exit(INTERRUPTED)  # safe: the files on disk are whole at any moment
        if not self.delays:
            raise Interrupted(self.name)


_active: _Handler | None = None


def _leave_terminal() -> None:
    """Send to nowhere what would be written to a terminal that is closed: a write there fails."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        if os.isatty(descriptor):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


@contextmanager
def catch_signals() -> Iterator[None]:
    """Turn a signal that asks for an end into one :class:`Interrupted`; does nothing outside the main thread.

    A signal that is ignored stays so: ``nohup`` ignores SIGHUP.
    """
    global _active
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _active = _Handler()
    wanted = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, _active) for number in wanted}
    try:
        yield
    finally:
        _active = None
        for number, handler in before.items():
            signal.signal(number, handler)


def handle_again() -> None:
    """Install our handlers again after a library replaced them: Ray's own dies of SIGTERM with a stack dump."""
    if _active is not None and threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _active)


def get_signal_name() -> str:
    """Return the name of the signal that ended the search."""
    return _active.name if _active is not None and _active.name else "SIGINT"


@contextmanager
def delay_signals() -> Iterator[None]:
    """Delay a signal that arrives inside the block until its end."""
    handler = _active
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler.delays += 1
    before = handler.signals
    try:
        yield
    finally:
        handler.delays -= 1
    if not handler.delays and handler.signals > before:
        raise Interrupted(handler.name)
