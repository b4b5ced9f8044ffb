"""Reaches the Ray that runs at an address, with a token where it asks for one."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

import mistral_ner
from mistral_ner.environment import restore_variable
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster import private

ATTEMPTS = 5  # to connect to a running Ray; one in three failed on two cores with Ray 2.60
NOT_STARTED = ("Starting Ray client server failed", "Proxy failed to Connect to backend")
_MODE = "RAY_AUTH_MODE"  # "token" or "disabled"; Ray sets it where it starts a cluster with a token
_PATIENCE = 60.0  # seconds for a cluster to answer; Ray itself gives up after 40

log = logging.getLogger(__name__)


def connect(address: str, **settings: Any) -> None:
    """Connect to the Ray at ``address``; its machines get this process's copy of the project.

    Args:
        address: ``auto``, ``host:port`` or ``ray://host:port``.
        settings: of ``ray.init``.

    Raises:
        UserError: no Ray runs there, or one of another version.
    """
    settings["runtime_env"] = {**settings["runtime_env"], "py_modules": [str(Path(mistral_ner.__file__).parent)]}
    try:
        _initialize(address, **settings)
    except (OSError, ValueError, RuntimeError) as error:
        if "ersion mismatch" in str(error):
            raise UserError(
                f"hyperopt.ray_address={address}: {' '.join(str(error).split())}; fix: install the cluster's versions "
                "of Ray and Python here, or these there"
            ) from None
        raise _explain(address, error) from None


def _explain(address: str, error: Exception) -> UserError:
    """Return why Ray could not be reached; to a client (``ray://``) Ray itself says no more than that time is out."""
    if address.startswith("ray://"):
        said = _ask_for_health(at := address.removeprefix("ray://"))
        if said in (None, _TOKEN):
            return UserError(
                f"hyperopt.ray_address={address}: Ray itself listens there, not its server for clients; "
                f"fix: hyperopt.ray_address=ray://{at.rpartition(':')[0]}:10001, or hyperopt.ray_address={at} on a "
                "machine of the cluster"
            )
        if said == _CLIENTS and not _has_token():
            return UserError(
                f"the Ray at hyperopt.ray_address={address} does not let this machine in, which has no token\n{_COPY}"
            )
    return _no_cluster(address, describe_cause(error))


def _no_cluster(address: str, cause: str) -> UserError:
    return UserError(
        f"no Ray cluster at hyperopt.ray_address={address} ({cause}); fix: ray start --head there first, or a private "
        "one: hyperopt.ray_address=null (--ray-address null of a resumed study)"
    )


def _initialize(address: str, **settings: Any) -> None:
    """Connect to a running Ray; try again if it failed to start the server of this client.

    Ray forks those servers from a process that runs gRPC's threads, and some of them crash at once
    (https://github.com/ray-project/ray/issues/63202).

    Raises:
        OSError, ValueError, RuntimeError: why the last attempt failed.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            ray.init(address, **settings)
            return
        except (OSError, ValueError, RuntimeError) as error:
            ray.shutdown()  # a failed client leaves this process in Ray's client mode
            if not left or not any(text in str(error) for text in NOT_STARTED):
                raise
            log.warning("%s did not serve this client (%s); trying again", address, describe_cause(error))


def describe_cause(error: Exception | str) -> str:
    """Return an error on one line; of a traceback, its last line."""
    text = str(error).strip()
    return " ".join((text.splitlines()[-1] if "Traceback" in text else text).split())


@contextmanager
def show_token(address: str) -> Iterator[None]:
    """Show this machine's token inside if the Ray at ``address`` asks for one, and none to a Ray that does not.

    A process that shows a token refuses what comes without one, so that it must not do so in a cluster without. Ray
    leaves the choice to RAY_AUTH_MODE, which is obeyed here, too.

    Raises:
        UserError: nothing answers at the address, or what does is no Ray, or it asks for a token that is not here.
    """
    _reach(address)
    with restore_variable(_MODE):  # else it would decide what this process does next, too
        if _MODE not in os.environ:
            _set_token_mode("token" if _shows_token(address) else "disabled")
        yield


@contextmanager
def ask_for_token() -> Iterator[None]:
    """Let a Ray that is started inside ask for the token of this machine, which Ray makes if there is none."""
    with restore_variable(_MODE):  # else it would decide what this process does next, too
        if _MODE not in os.environ:
            _set_token_mode("token")  # as Ray would, but with notes about it
        yield


def _set_token_mode(mode: str) -> None:
    os.environ[_MODE] = mode
    private.take_up_token_mode()


def _reach(address: str) -> None:
    """Check that something listens at ``host:port`` or ``ray://host:port``, because Ray itself would try for minutes.

    Raises:
        UserError: nothing does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise _no_cluster(address, describe_cause(error)) from None


def _shows_token(address: str) -> bool:
    """Return whether to show the token of this machine.

    Raises:
        UserError: what answers at the address is no Ray, or it asks for a token that is not here.
    """
    here, meant = _has_token(), os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    if meant.startswith("ray://"):
        return here  # its server takes a token that it has not asked for
    said = _ask_for_health(address)
    if said is None:
        return False
    if said == _CLIENTS:
        raise UserError(
            f"hyperopt.ray_address={address}: Ray's server for clients listens there; "
            f"fix: hyperopt.ray_address=ray://{address}"
        )
    if found := re.search(r"multiple active Ray instances: \{(.*?)\}", said):
        raise UserError(
            f"hyperopt.ray_address={address}: several Rays run here, {found[1]}; fix: hyperopt.ray_address=HOST:PORT "
            "of one of them"
        )
    if said != _TOKEN:
        raise _no_cluster(address, said)
    if not here:
        raise UserError(
            f"the Ray at hyperopt.ray_address={address} asks for a token, and this machine has none\n{_COPY}"
        )
    return True


def _has_token() -> bool:
    """Return whether this machine has a token, by the places that Ray documents."""
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(given) or (Path.home() / ".ray/auth_token").is_file()


def _ask_for_health(address: str) -> str | None:
    """Return what ``ray health-check`` complains of without a token: ``_TOKEN``, ``_CLIENTS`` or else; None: nothing.

    A process of its own: Ray would write to this one's terminal.
    """
    place = [] if address == "auto" else ["--address", address]
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", *place]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, _MODE: "disabled"},
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "no Ray answers there"
    known = [said for said in (_TOKEN, _CLIENTS) if said in done.stderr]
    return None if done.returncode == 0 else (known or [describe_cause(done.stderr)])[0]


_COPY = "  fix: copy ~/.ray/auth_token from the machine that started it, or RAY_AUTH_TOKEN_PATH=FILE before the command"
_TOKEN, _CLIENTS = "AuthenticationError", "Method not found"
