"""The notebook in docs/: its cells are run as a script, and what the last line of a cell shows is rendered."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def show(source: str, names: dict[str, Any]) -> Any:
    """Run a cell and return the value of its last line, as a notebook would show it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (docs := tmp_path / "docs").mkdir()
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    notebook = json.loads(Path(shutil.copy(ROOT / "docs/search.ipynb", docs)).read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in notebook["cells"]), "it is kept without outputs"
    monkeypatch.chdir(docs)
    names: dict[str, Any] = {}
    _, found, best, trials, report = [show(cell, names) for cell in cells]

    table = found._repr_html_()
    assert f"<th>best eval_f1</th><td>{found.best_value:.4f}</td>" in table
    assert "<th>trials</th><td>3 completed, 0 stopped early, 0 failed</td>" in table
    assert best[0] == found.best_value
    assert set(best[1]) == set(found.best_params)
    assert best[2] == found.folder / f"trial_{found.best_trial:04d}"
    assert len(trials) == 3
    assert trials["value"].iloc[0] == found.best_value
    assert {"state", "reports", "learning_rate", "lora_r"} <= set(trials.columns)
    assert report.path == found.folder / "report.html"
    page = report._repr_html_()
    assert page.startswith('<iframe srcdoc="&lt;!')
    assert page.count('"') == 4, "the page is escaped"
