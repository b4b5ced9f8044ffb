"""Machines of a cluster that cannot run a search are named before it starts, all in one message."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any

import pytest

from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster import machines
from mistral_ner.hyperopt.cluster.machines import _refuse_files_of_trackers, _refuse_other_versions, wait_for_machines
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.versions import find_versions


def other(**versions: str) -> tuple[dict[str, str], bool]:
    return {**find_versions(), **versions}, False


def test_a_ray_whose_machines_come_after_its_head_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def nodes() -> list[dict[str, Any]]:
        asked.append(1)
        return [{"Alive": True, "Resources": {"memory": 1.0}}, {"Alive": len(asked) > 1, "Resources": {"CPU": 2.0}}]

    monkeypatch.setattr(machines.ray, "nodes", nodes)
    wait_for_machines()
    assert len(asked) == 2
    monkeypatch.setattr(machines.ray, "nodes", lambda: nodes()[:1])
    monkeypatch.setattr(machines, "_LATE", 0)
    with pytest.raises(UserError, match=r"CPUs to trials \(1 machine, 0 CPUs\); fix: start one that does, ray start"):
        wait_for_machines()


def test_the_same_versions_are_accepted() -> None:
    mine = find_versions()
    assert mine["torch"] == version("torch").partition("+")[0], "a build for another card is no other version"
    assert "none" not in mine.values()
    patch = ".".join([*mine["python"].split(".")[:2], "99"])
    _refuse_other_versions([("10.0.0.1", other()), ("10.0.0.2", other(python=patch))])


def test_every_difference_is_in_one_message() -> None:
    mine = find_versions()
    answers = [
        ("10.0.0.1", other()),
        ("10.0.0.2", other(torch="1.0", peft="none")),
        ("10.0.0.3", other(torch="1.0", python="3.9.1")),
    ]
    with pytest.raises(UserError) as caught:
        _refuse_other_versions(answers)
    said = str(caught.value)
    assert f"torch is {mine['torch']} here, 1.0 on 10.0.0.2, 10.0.0.3" in said
    assert f"peft is {mine['peft']} here, none on 10.0.0.2;" in said
    assert re.search(r"python is 3\.\d+\.\d+ here, 3\.9\.1 on 10\.0\.0\.3\n  fix: the same Python", said)
    assert "10.0.0.1" not in said


@pytest.mark.parametrize(
    ("tracker", "store", "refused"),
    [
        ("mlflow", "sqlite:////work/mlflow.db", True),
        ("mlflow", "http://tracker:5000", False),
        ("tensorboard", "", False),
    ],
)
def test_a_trackers_file_that_machines_do_not_see(
    tracker: str, store: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    space = {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2}}
    hyperopt = {"strategy": "combined", "ray_address": "auto", "max_concurrent": 2}
    plan = Plan.of(
        {"output_dir": "out", "search_space": space, "hyperopt": hyperopt, "tracking": {"report_to": tracker}}
    )
    if not refused:
        _refuse_files_of_trackers(plan, ["10.0.0.1"])
        return
    with pytest.raises(UserError, match=r"mlflow.db is a file that 10.0.0.1 .* fix: MLFLOW_TRACKING_URI=http"):
        _refuse_files_of_trackers(plan, ["10.0.0.1"])
