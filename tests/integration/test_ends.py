"""Every way in which a trial can end, on every engine: how the study records it, and that the next trial works."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from arithmetic import REPORTS, config
from optuna.trial import FrozenTrial, TrialState

from mistral_ner.hyperopt import search
from mistral_ner.hyperopt.sampling.samplers import INFEASIBLE
from mistral_ner.hyperopt.study.opening import read_study
from mistral_ner.hyperopt.study.study import FAILURES, REASON, WORKER_DIED
from tests import warm

ROOT = Path(__file__).parents[2]

# By end: how often it is tried, the reports that the study then has, and the reason of its failure, if it is one.
HEALTHY = None
ENDS: dict[str, tuple[int, int | None, str | None]] = {
    "whole": (1, None, HEALTHY),
    "raises": (1, 0, "ValueError: broken on purpose"),
    "raises later": (1, 3, "ValueError: broken on purpose"),
    "exits": (1, 0, "SystemExit: 3"),
    "nan": (1, 1, "eval_f1 is not finite"),
    "infinite": (1, 1, "eval_f1 is not finite"),
    "out of memory on the device": (1, 0, "OutOfMemoryError: CUDA out of memory"),
    "out of memory": (1, 0, "MemoryError"),
    "silent": (1, 0, "ended without a report of eval_f1"),
    "another metric": (1, 0, "KeyError: no report has the metric 'eval_f1'; there are: eval_loss"),
    "the disk is slow once": (2, None, HEALTHY),
    "the network is gone": (2, 0, "ConnectionResetError: [Errno 104] Connection reset by peer"),
    "killed once": (2, None, HEALTHY),
    "killed": (2, 1, WORKER_DIED),
    "poor": (1, None, HEALTHY),
    "best": (1, None, HEALTHY),  # goes on from ASHA's rung, whoever comes there first; of equal ones the later may not
}
NAMES = list(ENDS)


def ends(names: list[str]) -> Callable[[Any, Callable[[int, dict[str, float]], Any]], None]:
    """Return an objective that ends as the trial's rank says; made in a function, so that workers get a copy."""

    def objective(trial: Any, report: Callable[[int, dict[str, float]], Any]) -> None:
        import os
        import signal
        from pathlib import Path

        from mistral_ner.training.checkpoint import Progress, reports_on_disk

        folder, how = Path(trial.output_dir), names[trial.model.lora_r - 1]
        progress = Progress(folder, "max", "eval_f1", reports=reports_on_disk(folder))
        with (folder / "tries.txt").open("a") as file:
            file.write(f"from {len(progress.reports) + 1}\n")
        first = (folder / "tries.txt").read_text().count("from") == 1
        for number in range(len(progress.reports) + 1, trial.training.reports + 1):
            if how == "raises" or (how == "raises later" and number == 4):
                raise ValueError("broken on purpose")
            if how == "exits":
                raise SystemExit(3)
            if how == "out of memory on the device":
                import torch

                raise torch.OutOfMemoryError("CUDA out of memory")
            if how == "out of memory":
                raise MemoryError
            if how == "silent":
                return
            if how == "the disk is slow once" and first and number == 2:
                raise TimeoutError("the disk is slow")
            if how == "the network is gone":
                raise ConnectionResetError(104, "Connection reset by peer")
            if (how == "killed once" and first and number == 3) or (how == "killed" and number == 2):
                os.kill(os.getpid(), signal.SIGKILL)
            special = {"nan": float("nan"), "infinite": float("inf"), "poor": -1.0, "best": 0.6}
            value = special.get(how, 0.5) + number / 100
            metrics = {"eval_loss": 1.0} if how == "another metric" else {"eval_f1": value}
            if how not in ("nan", "infinite", "another metric"):
                progress.reports.append({"report": number, **metrics})
                progress._write()
            if report(number, metrics):
                return

    return objective


def to_run(workers: bool) -> list[str]:
    """The ends of one search, in order, each broken one followed by others; without workers nothing can be killed."""
    broken = [name for name in NAMES if name not in ("whole", "poor", "best")]
    chosen = [name for name in broken if workers or not name.startswith("killed")]
    return ["best", "whole", "whole", *chosen, "whole", "poor"]


def settings(workers: bool, strategy: str) -> dict[str, Any]:
    return {
        "num_trials": len(to_run(workers)),
        "enqueue": [{"lora_r": NAMES.index(name) + 1} for name in to_run(workers)],
        "enqueue_default": False,
        "max_concurrent": 2 if workers else 1,
        "max_failures": 1,
        "max_failure_rate": 1.0,
        # a trial that breaks at report 4 is not stopped before, and none is called again because it had paused
        **(
            {"asha_grace_period": 6}
            if strategy == "combined"
            else {"optuna_pruner": "median", "optuna_n_startup_trials": 3}
        ),
    }


def check(folder: Path, workers: bool) -> list[FrozenTrial]:
    """Each trial of the study in ``folder`` ended as it should."""
    trials = read_study(folder).trials
    assert len(trials) == len(to_run(workers))
    for name, trial in zip(to_run(workers), trials, strict=True):
        tries, reports, reason = ENDS[name]
        made = (folder / f"trial_{trial.number:04d}/tries.txt").read_text().split("\n")[:-1]
        assert len(made) == tries, name
        assert len(trial.user_attrs.get(FAILURES, [])) == tries - 1, name
        assert list(trial.intermediate_values) == list(range(1, len(trial.intermediate_values) + 1)), name
        assert trial.user_attrs.get(REASON) == reason, name
        if reason is None:
            whole = len(trial.intermediate_values) == REPORTS
            assert trial.state == (TrialState.COMPLETE if whole else TrialState.PRUNED), name
        else:
            assert trial.state == TrialState.FAIL, name
            assert len(trial.intermediate_values) == reports, name
        assert (INFEASIBLE in trial.constraints) == name.startswith("out of memory"), name
    assert sorted(path.name for path in folder.glob("trial_*")) == [f"trial_{n:04d}" for n in range(len(trials))]
    assert trials[0].state == TrialState.COMPLETE
    assert trials[-1].state == TrialState.PRUNED, "the poor one is stopped early"
    return trials


@pytest.mark.usefixtures("ray_for_all")
@pytest.mark.parametrize(("strategy", "workers"), [("combined", True), ("optuna", True), ("optuna", False)])
def test_every_end(tmp_path: Path, strategy: str, workers: bool) -> None:
    made = config(tmp_path, strategy, **settings(workers, strategy))
    made["search_space"] = {
        "lora_r": {"type": "choice", "choices": list(range(1, len(NAMES) + 1))},
        "learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-1},  # without it all settings are tried soon
    }
    summary = search(made, ends(NAMES))
    trials = check(tmp_path / "s", workers)
    reasons = [trial.user_attrs[REASON] for trial in trials if trial.state == TrialState.FAIL]
    assert summary.failures == {reason: reasons.count(reason) for reason in reasons}
    if workers:
        began = (tmp_path / "s" / f"trial_{to_run(workers).index('killed once'):04d}/tries.txt").read_text()
        assert began == "from 1\nfrom 3\n", "it goes on from its last report"


APP = """
import hydra
import mistral_ner.hyperopt.sweepers

@hydra.main(config_path={conf!r}, config_name="config")
def main(cfg):
    from mistral_ner.hyperopt.engines.trial import run_job
    from test_ends import NAMES, ends
    return run_job(cfg, ends(NAMES))

main()
"""


def through_hydra(folder: Path, data: dict[str, str], *overrides: str) -> subprocess.CompletedProcess[str]:
    app = folder / "app.py"
    app.write_text(APP.format(conf=str(ROOT / "conf")))
    others = ("per_device_train_batch_size", "warmup_ratio", "weight_decay")
    choices = ",".join(str(index + 1) for index in range(len(NAMES)))
    return warm.run_text(
        [
            *(str(app), "-m", "hyperopt=optuna", "model=tiny", f"training.reports={REPORTS}"),
            *(f"~search_space.{name}" for name in others),
            *(f"search_space.lora_r.choices=[{choices}]", f"hyperopt.results_dir={folder}", "hyperopt.study_name=s"),
            *("data=files", "data.max_length=64", *(f"data.{key}={path}" for key, path in data.items())),
            *("training.num_epochs=2", "training.threads=1", "hyperopt.final.top_k=1", "hyperopt.final.seeds=1"),
            *overrides,
        ],
        folder,
        {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])},
    )


def overrides(values: dict[str, Any]) -> list[str]:
    """Settings of ``hyperopt`` as a person types them."""
    enqueued = "[" + ",".join(f"{{lora_r:{row['lora_r']}}}" for row in values.pop("enqueue")) + "]"
    return [f"hyperopt.enqueue={enqueued}", *(f"hyperopt.{name}={value}" for name, value in values.items())]


@pytest.mark.parametrize("launcher", ["basic", "ray"])
def test_every_end_of_a_hydra_job(tmp_path: Path, toy_files: dict[str, str], launcher: str) -> None:
    workers = launcher == "ray"
    done = through_hydra(tmp_path, toy_files, f"hydra/launcher={launcher}", *overrides(settings(workers, "optuna")))
    assert done.returncode == 0, done.stdout + done.stderr
    check(tmp_path / "s", workers)
    assert "1 x ValueError: broken on purpose" in done.stdout.replace("2 x ", "1 x ")
    assert "Traceback" not in done.stderr
    assert "best inf" not in done.stdout


def test_nothing_completes(tmp_path: Path, toy_files: dict[str, str]) -> None:
    """The command's exit code is not 0, there is no best config, and the reasons are grouped."""
    enqueue = [{"lora_r": NAMES.index(name) + 1} for name in ("raises", "nan", "raises", "infinite")]
    done = through_hydra(
        tmp_path,
        toy_files,
        *overrides({"enqueue": enqueue, "enqueue_default": False, "num_trials": 4}),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    said = " ".join(done.stderr.split())
    assert "no trial of s completed (2 x ValueError: broken on purpose; 2 x eval_f1 is not finite); see " in said
    assert not (tmp_path / "s/best_config.yaml").exists()
