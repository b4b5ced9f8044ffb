"""A figure of the report, as data for plotly.js; colours are names of the page's palette, which dark mode changes.

Texts that come from a study are escaped here: plotly.js reads a small HTML in every text.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

from mistral_ner.hyperopt.report.rows import TrialRow
from mistral_ner.hyperopt.watch import shown

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
    """A figure with its title and what it says; ``missing`` says why there is none."""

    name: str
    title: str
    about: str
    data: list[dict[str, Any]] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)
    missing: str = ""


def for_plotly(figure: Figure) -> dict[str, Any]:
    """Return a figure as any plotly reads it, ``plotly.io.from_json`` for one, in the colours of light mode."""

    def coloured(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: coloured(item, name) for name, item in value.items() if name != "minwidth"}
        if key == "colorscale":
            return [[place, _LIGHT[colour]] for place, colour in value]
        return _LIGHT.get(value, value) if key == "color" and isinstance(value, str) else value

    return {"data": [coloured(trace) for trace in figure.data], "layout": coloured(figure.layout)}


def text(value: object) -> str:
    """Return a value as text that plotly.js and HTML show as it is."""
    return html.escape(shown(value), quote=True)


def hover(trial: TrialRow, *more: str) -> str:
    """Return what is shown of a trial under the pointer."""
    settings = [f"{text(name)} = {text(value)}" for name, value in trial.params.items()]
    return "<br>".join([f"<b>trial {trial.number}</b>, {trial.state}", *more, *settings])


def by_state(trials: list[TrialRow]) -> list[tuple[str, list[TrialRow]]]:
    """Return the trials of each state that has some."""
    groups = [(state, [trial for trial in trials if trial.state == state]) for state in STATE_COLOURS]
    return [(state, group) for state, group in groups if group]


def line(name: str, x: list[Any], y: list[Any]) -> dict[str, Any]:
    """Return a trace of one line."""
    return {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y}


def axes(x: str, y: str) -> dict[str, Any]:
    """Return a layout with the titles of both axes."""
    return {"xaxis": {"title": {"text": text(x)}}, "yaxis": {"title": {"text": text(y)}}}
