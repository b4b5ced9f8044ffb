"""One training in several processes: each has a GPU of its own, or its share of the CPUs.

Every process has the whole model and goes through the same batches in the same order. It computes its share of a
batch's rows; the gradients of the trained weights, a few megabytes with LoRA, are added up; and each takes the same
optimiser step. The first process is the training: it alone evaluates, writes, reports, and says when to stop.

This is data parallelism as in PyTorch Distributed (Li et al. 2020, https://arxiv.org/abs/2006.15704) without its
wrapper: the network stays what it is alone, quantised or not, and the numbers follow from the global batch.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from torch import distributed

from mistral_ner.config.schema import Config, to_container
from mistral_ner.errors import UserError
from mistral_ner.training.memory import TrainingError

log = logging.getLogger(__name__)

T = TypeVar("T")

OUT_OF_MEMORY = "out of memory: "  # how the last line of a follower begins that had too little
_LONGEST = timedelta(hours=6)  # that the others wait for the first process, which evaluates and reports


class Ranks:
    """This process's place among those of a training.

    Args:
        rank: its place; 0 reports.
        count: of processes.
        store: the file in which they find each other.
        followers: the processes that the first has started.
    """

    def __init__(self, rank: int, count: int, store: Path, followers: Sequence[_Follower] = ()) -> None:
        self.rank, self.count, self._followers, self._closed = rank, count, followers, False
        found = distributed.FileStore(str(store), count)  # type: ignore[attr-defined]
        if rank:
            found.set(f"ready {rank}", "")
        else:
            self._wait_until_ready(found)
        with self._naming_the_dead():
            distributed.init_process_group(
                "nccl" if torch.cuda.is_available() else "gloo",
                store=found,
                rank=rank,
                world_size=count,
                timeout=_LONGEST,
            )
        if followers and torch.cuda.is_available():
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """End this process if another one ends before the training: NCCL would wait for it until its timeout."""
        while not self._closed:
            for one in self._followers:
                if one.has_ended and not self._closed:
                    log.error("%s", _explain(one))
                    os._exit(1)  # safe: the files on disk are whole at any moment
            time.sleep(1)

    def close(self) -> None:
        """Leave the others."""
        self._closed = True
        distributed.destroy_process_group()

    def share(self, pieces: Sequence[T]) -> Sequence[T]:
        """Return this process's pieces of a batch; there may be none."""
        return pieces[self.rank :: self.count]

    def draw_own(self, seed: int, step: int) -> None:
        """Let dropout draw other numbers than the first process does, the same whenever this step is made."""
        if self.rank:
            own = np.random.SeedSequence([seed, self.rank, step]).generate_state(1)[0]
            torch.manual_seed(int(own))

    def add_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Give each parameter the sum of its gradients in all processes.

        Raises:
            TrainingError: another process has ended.
            OutOfMemoryError: another process had too little memory.
        """
        parts = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        joined = torch.cat([part.flatten() for part in parts])
        self.add(joined)
        for one, summed in zip(parameters, torch.split(joined, [part.numel() for part in parts]), strict=True):
            one.grad = summed.view_as(one)

    def add(self, values: torch.Tensor) -> None:
        """Replace values by their sums over all processes; raises as :meth:`add_gradients`."""
        with self._naming_the_dead():
            distributed.all_reduce(values)

    def agree(self, stop: bool) -> bool:
        """Return what the first process says; raises as :meth:`add_gradients`."""
        said = torch.tensor([int(stop)], device="cuda" if torch.cuda.is_available() else "cpu")
        with self._naming_the_dead():
            distributed.broadcast(said, 0)
        return bool(said.item())

    def _wait_until_ready(self, store: Any) -> None:
        waiting = [follower.rank for follower in self._followers]
        while waiting:
            waiting = [rank for rank in waiting if not store.check([f"ready {rank}"])]
            if any(follower.has_ended for follower in self._followers):
                self._name_the_dead(None)
            time.sleep(0.02)

    @contextlib.contextmanager
    def _naming_the_dead(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of gloo and NCCL, whose texts name sockets
            self._name_the_dead(error)
            raise

    def _name_the_dead(self, error: RuntimeError | None) -> None:
        """Raise the reason for which another process has ended, if one has."""
        until = time.monotonic() + 5  # its end may be seen later than that of its connection
        while self._followers and time.monotonic() < until:
            for one in self._followers:
                if one.has_ended:
                    raise _explain(one) from error
            time.sleep(0.05)


class _Follower:
    """A process that the first one has started.

    It ends with its standard input, so it never outlives the first.
    """

    def __init__(self, rank: int, told: dict[str, Any], errors: IO[bytes]) -> None:
        self.rank, self._errors = rank, errors
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mistral_ner.training.parallel.follow"],
            stdin=subprocess.PIPE,
            stdout=errors,
            stderr=errors,
            env={**os.environ, **_name_card(rank)},
            start_new_session=True,  # Ctrl-C is for the first process, which ends this one
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its end is found when it is waited for
            self._process.stdin.write(json.dumps({**told, "rank": rank}).encode() + b"\n")
            self._process.stdin.flush()

    @property
    def has_ended(self) -> bool:
        """Whether it is no longer there."""
        return self._process.poll() is not None

    def describe_end(self) -> str:
        """Return the signal that ended it, or the last line that it has printed."""
        if (code := self._process.wait()) < 0:
            return signal.Signals(-code).name
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}")

    def end(self) -> None:
        """End it, if it still runs."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._errors.close()


def _name_card(rank: int) -> dict[str, str]:
    """Return the variable that shows a process only its own GPU."""
    if not torch.cuda.is_available():
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return {"CUDA_VISIBLE_DEVICES": cards[rank]}


def _explain(one: _Follower) -> Exception:
    last = one.describe_end()
    if last.startswith(OUT_OF_MEMORY):
        return torch.OutOfMemoryError(f"process {one.rank} of the training: {last}")
    return TrainingError(f"process {one.rank} of the training has ended: {last}")


def check_cards(count: int) -> None:
    """Check that each process of a training can have a GPU of its own, where there are GPUs.

    Raises:
        UserError: there are fewer.
    """
    if torch.cuda.is_available() and (cards := torch.cuda.device_count()) < count:
        raise UserError(
            f"training.processes={count} needs as many GPUs, and this process sees {cards}; "
            f"fix: training.processes={cards}"
        )


@contextlib.contextmanager
def lead(config: Config, at_once: int, start: Path | None) -> Iterator[Ranks | None]:
    """Start the other processes of a training, and end them with the block; None if it has one process.

    Args:
        config: the training, with the ``threads`` of all its processes.
        at_once: the most rows that go through a network at a time.
        start: the checkpoint to continue from.

    Raises:
        UserError: there are fewer GPUs than processes.
        TrainingError: one of them ended.
    """
    count = config.training.processes or 1
    if count == 1:
        yield None
        return
    check_cards(count)
    told = {"config": to_container(config), "count": count, "at_once": at_once, "start": start and str(start)}
    with tempfile.TemporaryDirectory(prefix="mistral_ner-") as folder, contextlib.ExitStack() as stack:
        store = Path(folder, "store")
        followers = []
        for rank in range(1, count):
            errors = tempfile.TemporaryFile()  # noqa: SIM115  the follower closes it
            followers.append(_Follower(rank, {**told, "store": str(store)}, errors))
            stack.callback(followers[-1].end)
        ranks = Ranks(0, count, store, followers)
        stack.callback(ranks.close)  # called before the others end
        threads = torch.get_num_threads()
        torch.set_num_threads(threads_of_each(config))
        stack.callback(torch.set_num_threads, threads)
        yield ranks


def threads_of_each(config: Config) -> int:
    """Return the CPU threads of one process of a training."""
    return max(1, (config.training.threads or torch.get_num_threads()) // (config.training.processes or 1))
