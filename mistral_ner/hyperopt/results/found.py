"""What a search gives back to a script or a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistral_ner.hyperopt.results import report
from mistral_ner.hyperopt.results.summary import Summary, summarise
from mistral_ner.hyperopt.spec.plan import trial_name
from mistral_ner.hyperopt.study.event_log import format_value
from mistral_ner.hyperopt.study.opening import read_study
from mistral_ner.training.checkpoint import best_report, reports_on_disk

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Result:
    """One trial: the metrics of its best report, its settings by parameter name, and its folder."""

    metrics: dict[str, Any]
    config: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class ReportPage:
    """``report.html`` of a study; a notebook shows it as it is."""

    path: Path

    def _repr_html_(self) -> str:
        page = escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 900px; border: 0"></iframe>'


@dataclass
class SearchResult(Summary):
    """The figures of a search, its trials and its report; a notebook shows the figures as a table."""

    folder: Path = Path()  # of the study

    @property
    def best(self) -> Result:
        """The best trial."""
        assert self.best_trial is not None, "a search without a complete trial raises"
        folder = self.folder / trial_name(self.best_trial)
        row = best_report(reports_on_disk(folder), self.metric, 1 if self.mode == "max" else -1)
        return Result(row or {self.metric: self.best_value}, dict(self.best_params), folder)

    @property
    def trials(self) -> DataFrame:
        """The table of trials in ``trials.csv``: number, state, value, reports, seconds, each setting, and reason."""
        import pandas as pd

        return pd.read_csv(self.folder / "trials.csv", index_col="trial")

    def report(self) -> ReportPage:
        """Write ``report.html`` anew and return it."""
        study = read_study(self.folder)
        return ReportPage(report.write(study, vars(summarise(study))))

    def _repr_html_(self) -> str:
        rows = {
            "study": self.folder,
            f"best {self.metric}": "none" if self.best_value is None else f"{self.best_value:.4f}",
            "of trial": self.best_trial,
            **{name: format_value(value) for name, value in self.best_params.items()},
            "trials": f"{self.n_complete} completed, {self.n_pruned} stopped early, {self.n_failed} failed",
            "reports": f"{self.reports_run} of {self.reports_full}",
        }
        cells = "".join(f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in rows.items())
        return f"<table>{cells}</table>"
