"""Keeps a bucket like the folder of a study that is led: sends what changes, in a thread of its own.

A trial never waits for the bucket. While it cannot be reached the search goes on, and what has changed meanwhile is
sent when it is back.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mistral_ner.errors import UserError
from mistral_ner.hyperopt.mirror.bucket import Bucket, explain, shorten
from mistral_ner.hyperopt.mirror.fetch import lead
from mistral_ner.hyperopt.mirror.outbox import Cargo, ChangingError, Outbox, fold, side_folder
from mistral_ner.hyperopt.mirror.owner import MARKER, Owner, name
from mistral_ner.hyperopt.spec.plan import Plan, read_saved_config
from mistral_ner.hyperopt.study.storage import JOURNAL, read_whole_lines

_LOOK = 0.2  # seconds between two looks at the journal's size
_GAP = 1.0  # seconds between two rounds at least
_SHARE = 3  # times as long as the last round took until the next one
_ALL = 30.0  # seconds between two rounds that look at what the journal does not tell of
_AGAIN = 5.0  # seconds until the next try, when the bucket was away
_PATIENCE = 60.0  # seconds that a bucket that is away is waited for at the end
_QUICK = 3.0  # seconds that the end may take without a word

log = logging.getLogger(__name__)


@contextmanager
def keep(plan: Plan) -> Iterator[None]:
    """Mirror the study that is led inside the block, if ``hyperopt.mirror`` names a bucket's folder.

    A resumed study that is not on this machine, or has gone further in the bucket, is downloaded first.

    Raises:
        UserError: the bucket cannot be used, the study exists there and is not to be resumed, or another process leads
            it.
    """
    _go_on_with_mirror(plan)
    url = plan.config.hyperopt.mirror
    if url is None:
        yield
        return
    bucket = Bucket.open(url)
    bucket.check()
    owner, last = lead(bucket, plan.folder) if plan.config.hyperopt.resume else (_claim_new(bucket, plan), None)
    study = bucket.of(plan.folder.name)
    mirror = Mirror(study, plan.folder, owner, Outbox(plan.folder, last, owner.id))
    log.info("%s is mirrored to %s: python -m mistral_ner.hyperopt.resume %s", plan.folder, study.url, study.url)
    try:
        yield
    finally:
        mirror.close()


def _go_on_with_mirror(plan: Plan) -> None:
    """Let a resumed search keep the mirror that it had."""
    hyperopt, saved = plan.config.hyperopt, plan.folder / "config.yaml"
    if hyperopt.resume and hyperopt.mirror is None and saved.exists():
        hyperopt.mirror = read_saved_config(saved).hyperopt.mirror
        if hyperopt.mirror is not None:
            log.warning("hyperopt.mirror stays %s; to end it, set it to null in %s", hyperopt.mirror, saved)


def _claim_new(bucket: Bucket, plan: Plan) -> Owner:
    """Become the leader of a new study.

    Raises:
        UserError: there is one of its name.
    """
    name, number = plan.config.hyperopt.study_name, 1
    try:
        while plan.named_by_time and (plan.folder.exists() or bucket.of(plan.folder.name).read(MARKER) is not None):
            number += 1  # another search began in the same second
            plan.config.hyperopt.study_name = f"{name}_{number}"
        study = bucket.of(plan.folder.name)
        if study.read(JOURNAL) is not None:
            raise UserError(
                f"the study {name!r} exists already in {bucket.url}; fix: another name, hyperopt.study_name={name}_2, "
                f"or go on with it, hyperopt.resume=true"
            )
        owner = Owner(study)
        owner.claim()
    except OSError as error:
        raise UserError(explain(bucket.url, error)) from None
    return owner


class _TakenError(Exception):
    """Another process leads the study now."""


class Mirror:
    """Sends what changes in a study's folder, from now on until it is closed.

    Args:
        study: the study's folder in the bucket.
        folder: the study's folder here, which need not exist yet.
        owner: this process, as the leader of the study there.
        outbox: says what to send.
    """

    def __init__(self, study: Bucket, folder: Path, owner: Owner, outbox: Outbox) -> None:
        self._study, self._folder, self._owner, self._outbox = study, folder, owner, outbox
        self._closing = threading.Event()
        self._away_since: float | None = None
        self._seen = -1  # bytes of the journal that was sent
        self._taken = False
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        owner.start()
        self._thread.start()

    def close(self) -> None:
        """Send what is left, wait a while for a bucket that is away, and let others lead the study."""
        self._closing.set()
        self._thread.join(_QUICK)
        if self._thread.is_alive():
            log.info("sending what is left to %s", self._study.url)
            self._thread.join()
        self._owner.release()

    def _run(self) -> None:
        everything = time.monotonic()
        while not self._closing.wait(_LOOK if self._away_since is None else _AGAIN):
            started, size = time.monotonic(), self._size()
            whole = started >= everything
            if not size or (size == self._seen and not whole):
                continue
            if self._try(whole):
                everything = started + _ALL if whole else everything
                took = time.monotonic() - started
                self._closing.wait(max(_GAP, _SHARE * took) - _LOOK)
            elif self._taken:
                return
        self._finish()

    def _finish(self) -> None:
        """Send what is left at the end."""
        if not self._size():
            self._remove_unused()
            return
        until = time.monotonic() + _PATIENCE
        while not self._try(whole=True):
            if self._taken:
                return
            if time.monotonic() > until:
                log.warning(
                    "%s lacks the end of the search; fix: python -m mistral_ner.hyperopt.resume %s, when it is back",
                    *(self._study.url, self._folder),
                )
                return
            time.sleep(_GAP)

    def _try(self, whole: bool) -> bool:
        """Send what has changed; return whether the bucket has it."""
        try:
            self._round(whole)
        except _TakenError as error:
            self._taken = True
            log.error("%s: %s; this search goes on in %s and is mirrored no more", self._study.url, error, self._folder)
            return False
        except ChangingError:
            return False
        except Exception as error:
            if self._away_since is None:
                self._away_since = time.monotonic()
                log.warning(
                    "%s cannot be written to (%s); the search goes on here, and what changes is sent later",
                    *(self._study.url, shorten(error)),
                )
            log.debug("no round", exc_info=True)
            return False
        finally:
            self._outbox.clear()
        if self._away_since is not None:
            log.info("%s is back after %.0f s, and has all", self._study.url, time.monotonic() - self._away_since)
            self._away_since = None
        return True

    def _round(self, whole: bool) -> None:
        self._make_sure()
        size = self._size()
        if not self._outbox.sent:
            self._outbox.forget(self._study.sizes())
        cargo = self._outbox.collect(logs=whole)
        if not cargo.journal:
            raise OSError(f"{self._folder} holds no study any more")
        if not cargo.empty or size != self._seen:
            for stage in cargo.stages:
                self._study.send(stage)
            self._make_sure()
            self._study.write(JOURNAL, cargo.journal)
            self._study.send(cargo.late)
            self._delete(cargo)
            self._outbox.note(cargo)
            self._seen = size
        if whole:
            self._outbox.save()

    def _delete(self, cargo: Cargo) -> None:
        folders, alone = fold(cargo.gone, cargo.stamps)
        for folder in folders:
            self._study.delete_folder(folder)
        self._study.delete(alone)

    def _make_sure(self) -> None:
        """Check that nobody else leads the study.

        Raises:
            _TakenError: somebody does, or has.
        """
        found = self._owner.find()
        if found is not None and found["id"] == self._owner.id:
            return
        if found is not None and found["id"]:
            raise _TakenError(f"{name(found)} leads the study now")
        there = self._study.read(JOURNAL) or b""  # somebody has deleted the marker, and more perhaps, or damaged it
        if not read_whole_lines(self._folder / JOURNAL).startswith(there):
            raise _TakenError("another process has gone on with the study")
        self._outbox.forget()
        self._owner.write()

    def _size(self) -> int:
        """Return the bytes of the journal; 0 if there is none."""
        try:
            return (self._folder / JOURNAL).stat().st_size
        except OSError:
            return 0

    def _remove_unused(self) -> None:
        """Remove a study that started no trial: its name is free."""
        sent = self._outbox.sent
        if any(one.startswith("trial_") for one in sent):
            return  # somebody has deleted the folder, and the bucket keeps what it has
        shutil.rmtree(side_folder(self._folder), ignore_errors=True)
        with suppress(OSError):
            self._study.delete([*sent, JOURNAL, MARKER])
