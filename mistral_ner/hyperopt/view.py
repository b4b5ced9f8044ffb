"""The live view of a search in a terminal: what runs, what is over, what it cost; drawn from reports in memory."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mistral_ner.hyperopt.plan import Plan

REFRESHES_PER_SECOND = 2
_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float]) -> str:
    """Return values as a line of bars between their least and greatest; a bar for each."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    span = high - low
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1)) if span > 0 else 0] for value in values)


def time_left(spent: float, trials_ended: int, num_trials: int) -> float | None:
    """Estimate the seconds that a search still takes: at the pace of the trials that have ended; None before two."""
    return spent / trials_ended * max(0, num_trials - trials_ended) if trials_ended >= 2 else None


class NoView:
    """What is drawn where there is no terminal: nothing."""

    def __enter__(self) -> NoView:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        pass

    def started_trial(self, number: int, curve: dict[int, float]) -> None:
        """A trial runs, from the reports it has made before."""

    def reported(self, number: int, report: int, value: float, best: tuple[float, int] | None, reports: int) -> None:
        """A trial made a report; ``reports`` is how many all trials have made."""

    def ended(self, number: int, state: str | None) -> None:
        """A trial is over, or waits: ``state`` is None."""


@dataclass
class View(NoView):
    """A context manager that keeps the view at the foot of the terminal; ``seconds`` returns the time so far."""

    plan: Plan
    console: Console = field(default_factory=Console)
    curves: dict[int, dict[int, float]] = field(default_factory=dict)  # of the running trials
    counts: dict[str, int] = field(default_factory=lambda: {"completed": 0, "stopped early": 0, "failed": 0})
    reports: int = 0
    reports_of_ended: int = 0
    best: tuple[float, int] | None = None
    started: float = field(default_factory=time.monotonic)
    ended_before: int = 0
    _live: Live | None = None
    _streams: list[tuple[logging.StreamHandler, object, int]] = field(default_factory=list)  # type: ignore[type-arg]

    def __enter__(self) -> View:
        self._live = Live(
            console=self.console, get_renderable=self.render, refresh_per_second=REFRESHES_PER_SECOND, transient=True
        )
        self._live.start()
        # lines for a log scroll by above the view, and only those that ask for attention
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

    def render(self) -> RenderableType:
        """Return the view as it is now."""
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
        saved = over * self.plan.reports_per_trial - self.reports_of_ended
        table.add_row("reports", f"{self.reports} spent, {saved} saved by stopping early")
        if self.best is not None:
            best = Text.assemble((f"{self.best[0]:.4f}", "bold"), f"  trial {self.best[1]}")
            table.add_row(f"best {self.plan.config.hyperopt.metric}", best)
        seconds = time.monotonic() - self.started
        left = time_left(seconds, over - self.ended_before, total - self.ended_before)
        table.add_row("time", f"{clock(seconds)}" + (f", about {clock(left)} left" if left is not None else ""))
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
                *(f"{curve[last]:.4f}" if reports else "", sparkline([curve[report] for report in reports])),
            )
        return table

    def _rung(self, report: int) -> str:
        """Which rung a trial is on its way to."""
        ahead = [rung for rung in self.plan.rungs if rung > report] if self.plan.asha else []
        return f"next at {ahead[0]}" if ahead else "to its end"

    def started_trial(self, number: int, curve: dict[int, float]) -> None:
        """A trial runs, from the reports it has made before."""
        self.curves[number] = dict(curve)

    def reported(self, number: int, report: int, value: float, best: tuple[float, int] | None, reports: int) -> None:
        """A trial made a report; ``reports`` is how many all trials have made."""
        self.curves[number] = {**self.curves.get(number, {}), report: value}
        self.best, self.reports = best, reports

    def ended(self, number: int, state: str | None) -> None:
        """A trial is over, or waits: ``state`` is None."""
        curve = self.curves.pop(number, {})
        if state is not None:
            self.counts[state] += 1
            self.reports_of_ended += len(curve)


def clock(seconds: float) -> str:
    """Return a time as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
