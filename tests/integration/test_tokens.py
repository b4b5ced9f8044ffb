"""Rays that ask for a token and Rays that do not, joined from a home with a token and from one without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_cluster import children, end, free_ports, reachable, until

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
KEY = "hyperopt.ray_address"
RIGHT = f"{KEY}=ray://127.0.0.1:10001,"
JOIN = """
import os, sys, ray
from mistral_ner.errors import show_user_errors
from mistral_ner.hyperopt.cluster.address import connect, show_token

@ray.remote(num_cpus=0)
class Actor:
    def answer(self):
        return "answered"

with show_user_errors():
    for address in sys.argv[1:]:
        with show_token(address):
            connect(address, log_to_driver=False, logging_level="ERROR", runtime_env={})
            print(ray.get(Actor.remote().answer.remote(), timeout=60), os.environ["RAY_AUTH_MODE"])
            ray.shutdown()
        assert "RAY_AUTH_MODE" not in os.environ
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), "GRPC_ENABLE_FORK_SUPPORT": "0", **more}


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A home with a token and one without."""
    found = {name: tmp_path_factory.mktemp(name) for name in ("token", "none")}
    (found["token"] / ".ray").mkdir()
    (found["token"] / ".ray/auth_token").write_text("a" * 64)
    return found


@pytest.fixture(scope="module")
def rays(homes: dict[str, Path]) -> Iterator[dict[str, dict[str, str]]]:
    """A Ray that asks for the token and one that does not; each with its address and that of its clients' server."""
    heads, found = [], {}
    for name, home in homes.items():
        port, clients = free_ports(2)
        place = [f"--port={port}", f"--ray-client-server-port={clients}", "--num-cpus=1", "--include-dashboard=false"]
        command = [RAY, "start", "--head", "--block", "--disable-usage-stats", *place]
        heads.append(
            subprocess.Popen(command, env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        )
        found[name] = {"here": f"127.0.0.1:{port}", "outside": f"ray://127.0.0.1:{clients}"}
    try:
        for head, places in zip(heads, found.values(), strict=True):
            ports = [int(place.rpartition(":")[2]) for place in places.values()]
            until(lambda ports=ports, head=head: all(map(reachable, ports)) or head.poll() is not None, 120)
            assert head.poll() is None
        yield found
    finally:
        processes = [*heads, *(child for head in heads for child in children(head.pid))]
        for head in heads:
            head.send_signal(signal.SIGTERM)
        end(processes)


def joined(home: Path, *addresses: str, **more: str) -> tuple[int, str]:
    command = [sys.executable, "-c", JOIN, *addresses]
    done = subprocess.run(
        command, env=environment(home, **more), capture_output=True, text=True, check=False, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("how", ["here", "outside"])
def test_a_token_is_shown_where_it_is_asked_for(
    homes: dict[str, Path], rays: dict[str, dict[str, str]], how: str
) -> None:
    """One process joins both: what it showed the first does not count for the second."""
    code, said = joined(homes["token"], rays["token"][how], rays["none"][how])
    shown = ["token", "disabled" if how == "here" else "token"]  # a server of clients takes one, asked or not
    assert (code, said.split()) == (0, ["answered", shown[0], "answered", shown[1]])
    assert joined(homes["none"], rays["none"][how]) == (0, "answered disabled\n")


def test_what_the_user_has_set_counts(homes: dict[str, Path], rays: dict[str, dict[str, str]]) -> None:
    code, said = joined(homes["none"], rays["token"]["here"], RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 64)
    assert "answered token" in said
    assert (code, "AssertionError" in said) == (1, True), "it is still set"


def test_what_keeps_a_machine_out(homes: dict[str, Path], rays: dict[str, dict[str, str]]) -> None:
    """All at once, because Ray's client gives up after half a minute."""
    outside, here = rays["none"]["outside"], rays["none"]["here"]
    cases = {
        rays["token"]["here"]: "asks for a token, and this machine has none\n  fix: copy ~/.ray/auth_token from the",
        rays["token"]["outside"]: "does not let this machine in, which has no token\n  fix: copy ~/.ray/auth_token",
        outside.removeprefix("ray://"): f"server for clients listens there; fix: hyperopt.ray_address={outside}\n",
        f"ray://{here}": f"Ray itself listens there, not its server for clients; fix: {RIGHT} or {KEY}={here} on a",
    }
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda address: joined(homes["none"], address), cases))
    for (code, output), said in zip(answers, cases.values(), strict=True):
        assert code == 1
        assert said in output
        assert "Traceback" not in output
        assert "gcs_client.cc" not in output
