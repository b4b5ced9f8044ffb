"""The notebook in docs/: a kernel runs its cells, and their outputs hold the live view, the result and the report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """The outputs of each code cell."""
    (docs := tmp_path_factory.mktemp("project") / "docs").mkdir()
    (docs.parent / "conf").symlink_to(ROOT / "conf")
    notebook = nbformat.read(ROOT / "docs/search.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": docs}}).execute()
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def shown(outputs: list[Any], kind: str = "text/html") -> list[str]:
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def test_the_cell_of_the_search_holds_the_last_state_of_its_live_view(finished: list[list[Any]]) -> None:
    views = [html for html in shown(finished[1]) if "optuna search" in html and "<pre" in html and "so far" in html]
    assert len(views) == 1, "one output, which was updated"
    text = re.sub(r"<[^>]+>", "", views[0])
    assert "3 of 3" in text
    assert "3 completed" in text
    assert re.search(r"best eval_f1 +\d\.\d{4} +trial \d", text)
    assert not shown(finished[1], "application/vnd.jupyter.widget-view+json"), "it needs no widget"


def test_what_is_found_shows_itself(finished: list[list[Any]]) -> None:
    table = shown(finished[1])[-1]
    assert "<th>trials</th><td>3 completed, 0 stopped early, 0 failed</td>" in table
    found = re.search(r"<th>best eval_f1</th><td>(\d\.\d+)</td>", table)
    assert found is not None
    [best] = shown(finished[2], "text/plain")
    assert f"{float(re.findall(r'0[.][0-9]+', best)[0]):.4f}" == found[1]
    assert "PosixPath" in best
    assert "learning_rate" in best
    [trials] = shown(finished[3])
    assert trials.partition("<tbody>")[2].count("<tr>") == 3
    assert all(f"<th>{name}</th>" in trials for name in ("state", "value", "reports", "learning_rate", "lora_r"))


def test_the_report_is_in_the_last_cell(finished: list[list[Any]]) -> None:
    [page] = shown(finished[4])
    assert page.startswith('<iframe srcdoc="&lt;!')
    assert page.count('"') == 4, "the page is escaped"
    assert "trial" in page


def test_nothing_was_written_to_stderr(finished: list[list[Any]]) -> None:
    lines = [output["text"] for outputs in finished for output in outputs if output.get("name") == "stderr"]
    assert lines == []
