"""The report of real studies in every state, and of what a hostile study may hold; the live view."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import plotly.io
import pytest
from rich.console import Console

from mistral_ner.config.schema import Config
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.dispatch import run_search
from mistral_ner.hyperopt.report import write_report
from mistral_ner.hyperopt.results import report
from mistral_ner.hyperopt.results.final import Final, Result
from mistral_ner.hyperopt.results.report import settings
from mistral_ner.hyperopt.results.report.figures import build_figures
from mistral_ner.hyperopt.results.report.rows import read_rows
from mistral_ner.hyperopt.results.report.settings import _build_scored_study
from mistral_ner.hyperopt.results.summary import summarise
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.live_view import LiveView, draw_sparkline, estimate_time_left
from mistral_ner.hyperopt.study.opening import lead_study, read_study

EVIL = "</script><img src=x onerror=alert(1)>&<b>"
Objective = Callable[[Config, Callable[[int, dict[str, float]], bool | None]], Any]


def plan(tiny: dict[str, Any], folder: Path, space: dict[str, Any] | None = None, **hyperopt: Any) -> Plan:
    space = space or {
        "learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-1},
        "lora_r": {"type": "choice", "choices": [2, 4, 8]},
    }
    given = {
        "strategy": "optuna",
        "num_trials": 8,
        "max_concurrent": 1,
        "optuna_pruner": "median",
        "optuna_n_startup_trials": 2,
        **hyperopt,
    }
    place = {"results_dir": str(folder), "study_name": "s"}
    return Plan.of({**tiny, "search_space": space, "hyperopt": {**place, **given}})


def learn(config: Config, tell: Callable[[int, dict[str, float]], bool | None]) -> None:
    """A curve that follows from the settings alone: the nearer the learning rate is to 0.01, the better."""
    best = 0.1 / (0.1 + abs(config.training.learning_rate - 1e-2))
    for number in range(1, config.training.reports + 1):
        if tell(number, {"eval_f1": best * number / config.training.reports}):
            return


def fail(config: Config, tell: Any) -> None:
    raise ValueError(EVIL)


def read(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """The page, checked for what no page may have, and its figures."""
    page = write_report([folder], None).read_text(encoding="utf-8")
    figures = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert figures is not None
    assert "<img" not in page.replace(plotly.offline.get_plotlyjs(), "")
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="(?!data:)', page), "the page loads something"
    return page, json.loads(figures[1])


@pytest.fixture
def finished(tiny: dict[str, Any], tmp_path: Path) -> Path:
    made = plan(tiny, tmp_path)
    run_search(made, learn)
    return made.folder


def test_a_search_leaves_its_report_with_every_figure(finished: Path) -> None:
    at_the_end = (finished / "report.html").read_text(encoding="utf-8")
    page, figures = read(finished)
    assert at_the_end.count('class="figure"') == page.count('class="figure"') == len(figures) == 6
    assert {path.stem for path in (finished / "figures").iterdir()} == {figure["name"] for figure in figures}
    summary = json.loads((finished / "summary.json").read_text())
    assert f"{summary['best_value']:.4f}" in page
    history = next(figure for figure in figures if figure["name"] == "history")
    points = {x: y for t in history["data"] if t["mode"] == "markers" for x, y in zip(t["x"], t["y"], strict=True)}
    assert len(points) == 8
    assert points[summary["best_trial"]] == pytest.approx(summary["best_value"])
    assert history["data"][-1]["y"][-1] == pytest.approx(summary["best_value"])


def test_figures_as_files_are_valid_plotly(finished: Path) -> None:
    for path in (finished / "figures").iterdir():
        figure = plotly.io.from_json(path.read_text(encoding="utf-8"))  # raises on a key or colour that is not plotly's
        assert len(figure.data) >= 1


def test_stopped_trials_count_for_the_importance(finished: Path) -> None:
    study = read_study(finished)
    rows = read_rows(study, asdict(summarise(study)))
    assert {trial.state for trial in rows.trials} == {"completed", "stopped early"}
    figure = next(figure for figure in build_figures(rows) if figure.name == "importance")
    shares = dict(zip(figure.data[0]["y"], figure.data[0]["x"], strict=True))
    assert sum(shares.values()) == pytest.approx(1)
    scored, reports, ended = _build_scored_study(rows)
    assert len(scored.trials) == ended == len(rows.trials)
    assert reports == min(len(trial.values) for trial in rows.trials) < 3
    assert f"All are compared at report {reports}" in figure.about
    for trial in scored.trials:  # by what it was worth then, whether it was stopped or not
        assert trial.value == pytest.approx(reports / 3 * 0.1 / (0.1 + abs(trial.params["learning_rate"] - 1e-2)))
    assert shares["learning_rate"] > 0.2, "it decides all; eight trials do not tell more"
    moved = figure.data[0]["error_x"]
    assert max(moved["array"]) + max(moved["arrayminus"]) > 0.2, "and the lines say so"
    assert all(0 <= share - less <= share <= share + more <= 1 for share, less, more in zip(
        figure.data[0]["x"], moved["arrayminus"], moved["array"], strict=True
    ))  # fmt: skip
    assert "10 times" in figure.about


def test_of_very_many_trials_some_are_asked_for_the_importance(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_MOST_FOR_IMPORTANCE", 6)
    study = read_study(finished)
    rows = read_rows(study, asdict(summarise(study)))
    scored, _, ended = _build_scored_study(rows)
    assert (len(scored.trials), ended) == (6, 8)
    figure = next(figure for figure in build_figures(rows) if figure.name == "importance")
    assert "It uses 6 of 8 trials, drawn at random." in figure.about
    assert "From 8 trials this is a rough guess: even the order of the parameters may be chance." in figure.about


def test_a_study_of_failures_says_so_and_escapes_their_reasons(tiny: dict[str, Any], tmp_path: Path) -> None:
    made = plan(tiny, tmp_path, num_trials=3)
    with pytest.raises(UserError, match="no trial of s completed"):
        run_search(made, fail)
    page, figures = read(made.folder)
    assert "All 3 trials failed" in page
    assert "All 3 trials failed" in json.loads((made.folder / "summary.json").read_text())["note"]
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;&amp;&lt;b&gt;" in page
    assert [figure["name"] for figure in figures] == ["timeline"]


def test_one_trial_of_one_parameter(tiny: dict[str, Any], tmp_path: Path) -> None:
    made = plan(tiny, tmp_path, {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2}}, num_trials=1)
    run_search(made, learn)
    page, _ = read(made.folder)
    assert "nothing to compare it with" in page
    assert "it needs two trials with a report" in page
    assert "only one parameter is searched" in page
    assert "nothing to compare it with" in json.loads((made.folder / "summary.json").read_text())["note"]


def stop_all(config: Config, tell: Any) -> None:
    tell(1, {"eval_f1": 0.5})


def test_a_study_without_a_completed_trial(tiny: dict[str, Any], tmp_path: Path) -> None:
    made = plan(tiny, tmp_path, num_trials=3)
    with pytest.raises(UserError, match=r"no trial of s completed \(all were stopped early\)"):
        run_search(made, stop_all)
    page, figures = read(made.folder)
    note = "No trial completed: each was stopped early or failed, so there is no winner."
    assert note in page
    assert json.loads((made.folder / "summary.json").read_text())["note"] == note
    assert "history" in {figure["name"] for figure in figures}
    assert "best_config.yaml" not in page


def test_an_empty_study_and_one_that_runs_are_only_read(tiny: dict[str, Any], tmp_path: Path) -> None:
    made = plan(tiny, tmp_path)
    with lead_study(made) as study:
        assert "No trial has started yet" in read(made.folder)[0]
        asked = study.ask()
        study.report(asked.number, 1, {"eval_f1": 0.25})
        journal = made.folder / "study.journal"
        with journal.open("ab") as file:
            file.write(b'{"op_code": 5, "half')  # what a reader sees while the leader writes
        before = journal.read_bytes()
        page, figures = read(made.folder)
        assert journal.read_bytes() == before
        assert "No trial has completed yet" in page
        assert next(f for f in figures if f["name"] == "curves")["data"][0]["y"] == [0.25]


def test_values_from_a_study_cannot_become_markup_or_colours(finished: Path) -> None:
    study = read_study(finished)
    rows = read_rows(study, asdict(summarise(study)))
    rows.kinds[EVIL] = "category"
    for trial in rows.trials:
        trial.params[EVIL] = "@good" if trial.number % 2 else EVIL
    drawn = json.dumps([figure.data for figure in build_figures(rows)])
    assert "@good" in drawn
    assert "<img" not in drawn
    assert "<script" not in drawn


def test_final_is_shown_with_whatever_it_holds(finished: Path) -> None:
    (finished / "final").mkdir()
    values: dict[str, Any] = {"dev": {"43": 0.7, "44": 0.72}, "dev_mean": 0.71, "dev_std": 0.0141, "dev_f1": 0.71234}
    values["dev_f1_interval"] = (0.69, 0.73)
    first = Result(trial=2, default=False, params={"lora_r": 4}, search_value=0.75, **values)
    first.test_f1, first.test_f1_interval = 0.65, (0.6, 0.7)
    other = Result(trial=None, default=True, params={}, search_value=None, **values)
    other.distinguishable = False
    other.out = "cannot win: 0.0300 behind trial_0002 after seed 44"
    cut = "seed 45 was left out"
    final = asdict(Final("eval_f1", [43, 44], 44, [first, other], {}, [44], cut))
    for written_there, wanted in (
        (final, "0.7123 (0.6900 to 0.7300)"),
        (final, "<td>0.6500 (0.6000 to 0.7000)</td><td>0.7500</td>"),
        (final, "<td>winner</td><td>trial 2</td><td>0.7100 ± 0.0141</td>"),
        (final, "<td>default config</td>"),
        (final, "not distinguishable from the winner; cannot win: 0.0300 behind trial_0002 after seed 44"),
        (final, "0.7123 (0.6900 to 0.7300) (new seed 44)"),
        (final, "Cut, for want of time: seed 45 was left out."),
        ({}, "95% interval"),
    ):
        (finished / "final" / "final.json").write_text(json.dumps(written_there))
        assert wanted in re.sub(r' data-name="[^"]*"', "", read(finished)[0])


def test_several_studies_share_an_axis_or_are_refused(tiny: dict[str, Any], tmp_path: Path, finished: Path) -> None:
    other = plan(
        tiny, tmp_path, strategy="random", optuna_sampler="Random", study_name="t", optuna_pruner="none", num_trials=3
    )
    run_search(other, learn)
    page = write_report([finished, other.folder], tmp_path / "c.html").read_text(encoding="utf-8")
    assert "s (optuna)" in page
    assert "t (random)" in page
    rows = read_rows(read_study(other.folder), asdict(summarise(read_study(other.folder))))
    points = rows.best_so_far()
    assert [spent for spent, _ in points] == list(range(1, 10))
    assert all(later[1] >= earlier[1] for earlier, later in itertools.pairwise(points))
    loss = plan({**tiny, "training": {**tiny["training"], "metric": "eval_loss", "mode": "min"}}, tmp_path,
                study_name="u", metric="eval_loss", mode="min")  # fmt: skip
    with lead_study(loss) as study:
        study.ask()
    with pytest.raises(UserError, match="different metrics"):
        write_report([finished, loss.folder], tmp_path / "d.html")


def test_a_folder_without_a_study(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study in"):
        write_report([tmp_path], None)


def test_the_report_never_breaks_a_search(tiny: dict[str, Any], tmp_path: Path) -> None:
    made = plan(tiny, tmp_path, num_trials=2)
    made.folder.mkdir()
    (made.folder / "figures").write_text("in the way")
    assert run_search(made, learn).best_trial is not None
    assert report.__doc__


# --- the live view ----------------------------------------------------------------------------------------------


def test_the_view_counts(tiny: dict[str, Any], tmp_path: Path) -> None:
    made = plan(tiny, tmp_path)
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    with LiveView(made, console) as view:
        for number, values in ((0, [0.1, 0.2, 0.4]), (1, [0.1])):
            view.start_trial(number, {})
            for at, value in enumerate(values, 1):
                view.add_report(number, at, value, (0, 0.4), 3 * number + at)
        view.end_trial(0, "completed")
        view.end_trial(1, "stopped early")
        view.end_trial(3, "failed")
        view.start_trial(2, {})
        view.add_report(2, 1, 0.3, (0, 0.4), 5)
        with console.capture() as capture:
            console.print(view.render())
    said = capture.get()
    for wanted in (
        "3 of 8",
        "1 completed",
        "1 failed",
        "1 stopped early",
        "5 spent, 2 saved",
        "0.4000  trial 0",
        "1/3",
        "0.3000",
    ):
        assert wanted in said


def test_sparkline_and_time_left() -> None:
    assert draw_sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert draw_sparkline([0.3, 0.3]) == "▁▁"
    assert draw_sparkline([]) == ""
    assert estimate_time_left(100, 5, 20) == 300
    assert estimate_time_left(100, 1, 20) is None


def test_the_view_hides_lines_and_gives_the_log_back(tiny: dict[str, Any], tmp_path: Path) -> None:
    import sys

    handler = logging.StreamHandler(sys.__stderr__)
    root = logging.getLogger()
    root.addHandler(handler)
    with contextlib.ExitStack() as undo:
        undo.callback(root.removeHandler, handler)
        with LiveView(plan(tiny, tmp_path), Console(file=io.StringIO(), force_terminal=True)):
            assert handler.level == logging.WARNING
        assert handler.level == logging.NOTSET
        assert handler.stream is sys.__stderr__
