"""Hosts that share nothing, on one machine: each has its own address, processes, /tmp, /dev/shm and home.

A host is a set of Linux namespaces, which root may make. Killing its first process kills all in it, and its end of the
network is gone at once, as when a machine loses its power.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.warm_server import SITE, WORKERS

ROOT = Path(__file__).parents[1]
PYTHON = str(Path(sys.prefix).resolve() / "bin/python")  # not by a link, which /tmp may hide
PROJECT = "/mnt/project"  # on every host
_SITE, _SERVER = "/mnt/site", "/mnt/server"  # what Ray's workers need to be forked, as in the other tests
_PYTHON = "/mnt/python"
_NET = "10.231.7"  # private addresses, in a network that only these namespaces see


@functools.cache
def why_not() -> str | None:
    """Return why hosts cannot be made here, None if they can."""
    for tool in ("unshare", "nsenter", "ip"):
        if shutil.which(tool) is None:
            return f"this machine has no {tool}"
    try:
        with Network() as network:
            network.add("probe")
    except (subprocess.CalledProcessError, OSError, AssertionError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return f"namespaces and veth pairs are not allowed here: {' '.join(str(said).split())[:200]}"
    return None


class Network:
    """Hosts that are joined by a switch; a context manager that ends whatever runs in them."""

    def __init__(self) -> None:
        self.hosts: list[Host] = []
        self._switch: Host | None = None
        self._numbers = iter(range(1, 250))

    def __enter__(self) -> Network:
        self._switch = Host("switch", "", self)
        self._switch.do("ip link add sw type bridge && ip link set sw up && ip link set lo up")
        return self

    def __exit__(self, *_: object) -> None:
        for host in [*self.hosts, *([self._switch] if self._switch else [])]:
            host.kill()

    def add(self, name: str) -> Host:
        """Return a new host."""
        number = next(self._numbers)
        host = Host(name, f"{_NET}.{number}", self)
        self.hosts.append(host)
        assert self._switch is not None
        here, there = f"h{number}", f"v{os.getpid() % 100000}x{number}"
        self._switch.do(f"ip link add {there} type veth peer name {here} && ip link set {there} master sw up")
        self._switch.do(f"ip link set {here} netns {host.pid}", network_only=True)
        host.do(f"ip link set lo up && ip addr add {host.address}/24 dev {here} && ip link set {here} up")
        host.link = here
        return host


class Host:
    """One host.

    Args:
        name: for messages.
        address: in the network.
        network: it belongs to.
    """

    link = ""

    def __init__(self, name: str, address: str, network: Network) -> None:
        self.name, self.address, self.network = name, address, network
        own = (
            f"mount -t tmpfs own /mnt && mkdir {PROJECT} && mount --bind '{ROOT}' {PROJECT} && {_show_server()}"
            f"{_hide_tmp()} && mount -t tmpfs own /dev/shm && mkdir -p /tmp/home && touch /tmp/there"
        )
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._process = subprocess.Popen(
            [*command, "sh", "-c", f"{own} && exec sleep 100000"], stderr=subprocess.PIPE, start_new_session=True
        )
        self.pid = self._find_first()

    def _find_first(self) -> int:
        """Return the number, outside, of the first process of the host."""
        until = time.monotonic() + 10
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        while self._process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(OSError, IndexError):
                pid = int(children.read_text().split()[0])
                if Path(f"/proc/{pid}/root/tmp/there").exists():
                    return pid
            time.sleep(0.02)
        self._process.kill()
        assert self._process.stderr is not None
        raise OSError(self._process.stderr.read().decode() or "unshare did not make a host")

    def command(self, *arguments: str) -> list[str]:
        """Return what runs a command in the host."""
        return ["nsenter", "-t", str(self.pid), "-n", "-m", "-p", *arguments]

    def forget_project(self) -> None:
        """Hide the project: an empty folder lies over it, and over what is installed of it."""
        look = [PYTHON, "-c", "import mistral_ner; print(*mistral_ner.__path__)"]
        found = subprocess.run(self.command(*look), cwd="/", env={}, capture_output=True, text=True, check=False)
        for folder in [PROJECT, *found.stdout.split()]:
            self.do(f"mount -t tmpfs own '{folder}'")

    def do(self, script: str, network_only: bool = False) -> None:
        """Run a script of the shell.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        enter = ["nsenter", "-t", str(self.pid), "-n"] if network_only else self.command()
        subprocess.run([*enter, "sh", "-c", script], check=True, capture_output=True, text=True)

    def start(self, *arguments: str, log: Path | None = None, **more: str) -> subprocess.Popen[str]:
        """Start a command; its output goes to a file outside of the host."""
        kept = ("PATH", "LANG", "LC_ALL", "HF_HUB_OFFLINE", "LD_LIBRARY_PATH")
        env = {name: os.environ[name] for name in kept if name in os.environ}
        env |= {"HOME": "/tmp/home", "OMP_NUM_THREADS": "1", "RAY_DISABLE_IMPORT_WARNING": "1", **more}
        with (log or Path(os.devnull)).open("a") as output:
            return subprocess.Popen(
                self.command(*arguments), cwd="/", env=env, stdout=output, stderr=subprocess.STDOUT, text=True
            )

    def processes(self) -> Iterator[tuple[int, bytes]]:
        """Yield the number, outside, and the command line of each process of the host."""
        mine = Path(f"/proc/{self.pid}/ns/pid").readlink()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (path / "ns/pid").readlink() == mine:
                    yield int(path.name), (path / "cmdline").read_bytes()

    def see(self, path: str | Path) -> Path:
        """Return where a path of the host is for this process."""
        return Path(f"/proc/{self.pid}/root") / str(path).lstrip("/")

    def cut(self) -> None:
        """Take the host off the network."""
        self.do(f"ip link set {self.link} down")

    def mend(self) -> None:
        """Put it back."""
        self.do(f"ip link set {self.link} up")

    def kill(self) -> None:
        """End the host and all that runs in it, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait(30)
        if self._process.stderr is not None:
            self._process.stderr.close()


def _hide_tmp() -> str:
    """Return a script that gives a host a /tmp of its own, in which only Python stays, if it lies there."""
    hide, place = "mount -t tmpfs own /tmp", str(Path(sys.prefix).resolve())
    if not place.startswith("/tmp/"):
        return hide
    keep, show = f"mkdir {_PYTHON} && mount --bind '{place}' {_PYTHON}", f"mount --bind {_PYTHON} '{place}'"
    return f"{keep} && {hide} && mkdir -p '{place}' && {show}"


def _show_server() -> str:
    """Return a script that lets a host see the server of workers, if there is one."""
    if WORKERS not in os.environ:
        return ""
    seen = {SITE: _SITE, str(Path(os.environ[WORKERS]).parent): _SERVER}
    return "".join(f"mkdir {there} && mount --bind '{here}' {there} && " for here, there in seen.items())


def start_ray(host: Host, log: Path, head: Host | None = None, cpus: int = 0, **more: str) -> subprocess.Popen[str]:
    """Start Ray on a host: a head, or a machine that joins one."""
    ray = str(Path(PYTHON).with_name("ray"))
    place = ["--head", "--port=6379", "--ray-client-server-port=10001", "--include-dashboard=false"]
    if head is not None:
        place = [f"--address={head.address}:6379"]
    shape = [f"--num-cpus={cpus}", f"--node-ip-address={host.address}", "--object-store-memory=300000000"]
    env = {"GRPC_ENABLE_FORK_SUPPORT": "0", "RAY_TMPDIR": "/tmp", **more}
    if WORKERS in os.environ:
        env[WORKERS] = f"{_SERVER}/{Path(os.environ[WORKERS]).name}"
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (_SITE, more.get("PYTHONPATH"))))
    return host.start(ray, "start", "--block", "--disable-usage-stats", *shape, *place, log=log, **env)
