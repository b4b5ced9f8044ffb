"""The recipes under docker/ and deploy/ name what is there, and their commands are ones that this project takes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mistral_ner.hyperopt.spec.plan import Plan

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "deploy/slurm/ray.sh"
SCONTROL = "#!/bin/sh\nprintf 'node1\\nnode2\\nnode3\\n'\n"


def make_command(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def dry_run(folder: Path, *arguments: str, **more: str) -> list[str]:
    """Return the commands that the script would run in a job of three nodes, in any order."""
    make_command(folder / "scontrol", SCONTROL)
    env = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "DRY_RUN": "1",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-3]",
    }
    done = subprocess.run(
        ["bash", str(SLURM), *arguments], env={**env, **more}, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_ray_over_the_nodes_of_a_job_and_a_search_in_it(tmp_path: Path) -> None:
    said = dry_run(tmp_path, "hyperopt=combined", "budget=prod", SLURM_CPUS_PER_TASK="4", SLURM_GPUS_PER_NODE="2")
    step, ray = "srun --nodes=1 --ntasks=1 --overlap --cpus-per-task=4 --gpus-per-node=2", ".venv/bin/ray start --block"
    more = "--num-cpus=4 --disable-usage-stats"
    head = "--head --port=20007 --num-cpus=4 --include-dashboard=false --disable-usage-stats"
    assert sorted(said) == sorted(
        [
            f"{step} --nodelist=node1 {ray} {head}",
            f"{step} --nodelist=node2 {ray} --address=node1:20007 {more}",
            f"{step} --nodelist=node3 {ray} --address=node1:20007 {more}",
            ".venv/bin/python launch.py -m hyperopt=combined budget=prod hyperopt.ray_address=node1:20007",
        ]
    )


@pytest.mark.parametrize(
    ("arguments", "job", "said"),
    [
        ("hyperopt=asha", "", "runs in a job of Slurm; fix: sbatch --nodes=2 deploy/slurm/ray.sh hyperopt=asha\n"),
        ("--resume", "7", "takes the folder of a study and nothing else, found 0 words after it; fix: --resume mul"),
        ("--resume multirun/s budget=dev", "7", "found 2 words after it; fix: --resume multirun/NAME\n"),
        ("hyperopt=asha", "8", "scontrol does not say which nodes this job has; fix: a PATH that leads to Slurm's"),
        ("hyperopt=asha", "7", "error: Ray did not start on node1; fix: what srun and Ray say above\n"),
    ],
)
def test_what_the_script_refuses_starts_no_ray(tmp_path: Path, arguments: str, job: str, said: str) -> None:
    make_command(tmp_path / "scontrol", SCONTROL if job == "7" else "#!/bin/sh\n")
    make_command(tmp_path / "srun", "#!/bin/sh\nexit 1\n")
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": "node[1-3]"}
    done = subprocess.run(
        ["bash", str(SLURM), *arguments.split()], env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.startswith("error: ")


def test_every_node_of_a_job_has_its_token(tmp_path: Path) -> None:
    make_command(tmp_path / "scontrol", SCONTROL)
    make_command(tmp_path / "srun", "#!/bin/sh\necho $RAY_AUTH_MODE $RAY_AUTH_TOKEN >> $(dirname $0)/tokens\nexit 1\n")
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-3]"}
    for _ in range(2):
        subprocess.run(["bash", str(SLURM), "hyperopt=asha"], env=env, capture_output=True, check=False, timeout=60)
    one, other = (tmp_path / "tokens").read_text().splitlines()
    assert re.fullmatch("token [0-9a-f]{64}", one)
    assert one != other


def test_a_study_goes_on_in_the_next_job(tmp_path: Path) -> None:
    said = dry_run(tmp_path, "--resume", "multirun/s")
    assert ".venv/bin/python -m mistral_ner.hyperopt.resume multirun/s --ray-address node1:20007" in said


def test_what_kubernetes_runs_is_a_search(compose: Any) -> None:
    job, claim = yaml.safe_load_all((ROOT / "deploy/kuberay/rayjob.yaml").read_text())
    script = shlex.split(job["spec"]["entrypoint"])[2]
    words = script[script.index("launch.py") :].partition(";")[0].split()
    assert words[:2] == ["launch.py", "-m"]
    cfg = compose(*words[2:], "output_dir=.")
    plan = Plan.of(cfg)
    assert plan.grows
    assert str(plan.folder) == "/results/search"
    assert all(str(plan.folder) in part for part in re.findall(r"(?:-e|resume) (\S+)", script))
    cluster = job["spec"]["rayClusterSpec"]
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert head["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert head["containers"][0]["volumeMounts"][0]["mountPath"] == plan.config.hyperopt.results_dir
    assert "volumes" not in cluster["workerGroupSpecs"][0]["template"]["spec"], "workers share nothing"
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text().split()


def test_the_image_is_made_of_what_is_there() -> None:
    lines = (ROOT / "docker/Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert {"pyproject.toml", "constraints.txt", "conf", "mistral_ner", "launch.py"} <= set(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", [SLURM])
def test_the_scripts_are_well_formed(path: Path) -> None:
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    assert os.access(path, os.X_OK)
