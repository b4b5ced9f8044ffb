"""Files and folders that a crash cannot leave half done.

A file or a folder is written under a temporary name and appears in one step, by a rename. When several processes build
the same folder at once, the first one's stays and the others use it. That takes no lock, so a crash leaves none behind.
"""

from __future__ import annotations

import errno
import io
import itertools
import json
import logging
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeVar

import yaml

from mistral_ner.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")

_UMASK = os.umask(0o077)  # what this process takes from the modes of new files; it can be read only by setting it
os.umask(_UMASK)


class DiskFullError(UserError):
    """There was no room for a write; what was written before is whole."""


def open_mode(mode: int) -> int:
    """Return the mode of a new file or folder that the person's umask leaves of ``mode``."""
    return mode & ~_UMASK


@contextmanager
def replace_bytes(path: Path) -> Iterator[BinaryIO]:
    """Lend a file to write into; it replaces ``path`` when the block ends, and is deleted if the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(open_mode(0o666))  # mkstemp makes it private to the user
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def replace_file(path: Path) -> Iterator[TextIO]:
    """Lend a text file in UTF-8, as :func:`replace_bytes` lends one of bytes."""
    with replace_bytes(path) as file:
        text = io.TextIOWrapper(file, "utf-8")
        yield text
        text.detach()  # which writes what it holds


def write_text(path: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the old content or the new, never a part."""
    with replace_file(path) as file:
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
        OSError, yaml.YAMLError, UnicodeDecodeError: the file is missing or cannot be read.
    """
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)


# libyaml where PyYAML was built with it: ten times as fast, and every trial's config is written once and read twice
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def claim_folder(wanted: Path) -> Path:
    """Create a folder that no other process has and return it: ``wanted``, or its name with ``_2``, ``_3``, … added.

    Raises:
        OSError: no folder can be created there.
    """
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}_{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("names do not run out")


def redact(text: str) -> str:
    """Return ``text`` with the passwords in its URLs replaced by ``***``."""
    return re.sub(r"(\w+://[^\s:/@]*):[^\s@]+@", r"\1:***@", text)


def checksum_files(folder: Path) -> dict[str, str]:
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


def expand(path: str | Path) -> Path:
    """Return a path whose ``~`` is the home folder.

    Raises:
        UserError: there is none: a container's user without an entry in the machine's list, or a mistyped ``~name``.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path}: this machine knows no home folder for {Path(path).parts[0]}; "
            "fix: export HOME=FOLDER, or a path without ~"
        ) from None


@contextmanager
def name_full_disk(folder: Path, again: str = "type the same command again") -> Iterator[None]:
    """Raise a :class:`DiskFullError` when a write in ``folder`` finds no room (disk, quota or file size).

    Args:
        folder: named in the message.
        again: what the person does after making room.
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
    """Return the errno of a failed write, 0 for an error of another kind.

    torch and safetensors raise errors of their own and give the number in their text only.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        if found := re.search(r"os error (\d+)", str(error)):  # safetensors and tokenizers, which are Rust
            return int(found[1])
        if "inline_container.cc" in str(error):  # torch.save says only where it failed
            return errno.ENOSPC
        error = error.__cause__ or error.__context__
    return 0


_SUMS = "checksums.json"  # written last: a folder without it is not whole


def open_if_whole(folder: Path, what: str, read: Callable[[Path], T]) -> T | None:
    """Return what ``read`` makes of ``folder``, or None if the folder is missing or (with a warning) damaged.

    Args:
        folder: written by :func:`build_folder`.
        what: the content, as the warning names it.
        read: called with the folder if all checksums are right. Its ValueError or OSError counts as damage too.
    """
    if not folder.exists():
        return None
    try:
        for name, written in json.loads((folder / _SUMS).read_text(encoding="utf-8")).items():
            if checksum(folder / name) != written:
                raise ValueError(f"{name} has changed since it was written")
        return read(folder)
    except (OSError, ValueError, AttributeError) as error:
        log.warning("%s in %s is damaged (%s): built again", what, folder, error)
        return None


def build_folder(folder: Path, what: str, read: Callable[[Path], T], write: Callable[[Path], None]) -> T:
    """Let ``write`` fill a new folder, move it to ``folder`` unless another process was faster, and read what is there.

    Raises:
        OSError: the folder cannot be written; nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write(temporary)
        write_json(temporary / _SUMS, checksum_files(temporary))
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        temporary.chmod(open_mode(0o777))  # mkdtemp makes it private to the user
        return _move_into_place(temporary, folder, what, read)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_into_place(temporary: Path, folder: Path, what: str, read: Callable[[Path], T]) -> T:
    for attempt in range(10):
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise
        if (found := open_if_whole(folder, what, read)) is not None:
            return found
        # The folder that is there is damaged. It is moved aside in one step; processes that have its files mapped
        # keep them.
        _discard(folder, Path(f"{temporary}.{attempt}"))
    raise OSError("the folder is damaged again after each repair")


def _discard(folder: Path, aside: Path) -> None:
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return  # another process did it
    if aside.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink()
