"""The report of a study: an HTML file that opens offline, one of the final model's errors, and its figures as files.

python -m mistral_ner.hyperopt.report                       the newest study in multirun/
python -m mistral_ner.hyperopt.report multirun/STUDY        at any time, also while it runs
python -m mistral_ner.hyperopt.report a b c -o compare.html  several, overlaid
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mistral_ner import files
from mistral_ner.hyperopt.results.report.errors_page import build_errors_page
from mistral_ner.hyperopt.results.report.figure import Figure, for_plotly
from mistral_ner.hyperopt.results.report.figures import build_comparison, build_figures
from mistral_ner.hyperopt.results.report.mistakes import read_findings
from mistral_ner.hyperopt.results.report.page import build_comparison_page, build_study_page
from mistral_ner.hyperopt.results.report.parts import ERRORS_PAGE, REPORT_PAGE
from mistral_ner.hyperopt.results.report.rows import read_rows
from mistral_ner.hyperopt.study.study import Study


def write(study: Study, summary: Mapping[str, Any]) -> Path:
    """Write ``report.html``, ``errors.html`` and ``figures/`` of a study in any state into its folder.

    Returns:
        The path of ``report.html``.

    Args:
        study: a study that this process leads or reads.
        summary: the fields of :class:`mistral_ner.hyperopt.results.summary.Summary`.
    """
    rows, folder = read_rows(study, summary), study.plan.folder
    figures, findings = build_figures(rows), read_findings(folder)
    _write_figures(folder / "figures", figures)
    if findings is None:
        (folder / ERRORS_PAGE).unlink(missing_ok=True)
    else:
        files.write_text(folder / ERRORS_PAGE, build_errors_page(rows.name, findings))
    path = folder / REPORT_PAGE
    files.write_text(path, build_study_page(rows, figures, findings))
    return path


def compare(studies: Sequence[tuple[Study, Mapping[str, Any]]], path: Path) -> Path:
    """Write a page that overlays several studies, each given as the arguments of :func:`write`; return its path."""
    rows = [read_rows(study, summary) for study, summary in studies]
    files.write_text(path, build_comparison_page(rows, build_comparison(rows)))
    return path


def _write_figures(folder: Path, figures: list[Figure]) -> None:
    folder.mkdir(exist_ok=True)
    for figure in figures:
        if not figure.missing:
            files.write_json(folder / f"{figure.name}.json", for_plotly(figure))
