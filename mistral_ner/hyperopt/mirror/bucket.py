"""A folder of object storage, through pyarrow. An object that is written appears whole or not at all."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mistral_ner.errors import UserError

_PIECE = 8 << 20  # bytes of a file in memory
_AT_ONCE = 4  # files that travel side by side
_CONNECT, _SILENCE = 10.0, 30.0  # seconds until a request has failed


class Bucket:
    """A folder of a bucket; names are paths in it.

    Args:
        url: ``s3://BUCKET/FOLDER`` or ``gs://BUCKET/FOLDER``, as it is shown.
        system: a file system of pyarrow.
        root: the folder's path there.
    """

    def __init__(self, url: str, system: Any, root: str) -> None:
        self.url, self._system, self._root = url, system, root

    @classmethod
    def open(cls, url: str) -> Bucket:
        """Return the folder that a URL names.

        Raises:
            UserError: there is no such bucket, or it cannot be reached.
        """
        scheme, _, root = url.partition("://")
        try:
            return cls(url, _SYSTEMS[scheme](root.partition("/")[0]), root)
        except OSError as error:
            raise UserError(explain(url, error)) from None

    def check(self) -> None:
        """Write an object and delete it.

        Raises:
            UserError: that fails.
        """
        probe = f"probe-{uuid.uuid4().hex}"
        try:
            self.write(probe, b"probe")
            self.delete([probe])
        except OSError as error:
            raise UserError(explain(self.url, error)) from None

    def of(self, name: str) -> Bucket:
        """Return a folder in this one."""
        return Bucket(f"{self.url}/{name}", self._system, f"{self._root}/{name}")

    def sizes(self) -> dict[str, int]:
        """Return the objects in the folder and all below it, with their sizes in bytes."""
        from pyarrow.fs import FileSelector, FileType

        found = self._system.get_file_info(FileSelector(self._root, recursive=True, allow_not_found=True))
        start = len(self._root) + 1
        return {one.path[start:]: one.size for one in found if one.type == FileType.File}

    def list_folders(self) -> list[str]:
        """Return the names of the folders directly in this one."""
        from pyarrow.fs import FileSelector, FileType

        found = self._system.get_file_info(FileSelector(self._root, allow_not_found=True))
        return sorted(one.base_name for one in found if one.type == FileType.Directory)

    def read(self, name: str) -> bytes | None:
        """Return the content of an object, None if there is none."""
        try:
            with self._system.open_input_stream(self._path(name)) as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write an object."""
        with self._system.open_output_stream(self._path(name)) as stream:
            stream.write(content)

    def send(self, files: Iterable[tuple[Path, str]]) -> None:
        """Write files under their names; all have arrived when this returns."""
        _side_by_side(self._send, files)

    def _send(self, path: Path, name: str) -> None:
        with path.open("rb") as file:
            first = file.read(_PIECE)  # a small file is read before its object is begun
            with self._system.open_output_stream(self._path(name)) as stream:
                stream.write(first)
                while piece := file.read(_PIECE):
                    stream.write(piece)

    def receive(self, files: Iterable[tuple[str, Path]]) -> None:
        """Write objects to files, whose folders exist."""
        _side_by_side(self._receive, files)

    def _receive(self, name: str, path: Path) -> None:
        with self._system.open_input_stream(self._path(name)) as stream, path.open("wb") as file:
            while piece := stream.read(_PIECE):
                file.write(piece)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are not there are passed over."""
        _side_by_side(self._delete, ((name,) for name in names))

    def _delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._system.delete_file(self._path(name))

    def delete_folder(self, name: str) -> None:
        """Delete a folder in this one with all that it holds."""
        with suppress(FileNotFoundError):
            self._system.delete_dir(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _side_by_side(work: Callable[..., None], each: Iterable[tuple[Any, ...]]) -> None:
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="bucket") as pool:
        for done in [pool.submit(work, *one) for one in each]:
            done.result()


def _find_endpoint() -> str:
    """Return the address of a server that is not Amazon's, "" without one.

    Raises:
        UserError: it has no scheme.
    """
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if found := os.environ.get(name):
            if not re.match(r"https?://[^/]", found):
                raise UserError(f"{name} must be http://HOST:PORT or https://HOST, found {found}")
            return found
    return ""


def _open_s3(bucket: str) -> Any:
    from pyarrow import fs

    endpoint = urlsplit(_find_endpoint())
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region is None:
        region = "us-east-1" if endpoint.netloc else fs.resolve_s3_region(bucket)
    place = {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme} if endpoint.netloc else {}
    return fs.S3FileSystem(
        region=region,
        connect_timeout=_CONNECT,
        request_timeout=_SILENCE,
        allow_delayed_open=True,  # a small object takes one request
        **place,
    )


def _open_gs(_: str) -> Any:
    from pyarrow import fs

    return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=_CONNECT))  # it takes longer


_SYSTEMS: dict[str, Callable[[str], Any]] = {"s3": _open_s3, "gs": _open_gs}


def explain(url: str, error: OSError) -> str:
    """Return why a bucket cannot be used, with what to do about it."""
    scheme, _, root = url.partition("://")
    bucket = root.partition("/")[0]
    for pattern, why, fix in _REASONS[scheme]:
        if re.search(pattern, str(error), re.IGNORECASE):
            at = f" at {place}" if scheme == "s3" and (place := _find_endpoint()) else ""
            return f"{url}: {why.format(bucket=bucket, at=at)}; fix: {fix.format(bucket=bucket)}"
    return f"{url} cannot be used: {shorten(error)}"


def shorten(error: BaseException) -> str:
    """Return the part of an error of pyarrow's that says what has happened."""
    text = " ".join(str(error).split())
    found = re.search(r"AWS Error (\w+|\[[^]]*\])[^:]*:?(.*)", text)
    text = f"{found[1]}:{found[2]}" if found else text
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


_LONGEST = 200  # letters
_REASONS = {
    "s3": (
        (r"NO_SUCH_BUCKET|Bucket '.*' not found", "there is no bucket {bucket}", "aws s3 mb s3://{bucket}"),
        (
            r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|FORBIDDEN|EXPIRED_TOKEN|HTTP status 40[13]",
            "it does not let you write there",
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws/credentials, of somebody who may list, read, "
            "write and delete in {bucket}",
        ),
        (
            r"NETWORK_CONNECTION|curlCode",
            "it cannot be reached{at}",
            "mend the network, or AWS_ENDPOINT_URL=http://HOST:PORT of a server that is not Amazon's",
        ),
    ),
    "gs": (
        (
            r"bucket does not exist|NoSuchBucket",
            "there is no bucket {bucket}",
            "gcloud storage buckets create gs://{bucket}",
        ),
        (
            r"credential|OAuth2|metadata|PERMISSION_DENIED|UNAUTHENTICATED|Forbidden",
            "it does not let you write there",
            "GOOGLE_APPLICATION_CREDENTIALS=FILE, or gcloud auth application-default login",
        ),
        (r"resolve host|UNAVAILABLE|Connect", "it cannot be reached", "mend the network"),
    ),
}
