"""Checks the machines of a Ray: how many trials they have room for, and whether each can work on the study."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster import private
from mistral_ner.hyperopt.spec import capacity
from mistral_ner.hyperopt.spec.plan import Plan, cpus_per_trial
from mistral_ner.versions import describe_differences

T = TypeVar("T")

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
            has = f"more than {largest:g} {kind}{'s' * (largest != 1)}" if largest else f"a {kind}"
            raise UserError(
                f"hyperopt.resources_per_trial.{key}={one[key]:g}, but no machine of this Ray has {has}; "
                f"fix: hyperopt.resources_per_trial.{key}={largest:g}"
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


def wait_for_machines() -> None:
    """Wait until a machine of Ray gives CPUs, because a head may be there before its workers are.

    Raises:
        UserError: none did in time.
    """
    until, said = time.monotonic() + _LATE, False
    while True:
        nodes: list[dict[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        if any(node.get("CPU") for node in nodes):
            return
        if time.monotonic() > until:
            raise UserError(
                f"no machine of this Ray gives CPUs to trials ({len(nodes)} machine{'s' * (len(nodes) > 1)}, 0 CPUs); "
                "fix: start one that does, ray start --address=HOST:PORT on it, then the search again"
            )
        if not said:
            log.info("no machine of this Ray gives CPUs to trials; waiting %d s for one", _LATE)
            said = True
        time.sleep(1)


_LATE = 60.0  # seconds


def count_room(one: dict[str, float], strangers: Collection[str]) -> Callable[[], int]:
    """Return a function that says how many workers Ray has room for now: at least one, because room may come.

    Args:
        one: the CPUs and GPUs of a worker.
        strangers: addresses of machines that get no trials, as they are found.
    """
    found, until, known = 1, 0.0, 0

    def count() -> int:
        nonlocal found, until, known
        # a worker for a place that a stranger has would wait for ever, and its trials with it
        if time.monotonic() >= until or len(strangers) != known:
            known = len(strangers)
            nodes = ray.nodes()  # type: ignore[no-untyped-call]
            theirs = [node for node in nodes if node["Alive"] and node["NodeManagerAddress"] not in strangers]
            found = max(1, sum(_fit_on(node["Resources"], one) for node in theirs))
            until = time.monotonic() + _LOOK
        return found

    return count


_LOOK = 2.0  # seconds between looks


def _fit_on(node: dict[str, float], one: dict[str, float]) -> int:
    """Return how many trials one machine has room for."""
    needs = {"CPU": one["cpu"], "GPU": one["gpu"]}
    return min(int(node.get(kind, 0) / need + 1e-9) for kind, need in needs.items() if need > 0)


def ask_every_machine(plan: Plan) -> None:
    """Check that the trials can run on every machine of a cluster, and say which machines do not see the results.

    Raises:
        UserError: names what differs from this machine, or what a machine that sees nothing cannot do.
    """
    results_dir = Path(plan.config.hyperopt.results_dir)
    new = [path for path in (results_dir, *results_dir.parents) if not path.exists()]
    probe = results_dir / f".seen-{uuid.uuid4().hex}"
    try:
        results_dir.mkdir(parents=True, exist_ok=True)
        probe.touch()
        answers = _look_around(str(probe))
    finally:
        probe.unlink(missing_ok=True)
        for path in new:
            with contextlib.suppress(OSError):
                path.rmdir()
    _refuse_other_versions(answers)
    if blind := [address for address, (_, sees) in answers if not sees]:
        _refuse_files_of_trackers(plan, blind)
        log.info(
            "%d of %d machines do not see %s: what trials need and make there travels through Ray",
            *(len(blind), len(answers), results_dir),
        )


def _refuse_other_versions(answers: Sequence[tuple[str, tuple[dict[str, str], bool]]]) -> None:
    """Raise UserError if a machine has other versions than this one; the project's own code travels with the search."""
    if (wrong := describe_differences({address: versions for address, (versions, _) in answers})) is not None:
        raise UserError(wrong)


def _refuse_files_of_trackers(plan: Plan, blind: Sequence[str]) -> None:
    """Raise UserError if trainings would write into a tracker's file that their machines do not see."""
    store = os.environ.get("MLFLOW_TRACKING_URI", "")
    if plan.config.tracking.report_to == "mlflow" and not store.startswith(("http://", "https://", "databricks")):
        raise UserError(
            f"tracking=mlflow: the store {store or 'mlflow.db'} is a file that {', '.join(blind)} of the Ray cluster "
            "cannot reach; fix: MLFLOW_TRACKING_URI=http://HOST:PORT of an mlflow server, or tracking=none"
        )


def _look_around(probe: str) -> list[tuple[str, tuple[dict[str, str], bool]]]:
    """Return the versions on each machine, and whether it sees the file ``probe``, with its address."""
    patience = 5.0  # seconds; a network disk may take that long to show a new file

    def look() -> tuple[dict[str, str], bool]:
        import time
        from pathlib import Path

        from mistral_ner.versions import find_versions

        versions = find_versions()
        until = time.monotonic() + patience
        while not (seen := Path(probe).exists()) and time.monotonic() < until:
            time.sleep(0.2)
        return versions, seen

    try:
        return call_on_every_machine(look, idle_too=False)
    except ray.exceptions.RayError as error:
        raise UserError(
            f"a machine of the Ray cluster cannot run this project ({type(error).__name__}: {str(error).strip()}); "
            "fix: each needs the same Python as this one, and what constraints.txt names"
        ) from None


def call_on_every_machine(function: Callable[[], T], idle_too: bool = True) -> list[tuple[str, T]]:
    """Return what a function returns on each machine of Ray, with its address; one that goes meanwhile is left out.

    Args:
        function: to call.
        idle_too: also on those that give nothing to trials, as a head often does.

    Raises:
        ray.exceptions.RayError: it failed on one.
    """
    answers = []
    for address, answer in _begin_on_every_machine(function, idle_too):
        with contextlib.suppress(ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):  # it has gone
            answers.append((address, ray.get(answer)))
    return answers


def tell_every_machine(function: Callable[[], object], seconds: float) -> None:
    """Call a function on each machine of Ray, and wait for them together, at most that many seconds.

    A machine that has just died counts as alive for some seconds. The others do not wait for it.
    """
    begun = [answer for _, answer in _begin_on_every_machine(function)]
    ray.wait(begun, num_returns=len(begun), timeout=seconds)


def _begin_on_every_machine(function: Callable[[], object], idle_too: bool = True) -> list[tuple[str, Any]]:
    task = ray.remote(num_cpus=0)(function)
    return [
        (str(node["NodeManagerAddress"]), task.options(scheduling_strategy=on_node(node["NodeID"])).remote())
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and (idle_too or node["Resources"].get("CPU") or node["Resources"].get("GPU"))
    ]


def on_node(node: str) -> NodeAffinitySchedulingStrategy:
    """Return what makes Ray run something on one machine only."""
    return NodeAffinitySchedulingStrategy(node, soft=False)


def node_of_driver() -> str:
    """Return the id of this process's machine in Ray; of the head, if this process has joined from outside."""
    if not private.is_client():
        return ray.get_runtime_context().get_node_id()
    heads = [node for node in ray.nodes() if "node:__internal_head__" in node["Resources"]]  # type: ignore[no-untyped-call]
    return str(heads[0]["NodeID"])
