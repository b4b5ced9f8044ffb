"""One small search through the real command, for ``make test-fast``: does the whole road hold?"""

from __future__ import annotations

import json
from pathlib import Path

from command import launch, shown


def test_a_small_search_leaves_a_model(tmp_path: Path, small: list[str]) -> None:
    done = launch(
        tmp_path,
        *("-m", "hyperopt=combined", *small, "hyperopt.num_trials=2", "hyperopt.max_concurrent=1"),
        *("hyperopt.final.top_k=1", "hyperopt.final.seeds=1", "hyperopt.study_name=s"),
        new=True,
    )
    assert done.returncode == 0, shown(done)
    study = tmp_path / "multirun/s"
    summary = json.loads((study / "summary.json").read_text())
    assert (summary["n_trials"], summary["n_failed"]) == (2, 0)
    assert (study / "best_config.yaml").is_file()
    assert (study / "report.html").is_file()
    assert (study / "final/adapter_model.safetensors").is_file()
