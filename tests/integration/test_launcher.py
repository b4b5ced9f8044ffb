"""``optuna`` and ``random`` as jobs of Hydra launchers, through Hydra itself; only the training is arithmetic."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState

from mistral_ner.hyperopt.study.opening import read_study
from tests import warm

ROOT = Path(__file__).parents[2]

APP = """
import hydra
import mistral_ner.hyperopt.sweepers

@hydra.main(config_path={conf!r}, config_name="config")
def main(cfg):
    from mistral_ner.hyperopt.engines.trial import run_job
    from arithmetic import arithmetic
    return run_job(cfg, arithmetic())

main()
"""


@pytest.mark.parametrize(("strategy", "launcher"), [("optuna", "ray"), ("random", "ray"), ("optuna", "joblib")])
def test_a_launcher_runs_jobs_side_by_side(tmp_path: Path, strategy: str, launcher: str) -> None:
    """Ray's, whose free slots are filled at once, and one that returns when all it was given are done."""
    app = tmp_path / "app.py"
    app.write_text(APP.format(conf=str(ROOT / "conf")))
    pruner = ["hyperopt.optuna_pruner=median", "hyperopt.optuna_n_startup_trials=2"] if strategy == "optuna" else []
    done = warm.run_text(
        [
            *(str(app), "-m", f"hyperopt={strategy}", f"hydra/launcher={launcher}", "model=tiny"),
            *("hyperopt.num_trials=8", "hyperopt.max_concurrent=2", "hyperopt.study_name=s"),
            *(f"hyperopt.results_dir={tmp_path}", "training.weight_decay=0.02", *pruner),
            *(
                "hyperopt.final.top_k=1",
                "hyperopt.final.seeds=1",
                "debug=quick",
                "training.reports=9",
                "data.max_train_sentences=100",
            ),
            "+search_space.model_name={type: choice, choices: ['8 model=x', tiny], path: data.cache_dir}",
        ],
        tmp_path,
        {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    trials = read_study(tmp_path / "s").trials
    assert [trial.number for trial in trials] == list(range(8))
    states = {trial.state for trial in trials}
    assert states <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert TrialState.COMPLETE in states
    assert "weight_decay" not in trials[0].params, "a plain value pins a searched key"
    for trial in trials:
        folder = tmp_path / "s" / f"trial_{trial.number:04d}"
        trained = yaml.safe_load((folder / "config.yaml").read_text())
        assert trained["training"]["learning_rate"] == pytest.approx(trial.params["learning_rate"])
        assert trained["training"]["weight_decay"] == 0.02
        assert Path(trained["data"]["cache_dir"]).name == trial.params["model_name"], "a value of a space is data"
        assert not (folder / ".hydra").exists(), "a second config beside it would say nothing of the settings"
