"""``optuna`` and ``random`` as jobs of Slurm: free slots, killed jobs, jobs left behind; the training is arithmetic.

Slurm itself is not here. ``submitit_local`` runs the same jobs as processes, and three scripts stand for the commands
that submitit calls, so that what a cluster would be asked for is seen.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import yaml
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import LocalLauncher, SlurmLauncher
from optuna.trial import TrialState

from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster.jobs import GIVEN, check_launcher, is_submitit
from mistral_ner.hyperopt.study.opening import read_study
from mistral_ner.hyperopt.study.study import FAILURES, REASON, WORKER_DIED
from tests import warm

ROOT = Path(__file__).parents[2]

APP = """
import os, signal, time
from pathlib import Path
import hydra
import mistral_ner.hyperopt.sweepers

def odd(objective, rule):
    def call(config, report):
        folder = Path(config.output_dir)
        if rule == "long" and folder.name == "trial_0000":  # until the last trial has reported
            while not (folder.parent / "trial_0003" / "calls.txt").exists():
                time.sleep(0.1)
        if rule == "long" and folder.name == "trial_0001" and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if rule == "waits" and folder.name == "trial_0001" and not (folder / "waits_2").exists():
            (folder / f"waits_{{1 + (folder / 'waits_1').exists()}}").write_text(str(os.getpid()))
            time.sleep(600)
        objective(config, report)
    return call

@hydra.main(config_path={conf!r}, config_name="config")
def main(cfg):
    from mistral_ner.hyperopt.engines.trial import run_job
    from arithmetic import arithmetic
    return run_job(cfg, odd(arithmetic(), {rule!r}))

main()
"""


def command(tmp_path: Path, rule: str, *more: str, strategy: str = "optuna") -> list[str]:
    app = tmp_path / "app.py"
    app.write_text(APP.format(conf=str(ROOT / "conf"), rule=rule))
    return [
        *(str(app), "-m", f"hyperopt={strategy}", "model=tiny", "debug=quick", "training.reports=3"),
        *("hyperopt.num_trials=4", "hyperopt.max_concurrent=2", "hyperopt.study_name=s"),
        *(f"hyperopt.results_dir={tmp_path}", "hyperopt.final.enabled=false", *more),
    ]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]), **more}


def run(tmp_path: Path, rule: str, *more: str, strategy: str = "optuna", **env: str) -> str:
    """Run a search to its end; its objective is no training, so that nothing is left to score and it ends with 1."""
    done = warm.run_text(command(tmp_path, rule, *more, strategy=strategy), tmp_path, environment(**env))
    return done.stdout + done.stderr


def calls(study: Path, number: int) -> list[str]:
    return (study / f"trial_{number:04d}" / "calls.txt").read_text().split()


@pytest.mark.parametrize("strategy", ["optuna", "random"])
def test_a_free_slot_is_filled_before_a_long_trial_ends_and_a_killed_one_is_tried_again(
    tmp_path: Path, strategy: str
) -> None:
    """Trial 0 waits for the report of trial 3: with two slots it ends only if the other is filled again and again."""
    said = run(tmp_path, "long", "hydra/launcher=submitit_local", strategy=strategy)
    trials = read_study(tmp_path / "s").trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4, said
    assert trials[1].user_attrs[FAILURES] == [WORKER_DIED]
    assert all(calls(tmp_path / "s", number) == ["1", "2", "3"] for number in range(4))
    ends = {trial.number: trial.datetime_complete for trial in trials}
    assert ends[0] > ends[2], "the long one ends after one that began later"
    assert not (tmp_path / "s" / GIVEN).exists(), "no job is left"


def until_a_job_waits(tmp_path: Path, time_of: int, *more: str) -> tuple[warm.Process, int]:
    """Start a search whose trial 1 waits; return it, and the process of that trial once another has reported."""
    there = tmp_path / f"s/trial_0001/waits_{time_of}"
    with (tmp_path / "out").open("w") as out:
        search = warm.Process(
            command(tmp_path, "waits", "hydra/launcher=submitit_local", *more), tmp_path, environment(), stdout=out
        )
    until = time.monotonic() + 300
    while not (there.exists() and there.read_text()) or not (tmp_path / "s/trial_0002/calls.txt").exists():
        assert search.poll() is None, (tmp_path / "out").read_text()
        assert time.monotonic() < until
        time.sleep(0.1)
    return search, int(there.read_text())


def test_an_interrupted_search_ends_its_jobs_and_a_killed_one_is_resumed_and_ends_those_that_still_run_first(
    tmp_path: Path,
) -> None:
    search, job = until_a_job_waits(tmp_path, 1)
    search.send_signal(signal.SIGTERM)
    assert search.wait(120) == 130, (tmp_path / "out").read_text()
    assert not psutil.pid_exists(job)
    assert not (tmp_path / "s" / GIVEN).exists()

    search, job = until_a_job_waits(tmp_path, 2, "hyperopt.resume=true")
    search.kill()
    search.wait()
    assert psutil.pid_exists(job), "Slurm's jobs outlive the search, too"
    said = run(tmp_path, "waits", "hydra/launcher=submitit_local", "hyperopt.resume=true")
    assert not psutil.pid_exists(job)
    assert [trial.state for trial in read_study(tmp_path / "s").trials] == [TrialState.COMPLETE] * 4, said
    assert all(calls(tmp_path / "s", number) == ["1", "2", "3"] for number in range(4)), "nothing was run twice"


# --- what Slurm is asked for --------------------------------------------------------------------------------------

SBATCH = """#!/bin/bash
# runs the batch file, as Slurm would on another machine; keeps a copy of it
cd "$(dirname "$0")"
[ -e refuse ] && { echo "sbatch: error: invalid partition specified: night" >&2; exit 1; }
number=$(( $(cat last 2>/dev/null || echo 100) + 1 )); echo $number > last
cp "$1" batch_$number.sh
export SLURM_JOB_ID=$number SLURM_JOBID=$number SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
export SLURM_JOB_NUM_NODES=1 SLURM_JOB_NODELIST=n1
( exec setsid bash "batch_$number.sh" ) >"out_$number" 2>&1 </dev/null &
echo "Submitted batch job $number"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """A folder for PATH with the commands of Slurm."""
    (folder := tmp_path / "slurm").mkdir()
    for name, text in {
        "sbatch": SBATCH,
        "srun": "#!/bin/sh\n",
        "scancel": "#!/bin/sh\n",
        "sacct": "#!/bin/sh\n",
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def test_slurm_is_asked_for_what_a_trial_needs_and_a_trial_uses_it(tmp_path: Path, slurm: Path) -> None:
    asked = ["hydra.launcher.partition=night", "hydra.launcher.cpus_per_task=3", "hydra.launcher.timeout_min=90"]
    path = f"{slurm}:{os.environ['PATH']}"
    said = run(tmp_path, "", "hydra/launcher=submitit_slurm", "hydra.launcher.use_srun=false", *asked, PATH=path)
    assert [trial.state for trial in read_study(tmp_path / "s").trials] == [TrialState.COMPLETE] * 4, said
    batches = sorted(slurm.glob("batch_*.sh"))
    assert len(batches) > 4, "a job for each trial, and for what the end of a search computes"
    for line in ("--partition=night", "--cpus-per-task=3", "--time=90", "--nodes=1"):
        assert f"#SBATCH {line}\n" in batches[0].read_text()
    saved = yaml.safe_load((tmp_path / "s/trial_0000/config.yaml").read_text())
    assert saved["training"]["threads"] == 3, "the job's CPUs, not a share of this machine's"


def test_what_slurm_says_is_the_reason_of_a_trial_that_it_refused(tmp_path: Path, slurm: Path) -> None:
    (slurm / "refuse").touch()
    said = run(tmp_path, "", "hydra/launcher=submitit_slurm", PATH=f"{slurm}:{os.environ['PATH']}")
    trials = read_study(tmp_path / "s").trials
    assert {trial.state for trial in trials} == {TrialState.FAIL}
    assert "invalid partition specified: night" in trials[0].user_attrs[REASON]
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("override", "rule", "fix"),
    [
        ("hyperopt.max_concurrent=null", "must be set with hydra/launcher=submitit_slurm", "hyperopt.max_concurrent=8"),
        ("hyperopt.resources_per_trial.cpu=4", "does nothing with hydra", "hydra.launcher.cpus_per_task=4 instead"),
        ("hyperopt.resources_per_trial.gpu=0.5", "does nothing with hydra", "hydra.launcher.gpus_per_node=1 instead"),
        ("hydra.launcher.nodes=2", "a trial is one process, found 2", "hydra.launcher.nodes=1"),
    ],
)
def test_what_a_job_cannot_be_is_said_before_anything_is_written(
    tmp_path: Path, slurm: Path, override: str, rule: str, fix: str
) -> None:
    path = f"{slurm}:{os.environ['PATH']}"
    said = run(tmp_path, "", "hydra/launcher=submitit_slurm", override, PATH=path)
    assert rule in said
    assert f"fix: {fix}" in said
    assert "Traceback" not in said
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("strategy", ["combined", "asha"])
def test_ray_tune_gives_no_jobs_to_slurm_and_says_so(tmp_path: Path, strategy: str) -> None:
    """Its trials would run on the login node."""
    said = run(tmp_path, "", "hydra/launcher=submitit_slurm", strategy=strategy)
    assert f"hydra/launcher=submitit_slurm: Ray Tune itself starts the trials of hyperopt={strategy}; fix: " in said
    assert "leave hydra/launcher out, and on a cluster name its Ray, hyperopt.ray_address=auto; or hyperopt=o" in said
    assert not (tmp_path / "s").exists()


def test_a_machine_without_slurm_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"has no srun.*fix: start the search on a login node"):
        check_launcher(SlurmLauncher(submitit_folder="x", timeout_min=60))


def test_a_setting_that_submitit_does_not_know_is_named() -> None:
    check_launcher(LocalLauncher(submitit_folder="x", timeout_min=60, nodes=1, tasks_per_node=1))
    with pytest.raises(UserError, match=r"hydra\.launcher: .*partitoin"):
        check_launcher(LocalLauncher(submitit_folder="x", partitoin="night"))
    assert is_submitit(LocalLauncher())
    assert not is_submitit(None)
