"""One training in two processes: its numbers are those of one process, and it stops, dies and goes on as one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mistral_ner.errors import UserError
from mistral_ner.hyperopt import search
from mistral_ner.hyperopt.spec.plan import read_saved_config
from mistral_ner.train import TrainingError, fit
from mistral_ner.training.checkpoint import reports_on_disk
from tests.runs import elsewhere, reports, weights

BERT = {"model_type": "bert", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def two(tiny: dict[str, Any]) -> dict[str, Any]:
    """A training in two processes, without dropout, in float32."""
    tiny["model"] |= {"lora_dropout": 0.0, "random_init": {**BERT, "num_attention_heads": 2, **NO_DROPOUT}}
    tiny["training"] |= {"processes": 2, "precision": "fp32", "threads": 2}
    return tiny


def _follows(process: psutil.Process) -> bool:
    try:
        return "mistral_ner.training.parallel.follow" in process.cmdline()
    except psutil.Error:
        return False


def mine() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if _follows(one)]


@pytest.mark.parametrize("more", [{}, {"gradient_accumulation_steps": 2}, {"per_device_train_batch_size": 5}])
def test_two_processes_compute_what_one_does(two: dict[str, Any], more: dict[str, Any]) -> None:
    """Also where a batch has an odd number of rows, or the last one of an epoch a single row."""
    one = elsewhere(two, "one")
    one["training"] |= {"processes": 1, **more}
    two["training"] |= more
    assert fit(two) == pytest.approx(fit(one), abs=1e-5)
    for found, expected in zip(*(reports(Path(each["output_dir"])) for each in (two, one)), strict=True):
        assert found == pytest.approx(expected, abs=1e-5, rel=1e-5)
    for name, expected in weights(one).items():
        np.testing.assert_allclose(weights(two)[name], expected, atol=1e-4)
    assert mine() == []


def test_a_stop_holds_for_both_and_the_rest_is_as_unbroken(two: dict[str, Any]) -> None:
    two["model"]["lora_dropout"] = 0.2
    whole = elsewhere(two, "whole")
    fit(whole)
    fit(two, lambda number, _: number == 1)
    assert len(reports(Path(two["output_dir"]))) == 1
    assert mine() == []
    fit(two)
    assert reports(Path(two["output_dir"])) == reports(Path(whole["output_dir"]))
    assert all(np.array_equal(weights(two)[name], value) for name, value in weights(whole).items())


SCRIPT = "import json, sys; from mistral_ner.train import fit; fit(json.load(sys.stdin))"


def start(config: dict[str, Any]) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, text=True, env={**os.environ})
    assert process.stdin is not None
    process.stdin.write(json.dumps(config))
    process.stdin.close()
    return process


def wait_for_reports(config: dict[str, Any], count: int) -> None:
    until = time.monotonic() + 300
    while len(reports_on_disk(Path(config["output_dir"]))) < count and time.monotonic() < until:
        time.sleep(0.02)


def test_killed_it_goes_on_and_leaves_nobody_behind(two: dict[str, Any]) -> None:
    two["training"] |= {"num_epochs": 5, "reports": 10}
    whole = elsewhere(two, "whole")
    fit(whole)
    process = start(two)
    wait_for_reports(two, 2)
    children = psutil.Process(process.pid).children()
    assert len(children) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert (len(gone), alive) == (1, [])
    assert len(reports(Path(two["output_dir"]))) < 10
    fit(two)
    assert reports(Path(two["output_dir"])) == reports(Path(whole["output_dir"]))
    assert all(np.array_equal(weights(two)[name], value) for name, value in weights(whole).items())


def test_a_process_that_ends_ends_the_training_with_its_reason(two: dict[str, Any]) -> None:
    two["training"] |= {"num_epochs": 5, "reports": 10}

    def kill(number: int, metrics: dict[str, float]) -> None:
        (child,) = mine()
        child.kill()

    with pytest.raises(TrainingError, match="process 1 of the training has ended: SIGKILL"):
        fit(two, kill)
    assert mine() == []
    assert fit(two) > 0, "it goes on from its last report"


@pytest.mark.usefixtures("ray_for_all")
def test_a_rung_of_a_search_stops_both(two: dict[str, Any], tmp_path: Path) -> None:
    two["training"]["reports"] = 4
    two["search_space"] = {"learning_rate": {"type": "loguniform", "low": 1e-7, "high": 1e-2}}
    two["hyperopt"] = {
        "strategy": "combined",
        "num_trials": 2,
        "enqueue": [{"learning_rate": 1e-2}, {"learning_rate": 1e-7}],
        "enqueue_default": False,
        "max_concurrent": 1,
        "asha_max_t": 4,
        "asha_grace_period": 1,
        "asha_reduction_factor": 2,
        "results_dir": str(tmp_path),
        "study_name": "s",
        "final": {"enabled": False},
    }
    assert search(two).n_failed == 0
    for trial, count in (("trial_0000", 4), ("trial_0001", 1)):
        found = reports(tmp_path / "s" / trial)
        assert len(found) == count
        config = read_saved_config(tmp_path / "s" / trial / "config.yaml")
        config.output_dir = str(tmp_path / "alone" / trial)
        config.training.processes, config.training.stop_after = 1, count
        fit(config)
        for row, expected in zip(found, reports(Path(config.output_dir)), strict=True):
            assert row == pytest.approx(expected, abs=1e-4, rel=1e-4)


def test_more_processes_than_gpus_are_refused(two: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from mistral_ner.training.parallel import ranks

    monkeypatch.setattr(ranks.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ranks.torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"training.processes=2 needs as many GPUs, and this process sees 1; fix: "):
        ranks.check_cards(2)
