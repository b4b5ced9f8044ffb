"""A figure of the report, as data for plotly.js; its colours are names of the page's palette, which dark mode changes.

Texts of a study are escaped here, because plotly.js reads some HTML tags in every text.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

from mistral_ner.hyperopt.results.report.rows import TrialRow
from mistral_ner.hyperopt.study.event_log import format_value

STATE_COLOURS = {"completed": "@good", "stopped early": "@mute", "failed": "@bad", "unfinished": "@warn"}
_LIGHT = {
    "@accent": "#2f6fde",
    "@good": "#1f9d63",
    "@mute": "#97a1af",
    "@bad": "#d64545",
    "@warn": "#d99a1c",
    "@card": "#ffffff",
    "@line2": "#1f9d63",
}


@dataclass(frozen=True)
class Figure:
    """A figure with its title and a sentence about it; ``missing`` says why there is nothing to draw."""

    name: str
    title: str
    about: str
    data: list[dict[str, Any]] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)
    missing: str = ""


def for_plotly(figure: Figure) -> dict[str, Any]:
    """Return a figure that ``plotly.io.from_json`` can read, in the colours of light mode."""

    def colour(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: colour(item, name) for name, item in value.items() if name != "minwidth"}
        if key == "colorscale":
            return [[place, _LIGHT[palette_name]] for place, palette_name in value]
        return _LIGHT.get(value, value) if key == "color" and isinstance(value, str) else value

    return {"data": [colour(trace) for trace in figure.data], "layout": colour(figure.layout)}


def escape(value: object) -> str:
    """Return a value as text, escaped for HTML and plotly.js."""
    return html.escape(format_value(value), quote=True)


def describe_trial(trial: TrialRow, *more: str) -> str:
    """Return the text that the pointer shows for a trial."""
    settings = [f"{escape(name)} = {escape(value)}" for name, value in trial.params.items()]
    verdict = [escape(trial.reason)] if trial.reason and trial.state == "stopped early" else []
    return "<br>".join([f"<b>trial {trial.number}</b>, {trial.state}", *more, *verdict, *settings])


def group_by_state(trials: list[TrialRow]) -> list[tuple[str, list[TrialRow]]]:
    """Return each state that occurs, with its trials."""
    groups = [(state, [trial for trial in trials if trial.state == state]) for state in STATE_COLOURS]
    return [(state, group) for state, group in groups if group]


def build_line(name: str, x: list[Any], y: list[Any]) -> dict[str, Any]:
    """Return the trace of a line."""
    return {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y}


def build_axes(x: str, y: str) -> dict[str, Any]:
    """Return a layout with titles for both axes."""
    return {"xaxis": {"title": {"text": escape(x)}}, "yaxis": {"title": {"text": escape(y)}}}
