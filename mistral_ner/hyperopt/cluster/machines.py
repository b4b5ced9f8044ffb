"""Checks the machines of a Ray: how many trials they have room for, and whether each can work on the study."""

from __future__ import annotations

import contextlib
import logging
import math
import uuid
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mistral_ner.errors import UserError
from mistral_ner.hyperopt.spec import capacity
from mistral_ner.hyperopt.spec.plan import Plan, cpus_per_trial

log = logging.getLogger(__name__)


def one_trial(plan: Plan, say: bool = False) -> dict[str, float]:
    """Return the CPUs and GPUs of one trial; ``say`` warns if fewer fit at once than the search wants.

    Raises:
        UserError: no machine has room for a trial.
    """
    hyperopt = plan.config.hyperopt
    wanted, at_once = hyperopt.resources_per_trial, plan.passes
    nodes: list[dict[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    held = {kind: sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
    one = {
        "cpu": cpus_per_trial(plan.config),
        "gpu": float(held["GPU"] > 0) if wanted.gpu is None else wanted.gpu,  # null: a whole one, if Ray has any
    }
    if hyperopt.ray_address is not None and wanted.cpu is None and held["CPU"] < at_once:
        one["cpu"] = max(0.01, math.floor(100 * held["CPU"] / at_once) / 100)
    for kind, key in (("CPU", "cpu"), ("GPU", "gpu")):
        largest = max(node.get(kind, 0) for node in nodes)
        if one[key] > largest:
            raise UserError(
                f"hyperopt.resources_per_trial.{key}={one[key]:g}, but no machine of this Ray has more than "
                f"{largest:g} {kind}s; fix: hyperopt.resources_per_trial.{key}={largest:g}"
            )
    fit = sum(_fit_on(node, one) for node in nodes)
    if fit == 0:
        raise UserError(
            f"no machine of this Ray has both {one['cpu']:g} CPUs and {one['gpu']:g} GPUs; "
            f"fix: smaller hyperopt.resources_per_trial.cpu or .gpu"
        )
    if hyperopt.ray_address is None and wanted.cpu is None:
        fit = min(fit, capacity.cores())
    if say and at_once > fit:
        share = held["GPU"] / at_once
        log.warning(
            "hyperopt.max_concurrent=%d, but %d trials at once fit what there is (%g CPUs, %g GPUs)%s",
            *(
                plan.at_once,
                fit * hyperopt.trials_per_pass,
                capacity.cores() if hyperopt.ray_address is None else held["CPU"],
                held["GPU"],
            ),
            f"; hyperopt.resources_per_trial.gpu={share:.2g} lets them share GPUs, where memory allows it"
            if wanted.gpu is None and 0 < share < 1
            else "",
        )
    return one


def _fit_on(node: dict[str, float], one: dict[str, float]) -> int:
    """Return how many trials one machine has room for."""
    needs = {"CPU": one["cpu"], "GPU": one["gpu"]}
    return min(int(node.get(kind, 0) / need + 1e-9) for kind, need in needs.items() if need > 0)


def ask_every_machine(plan: Plan) -> None:
    """Check that every machine of a cluster has this project installed and sees the results folder.

    Raises:
        UserError: names the machines that fail the check.
    """
    results_dir = Path(plan.config.hyperopt.results_dir)
    new = [path for path in (results_dir, *results_dir.parents) if not path.exists()]
    probe = results_dir / f".seen-{uuid.uuid4().hex}"
    try:
        results_dir.mkdir(parents=True, exist_ok=True)
        probe.touch()
        answers = _answers(str(probe))
    finally:
        probe.unlink(missing_ok=True)
        for path in new:
            with contextlib.suppress(OSError):
                path.rmdir()
    if missing := [address for address, answer in answers.items() if answer == "project"]:
        raise UserError(
            f"mistral_ner is not installed on {', '.join(missing)} of the Ray cluster; fix: pip install it there"
        )
    if blind := [address for address, answer in answers.items() if answer == "folder"]:
        raise UserError(
            f"hyperopt.results_dir={results_dir} is not seen by {', '.join(blind)} of the Ray cluster, whose trials "
            f"report into it; fix: hyperopt.results_dir=FOLDER on a disk that all its machines share"
        )


def _answers(probe: str) -> dict[str, str]:
    """Return what each machine lacks, by address: ``project``, ``folder``, or nothing."""
    patience = 5.0  # seconds; a network disk may take that long to show a new file

    def lacks() -> str:  # pickled by value: the machine may not have this project
        import importlib.util
        import time
        from pathlib import Path

        if importlib.util.find_spec("mistral_ner") is None:
            return "project"
        until = time.monotonic() + patience
        while not Path(probe).exists():
            if time.monotonic() > until:
                return "folder"
            time.sleep(0.2)
        return ""

    task = ray.remote(num_cpus=0)(lacks)
    asked = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[node["NodeManagerAddress"]] = task.options(scheduling_strategy=there).remote()
    return {address: str(ray.get(answer)) for address, answer in asked.items()}
