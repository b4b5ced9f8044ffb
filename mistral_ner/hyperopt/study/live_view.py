"""The live view of a search and of its final trainings: what runs, what has ended, what it cost.

A terminal shows it, or the cell of a notebook.
"""

from __future__ import annotations

import contextvars
import io
import logging
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.training.checkpoint import reports_on_disk

REFRESHES_PER_SECOND = 2
_BARS = "▁▂▃▄▅▆▇█"


def draw_sparkline(values: list[float]) -> str:
    """Return a bar for each value, scaled between the least and the greatest."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    span = high - low
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1)) if span > 0 else 0] for value in values)


def estimate_time_left(spent: float, trials_ended: int, num_trials: int) -> float | None:
    """Return the seconds that a search will still take at its pace so far; None before two trials have ended."""
    return spent / trials_ended * max(0, num_trials - trials_ended) if trials_ended >= 2 else None


def can_show() -> bool:
    """Return whether there is a terminal or a notebook to draw in."""
    return sys.stdout.isatty() or in_notebook()


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook; IPython in a terminal has none."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


class NotebookScreen:
    """Keeps what ``render`` returns in the output of a notebook's cell, as HTML that needs no widget.

    The last state stays there, for whoever opens the notebook later.
    """

    def __init__(self, render: Callable[[], RenderableType]) -> None:
        self._render = render
        self._over = threading.Event()
        # in the cell's context, by which the kernel knows to which cell an output belongs
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._refresh,), daemon=True)
        self._handle: Any = None

    def start(self) -> None:
        """Show the first state, and refresh it from now on."""
        from IPython.display import HTML, display  # only a notebook has it

        self._handle = display(HTML(to_html(self._render())), display_id=True)  # type: ignore[no-untyped-call]
        self._thread.start()

    def stop(self) -> None:
        """Show the last state."""
        self._over.set()
        self._thread.join()
        self._update()

    def _refresh(self) -> None:
        while not self._over.wait(1 / REFRESHES_PER_SECOND):
            self._update()

    def _update(self) -> None:
        from IPython.display import HTML

        self._handle.update(HTML(to_html(self._render())))  # type: ignore[no-untyped-call]


def to_html(view: RenderableType, width: int = 100) -> str:
    """Return a view as HTML of ``width`` characters a line, with its colours in the text itself."""
    console = Console(file=io.StringIO(), record=True, width=width, force_terminal=True, force_jupyter=False)
    console.print(view)
    return console.export_html(inline_styles=True, code_format=_PRE)


_PRE = """<pre style="white-space: pre; overflow-x: auto; line-height: normal; font-family: monospace">{code}</pre>"""


class NoView:
    """Draws nothing: the view of a search without a terminal or a notebook."""

    def __enter__(self) -> NoView:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        pass

    def start_trial(self, number: int, curve: dict[int, float]) -> None:
        """Show a trial that starts, with its earlier reports and their values."""

    def add_report(self, number: int, report: int, value: float, best: tuple[int, float] | None, reports: int) -> None:
        """Show a report of a trial; ``reports`` counts those of all trials."""

    def end_trial(self, number: int, state: str | None) -> None:
        """Remove a trial that has ended in ``state``, or that waits if ``state`` is None."""

    def end_training(self, place: int, failed: bool) -> None:
        """Show that a final training, named by its place in their order, has ended."""


@dataclass
class _ShownView(NoView, ABC):
    """A context manager that keeps what :meth:`render` returns at the bottom of the terminal, or in the cell."""

    plan: Plan
    console: Console = field(default_factory=Console)
    started: float = field(default_factory=time.monotonic)
    _live: Live | NotebookScreen | None = None
    _streams: list[tuple[logging.StreamHandler, object, int]] = field(default_factory=list)  # type: ignore[type-arg]

    def __enter__(self) -> Self:
        self._live = self._screen()
        self._live.start()
        # log lines scroll by above the view, and only warnings and errors do
        for handler in logging.getLogger().handlers + logging.getLogger("mistral_ner").handlers:
            if type(handler) is logging.StreamHandler and handler.stream in (sys.__stdout__, sys.__stderr__):
                self._streams.append((handler, handler.setStream(sys.stderr), handler.level))
                handler.setLevel(max(handler.level, logging.WARNING))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for handler, stream, level in self._streams:
            handler.setStream(stream)
            handler.setLevel(level)
        if self._live is not None:
            self._live.stop()

    def _screen(self) -> Live | NotebookScreen:
        if in_notebook():
            return NotebookScreen(self.render)
        return Live(
            console=self.console, get_renderable=self.render, refresh_per_second=REFRESHES_PER_SECOND, transient=True
        )

    @abstractmethod
    def render(self) -> RenderableType:
        """Return the current view."""

    def _describe_time(self, ended: int, left: int) -> str:
        """Return the time so far and an estimate of the rest, from what has ended while the view was shown."""
        seconds = time.monotonic() - self.started
        rest = estimate_time_left(seconds, ended, ended + left)
        return format_time(seconds) + (f", about {format_time(rest)} left" if rest is not None else "")


@dataclass
class LiveView(_ShownView):
    """The view of the trials."""

    curves: dict[int, dict[int, float]] = field(default_factory=dict)  # of the running trials
    counts: dict[str, int] = field(default_factory=lambda: {"completed": 0, "stopped early": 0, "failed": 0})
    reports: int = 0
    saved: int = 0  # reports of trials that were stopped early
    best: tuple[int, float] | None = None  # trial and value
    ended_before: int = 0

    def render(self) -> RenderableType:
        """Return the current view."""
        return Panel(Group(self._head(), self._running()), title=self._title(), title_align="left")

    def _title(self) -> str:
        hyperopt = self.plan.config.hyperopt
        return f"{hyperopt.strategy} search [bold]{hyperopt.study_name}[/bold]"

    def _head(self) -> Table:
        total, over = self.plan.config.hyperopt.num_trials, sum(self.counts.values())
        table = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=max(1, total), completed=over, width=30)
        table.add_row("trials", Group(bar), f"{over} of {total}")
        counts = self.counts
        table.add_row(
            "",
            Text.assemble(
                (f"{counts['completed']} completed", "green"),
                (f"  {counts['stopped early']} stopped early", "dim"),
                (f"  {counts['failed']} failed", "red" if counts["failed"] else "dim"),
            ),
        )
        table.add_row("reports", f"{self.reports} spent, {self.saved} saved by stopping early")
        if self.best is not None:
            best = Text.assemble((f"{self.best[1]:.4f}", "bold"), f"  trial {self.best[0]}")
            table.add_row(f"best {self.plan.config.hyperopt.metric}", best)
        table.add_row("time", self._describe_time(over - self.ended_before, total - over))
        return table

    def _running(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for title in ("trial", "report", "rung", self.plan.config.hyperopt.metric, "so far"):
            table.add_column(title, no_wrap=True)
        for number, curve in sorted(self.curves.copy().items()):
            reports = sorted(curve)
            last = reports[-1] if reports else 0
            table.add_row(
                *(str(number), f"{last}/{self.plan.reports_per_trial}", self._rung(last)),
                *(f"{curve[last]:.4f}" if reports else "", draw_sparkline([curve[report] for report in reports])),
            )
        return table

    def _rung(self, report: int) -> str:
        """Return in words the next rung of a trial whose last report is ``report``."""
        ahead = [rung for rung in self.plan.rungs if rung > report] if self.plan.asha else []
        return f"next at {ahead[0]}" if ahead else "to its end"

    def start_trial(self, number: int, curve: dict[int, float]) -> None:
        """Show a trial that starts, with its earlier reports and their values."""
        self.curves[number] = dict(curve)

    def add_report(self, number: int, report: int, value: float, best: tuple[int, float] | None, reports: int) -> None:
        """Show a report of a trial; ``reports`` counts those of all trials."""
        self.curves[number] = {**self.curves.get(number, {}), report: value}
        self.best, self.reports = best, reports

    def end_trial(self, number: int, state: str | None) -> None:
        """Remove a trial that has ended in ``state``, or that waits if ``state`` is None."""
        curve = self.curves.pop(number, {})
        if state is not None:
            self.count_end(state, len(curve))

    def count_end(self, state: str, reports: int) -> None:
        """Count a trial that ended in ``state`` after ``reports``; one that failed saves none."""
        self.counts[state] += 1
        if state != "failed":
            self.saved += self.plan.reports_per_trial - reports


@dataclass
class FinalView(_ShownView):
    """The view of the final trainings, whose reports are read from their folders: workers may run them elsewhere."""

    folders: Sequence[Path] = ()  # in the order in which they are trained
    at_once: int = 1
    ended: dict[int, bool] = field(default_factory=dict)  # whether it failed, by place

    def end_training(self, place: int, failed: bool) -> None:
        """Show that a training has ended."""
        self.ended[place] = failed

    def render(self) -> RenderableType:
        """Return the current view."""
        title = f"final trainings of [bold]{self.plan.config.hyperopt.study_name}[/bold]"
        return Panel(Group(self._head(), self._running()), title=title, title_align="left")

    def _head(self) -> Table:
        total, ended = len(self.folders), self.ended.copy()
        table = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=max(1, total), completed=len(ended), width=30)
        failed = f", {sum(ended.values())} failed" if any(ended.values()) else ""
        table.add_row("trainings", Group(bar), f"{len(ended)} of {total}{failed}")
        table.add_row("time", self._describe_time(len(ended), total - len(ended)))
        return table

    def _running(self) -> Table:
        """Return a row for each training that runs: they begin in their order, as many as fit at once."""
        metric = self.plan.config.hyperopt.metric
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for title in ("training", "report", metric, "so far"):
            table.add_column(title, no_wrap=True)
        running = [folder for place, folder in enumerate(self.folders) if place not in self.ended]
        for folder in running[: self.at_once]:
            values = [float(row[metric]) for row in reports_on_disk(folder)]
            last = f"{values[-1]:.4f}" if values else ""
            report = f"{len(values)}/{self.plan.reports_per_trial}"
            table.add_row(folder.name, report, last, draw_sparkline(values))
        return table


def format_time(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
