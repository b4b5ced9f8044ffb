"""Several trainings of one process that go through the network together, step by step.

Each is an ordinary training in a thread of its own: Trainer, optimiser, schedule, reports, checkpoints. One of them
runs at a time, and while it does, the random numbers of the process are its own. Where a training needs the network for
a batch, it waits for the others; then one forward pass serves all of them, and so does one backward pass. A training
that evaluates, reports, starts or ends changes nothing for the others.
"""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from accelerate.state import GradientState  # type: ignore[import-untyped]

from mistral_ner.config.schema import OF_A_TRIAL, Config, ModelConfig
from mistral_ner.errors import UserError
from mistral_ner.model.adapter import attach
from mistral_ner.model.base import base_model
from mistral_ner.model.cpu.products import wide_products
from mistral_ner.model.lora import PeftModel
from mistral_ner.model.together.network import Member, TogetherNetwork
from mistral_ner.model.together.random import RandomState
from mistral_ner.model.together.shared import share_weights
from mistral_ner.training.memory import settle_checkpointing
from mistral_ner.training.trainer import Report, quiet_libraries

Batch = Mapping[str, torch.Tensor]


class Pass:
    """The trainings of a process that share its forward passes.

    Args:
        equal_blocks: as for :class:`TogetherNetwork`.
    """

    def __init__(self, equal_blocks: bool | None = None) -> None:
        self.baton = threading.Lock()  # held by the training that runs, or by the thread that does the passes
        self.changed = threading.Event()  # a training waits, is away, or has ended: a pass may be due
        self._equal_blocks = equal_blocks
        self._open = 0  # trainings, with a model or without
        self._seats: list[Seat] = []  # those that have a model
        self._in_flight: dict[Seat, torch.Tensor] = {}  # logits whose gradients have not come
        self._network: TogetherNetwork | None = None
        self._key: Any = None
        self._threads, self._closed = 1, False
        self._around = ExitStack()
        # one thread does all passes, because each thread that computes has helpers of its own
        threading.Thread(target=self._do_passes, daemon=True).start()

    @contextlib.contextmanager
    def seat(self, threads: int) -> Iterator[Seat]:
        """Let this thread train: it waits until it may run, and has the process for itself until it waits again.

        Args:
            threads: how many the passes may use on a CPU.
        """
        seat = Seat(self)
        seat.resume()
        self._enter(threads)
        try:
            yield seat
        finally:
            self._leave()
            seat.pause()

    def _enter(self, threads: int) -> None:
        self._open, self._threads = self._open + 1, threads
        if self._open == 1:  # what changes the whole process, for as long as any training needs it
            gc.freeze()
            self._around.callback(gc.unfreeze)
            self._around.enter_context(quiet_libraries())
            self._around.enter_context(wide_products())

    def _leave(self) -> None:
        self._open -= 1
        if not self._open:
            self._around.close()

    def add(self, seat: Seat, model: PeftModel, settings: ModelConfig, precision: str) -> None:
        """Let a training's batches go through the network with those of the others.

        Raises:
            UserError: the trainings that are there need another network.
        """
        attention = str(model.get_base_model().config._attn_implementation)  # type: ignore[union-attr]
        key = (id(seat.base), _of_the_base(settings), attention, precision)
        if self._seats and key != self._key:
            raise UserError(
                "trials that go through the network together must have the same base model, number format and layers "
                "with LoRA; fix: hyperopt.trials_per_pass=1"
            )
        if self._network is None:
            self._network = TogetherNetwork(seat.base, settings, attention, precision, self._equal_blocks)
        self._key, seat.member, seat.here = key, Member(model, seat.random), True
        self._network.add(seat.member)
        self._seats.append(seat)

    def remove(self, seat: Seat) -> None:
        """Go on without a training."""
        self._seats.remove(seat)
        self._in_flight.pop(seat, None)
        seat.member, seat.here = None, False
        if not self._seats:
            self._network = None  # the next trial may have another base model
        self.changed.set()

    @property
    def checkpoints(self) -> bool | None:
        """Whether the network computes activations again; None while there is none."""
        return None if self._network is None else bool(self._key[1]["gradient_checkpointing"])

    def _do_passes(self) -> None:
        while True:
            self.changed.wait()
            self.changed.clear()
            with self.baton:
                if self._open:
                    self._do_what_is_due()
                elif self._closed:
                    return

    def close(self) -> None:
        """End the thread that does the passes, once no training is left."""
        self._closed = True
        self.changed.set()

    def _do_what_is_due(self) -> None:
        """Do the backward pass, or else a forward pass, if every training waits that takes part in it."""
        work: Callable[[list[Seat]], Sequence[Any]] = self._backward
        seats = list(self._in_flight)
        if not seats:
            work, seats = self._forward, [seat for seat in self._seats if seat.here]
        if not seats or any(seat.request is None for seat in seats):
            return
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        try:
            answers: Sequence[Any] = work(seats)
        except BaseException as error:  # each training says what it means for itself
            self._in_flight.clear()
            answers = [error] * len(seats)
        for seat, answer in zip(seats, answers, strict=True):
            seat.request = None
            seat.answer(answer)

    def _forward(self, seats: list[Seat]) -> list[torch.Tensor]:
        assert self._network is not None
        logits = self._network.logits([(seat.member, seat.request) for seat in seats])
        self._in_flight = dict(zip(seats, logits, strict=True))
        return [one.detach().requires_grad_() for one in logits]

    def _backward(self, seats: list[Seat]) -> list[None]:
        assert self._network is not None
        logits, self._in_flight = list(self._in_flight.values()), {}
        torch.autograd.backward(logits, [seat.request for seat in seats])
        self._network.forget_batches()
        return [None] * len(seats)


def _of_the_base(settings: ModelConfig) -> dict[str, Any]:
    return {name: value for name, value in vars(settings).items() if name not in OF_A_TRIAL}


def pass_of_process() -> Pass:
    """Return the one pass that the trials of this process share."""
    with _making:
        if not _made:
            _made.append(Pass())
        return _made[0]


_making = threading.Lock()
_made: list[Pass] = []


class Seat:
    """A training's place among those of a process; all methods are for the training's own thread."""

    def __init__(self, together: Pass) -> None:
        self.together = together
        self.random = RandomState()
        self.base: Any = None  # the kept base model, while its weights are lent
        self.member: Any = None  # a Member, while it takes part
        self.here = False  # whether the others wait for it
        self.request: Any = None  # a batch that waits for its logits, or gradients that wait for the backward pass
        self._accumulation: dict[str, Any] = {}  # what accelerate keeps for the whole process
        self._answered = threading.Semaphore(0)
        self._answer: Any = None
        self._logits: torch.Tensor | None = None

    def resume(self) -> None:
        """Wait until no other training runs, and put this one's state in place."""
        self.together.baton.acquire()
        self.random.load()
        state = vars(GradientState())  # one for all instances
        state.clear()
        state.update(self._accumulation)

    def pause(self) -> None:
        """Take this training's state away and let another one run."""
        self.random.save()
        self._accumulation = dict(vars(GradientState()))
        self.together.baton.release()

    def settle_checkpointing(self, config: Config, labels: int, vocab_size: int, rows: int) -> Config:
        """Return the config as :func:`mistral_ner.training.memory.settle_checkpointing` does, with one answer for all.

        The first training decides, for as many of its kind as there may be; those that come later follow.
        """
        settled = settle_checkpointing(config, labels, vocab_size, rows, config.hyperopt.trials_per_pass)
        if settled is config or (now := self.together.checkpoints) is None:
            return settled
        return replace(config, model=replace(config.model, gradient_checkpointing=now))

    @contextlib.contextmanager
    def lend_model(self, model: ModelConfig, labels: Sequence[str], seed: int, vocab_size: int) -> Iterator[Any]:
        """Lend a model with a fresh adapter, on a network of its own that shares the weights of the kept base.

        Args:
            model, labels, seed, vocab_size: as for :func:`mistral_ner.model.adapter.lend_model`.

        Raises:
            UserError: as there.
        """
        self.base = base_model(model, vocab_size)
        try:
            yield attach(model, share_weights(self.base), labels, seed)
        finally:
            self.base = None

    @contextlib.contextmanager
    def take(self, model: PeftModel, settings: ModelConfig, precision: str) -> Iterator[None]:
        """Take part in the passes inside the block.

        Raises:
            UserError: as :meth:`Pass.add`.
        """
        self.together.add(self, model, settings, precision)
        try:
            yield
        finally:
            self._logits = None
            self.together.remove(self)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return the logits of a batch, (rows, tokens, labels); the next call must be :meth:`backward`.

        Args:
            batch: ``input_ids`` and ``attention_mask``, (rows, tokens).
        """
        self._logits = self._wait_for(batch)
        return self._logits

    def backward(self) -> None:
        """Hand on the gradients of the last logits; the adapter's are there when this returns."""
        assert self._logits is not None
        logits, self._logits = self._logits, None
        self._wait_for(logits.grad)

    def _wait_for(self, request: Any) -> Any:
        self.request = request
        self.pause()
        self.together.changed.set()
        self._answered.acquire()
        self.resume()
        answer, self._answer = self._answer, None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def answer(self, answer: Any) -> None:
        """Give the training what it waits for; called by the thread that does the passes."""
        self._answer = answer
        self._answered.release()

    def away(self, report: Report | None) -> Report | None:
        """Return ``report`` so that the others go on while it waits for an answer."""
        if report is None:
            return None

        def call(number: int, metrics: dict[str, float]) -> bool | None:
            self.here = False
            self.pause()
            self.together.changed.set()
            try:
                return report(number, metrics)
            finally:
                self.resume()
                self.here = True

        return call
