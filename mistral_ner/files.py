"""Writes that a crash cannot leave half done: a temporary file, then a rename; and a folder that one process holds."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import yaml

from mistral_ner.config import UserError


class DiskFullError(UserError):
    """A write found no room; what was written before is whole."""


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Lend a file to write into that takes the place of ``path`` when the block ends, and is gone where it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp makes it private to the user
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the old content or the new, never a part."""
    with replacing(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_yaml(path: Path, value: Any, head: str = "") -> None:
    """Write ``value`` as YAML in the order of its keys, after a ``head`` of comment lines."""
    write_text(path, head + yaml.dump(value, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=120))


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds: plain values only.

    Raises:
        OSError, yaml.YAMLError, UnicodeDecodeError: there is none, or it cannot be read.
    """
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)


# libyaml where PyYAML was built with it: ten times as fast, and every trial's config is written once and read twice
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def redacted(text: str) -> str:
    """Return ``text`` with the passwords in its URLs replaced by ``***``."""
    return re.sub(r"(\w+://[^\s:/@]*):[^\s@]+@", r"\1:***@", text)


def checksums(folder: Path) -> dict[str, str]:
    """Return the :func:`checksum` of every file directly in ``folder``, by name."""
    return {path.name: checksum(path) for path in sorted(folder.iterdir()) if path.is_file()}


def checksum(path: Path) -> str:
    """Return the CRC-32 of a file, read piece by piece."""
    value = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            value = zlib.crc32(piece, value)
    return f"{value:08x}"


_PIECE = 1 << 20  # bytes


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a training's folder; the kernel lets go of it if the process dies. A thread that holds it may do so again.

    A worker outlives its killed driver for some seconds: whoever goes on with its trial waits for it to be gone.

    Raises:
        UserError: another process holds it and does not end.
    """
    me = (threading.get_ident(), folder.resolve())
    if me in _holders:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a")
    except OSError:  # who reads or writes there says what is wrong with the folder
        yield
        return
    with file:
        until = time.monotonic() + _PATIENCE
        while not _locked(file):
            if time.monotonic() > until:
                raise UserError(
                    f"another process trains in {folder}; fix: wait for its end, or output_dir=ANOTHER_FOLDER"
                )
            time.sleep(0.1)
        _holders.add(me)
        try:
            yield
        finally:
            _holders.discard(me)


LOCK = ".lock"
_PATIENCE = 30.0  # seconds
_holders: set[tuple[int, Path]] = set()


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def full_disk_named(folder: Path, again: str = "type the same command again") -> Iterator[None]:
    """Turn a write in ``folder`` that found no room (disk, quota or file size) into a DiskFullError that says so.

    ``again`` says what goes on with what was written.

    torch and safetensors hide the system's error number in the text of errors of their own.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = _system_error(error)
        if number not in NO_ROOM:
            raise
        fix = f"make room, then {again}; what was written before is whole"
        raise DiskFullError(f"cannot write in {folder} ({os.strerror(number)})\n  fix: {fix}") from error


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _system_error(error: BaseException | None) -> int:
    """Return the errno of what failed to be written, 0 where the error is of another kind."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        if found := re.search(r"os error (\d+)", str(error)):  # safetensors and tokenizers, which are Rust
            return int(found[1])
        if "inline_container.cc" in str(error):  # the part of torch.save that writes says no more than where it failed
            return errno.ENOSPC
        error = error.__cause__ or error.__context__
    return 0
