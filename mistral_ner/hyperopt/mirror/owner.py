"""Who leads a study in a bucket: a marker there, written again every few seconds.

No clocks are compared. Who finds another's marker watches it: one that does not change is a dead leader's.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import suppress

from mistral_ner.errors import UserError
from mistral_ner.hyperopt.mirror.bucket import Bucket

MARKER = "leader.json"
_BEAT = 4.0  # seconds
_SILENCE = 3 * _BEAT
# pyarrow asks for an object's size, then for so many bytes: one that grows in between is read without its end
_SIZE = 512  # bytes of a marker, whatever it says
_TRIES, _PAUSE = 5, 0.2  # seconds
_UNKNOWN = {"id": "", "process": "", "host": "", "over": ""}

log = logging.getLogger(__name__)


class Owner:
    """This process as the leader of the study in a bucket's folder."""

    def __init__(self, study: Bucket) -> None:
        self._study = study
        self._beats = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="mirror-leader", daemon=True)

    @property
    def id(self) -> str:
        """What tells this process from every other."""
        return _own_id(os.getpid())

    def claim(self) -> str | None:
        """Become the leader; return the id of the last one.

        Raises:
            UserError: another process leads the study.
        """
        found = self.find()
        if found is not None and found["id"] != self.id and not found["over"]:
            self._watch(found)
        self.write()
        return None if found is None else str(found["id"])

    def find(self) -> dict[str, str] | None:
        """Return the marker, None if there is none; its ``id`` is empty if it cannot be read."""
        for _ in range(_TRIES):
            content = self._study.read(MARKER)
            if content is None:
                return None
            with suppress(ValueError, TypeError):
                return {**_UNKNOWN, **json.loads(content)}
            time.sleep(_PAUSE)
        return dict(_UNKNOWN)

    def write(self, over: bool = False) -> None:
        """Write the marker."""
        self._beats += 1
        mine = {"id": self.id, "process": str(os.getpid()), "host": socket.gethostname(), "beat": self._beats}
        content = json.dumps({**mine, "over": "yes" if over else ""})
        self._study.write(MARKER, content.ljust(_SIZE).encode())

    def start(self) -> None:
        """Give signs of life from now on."""
        self._thread.start()

    def release(self) -> None:
        """Let others lead the study."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        with suppress(OSError):
            found = self.find()
            if found is not None and found["id"] == self.id:
                self.write(over=True)

    def _watch(self, found: dict[str, str]) -> None:
        log.info("%s was led by %s: waiting %.0f s for a sign of it", self._study.url, name(found), _SILENCE)
        until = time.monotonic() + _SILENCE
        while time.monotonic() < until:
            time.sleep(1.0)
            now = self.find()
            if now is not None and now != found and not now["over"]:
                study = self._study.url.rpartition("/")[2]
                raise UserError(
                    f"{self._study.url} is led by {name(now)}; fix: wait for its end, or another name, "
                    f"hyperopt.study_name={study}_2"
                )
        log.info("%s: %s gives no sign; this process goes on", self._study.url, name(found))

    def _beat(self) -> None:
        while not self._over.wait(_BEAT):
            with suppress(OSError):  # the next one may arrive
                found = self.find()
                if found is not None and found["id"] == self.id:  # else the next round of changes says so
                    self.write()


@functools.cache
def _own_id(process: int) -> str:
    return uuid.uuid4().hex


def name(marker: dict[str, str]) -> str:
    """Return who has written a marker, in words."""
    return f"process {marker['process']} on {marker['host']}"
