"""The report of a study: one HTML file that opens offline, and its figures as files.

python -m mistral_ner.hyperopt.report                       the newest study in multirun/
python -m mistral_ner.hyperopt.report multirun/STUDY        at any time, while it runs too
python -m mistral_ner.hyperopt.report a b c -o compare.html  several, overlaid
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mistral_ner import files
from mistral_ner.hyperopt.report.figure import Figure, for_plotly
from mistral_ner.hyperopt.report.figures import study_figures, versus
from mistral_ner.hyperopt.report.page import comparison_page, study_page
from mistral_ner.hyperopt.report.rows import StudyRows, gather
from mistral_ner.hyperopt.study import Study


def write(study: Study, summary: Mapping[str, Any]) -> Path:
    """Write ``report.html`` and ``figures/`` into the study's folder, whatever state it is in; returns the page.

    Args:
        study: led or looked at by this process.
        summary: the fields of :class:`mistral_ner.hyperopt.results.Summary`.
    """
    rows = gather(study, summary)
    figures = study_figures(rows)
    _write_figures(study.plan.folder / "figures", figures)
    path = study.plan.folder / "report.html"
    files.write_text(path, study_page(rows, figures))
    return path


def compare(studies: Sequence[tuple[Study, Mapping[str, Any]]], path: Path) -> Path:
    """Write one page that overlays several studies; the arguments of :func:`write` for each."""
    rows = [gather(study, summary) for study, summary in studies]
    files.write_text(path, comparison_page(rows, versus(rows)))
    return path


def _write_figures(folder: Path, figures: list[Figure]) -> None:
    folder.mkdir(exist_ok=True)
    for figure in figures:
        if not figure.missing:
            files.write_json(folder / f"{figure.name}.json", for_plotly(figure))


__all__ = ["StudyRows", "compare", "write"]
