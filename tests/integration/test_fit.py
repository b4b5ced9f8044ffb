"""The objective on real trainings: killed and continued, repeated, stopped, broken."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistral_ner.errors import UserError
from mistral_ner.train import TrainingError, fit
from tests import warm
from tests.runs import elsewhere, reports, weights


def assert_same_run(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert reports(one["output_dir"]) == reports(other["output_dir"])
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first), "weights differ in some bit"


def test_learns_and_returns_its_best_report(tiny: dict[str, Any]) -> None:
    seen: list[tuple[int, float]] = []
    value = fit(tiny, lambda number, metrics: seen.append((number, metrics["eval_f1"])))
    assert [number for number, _ in seen] == [1, 2, 3]
    assert value == max(f1 for _, f1 in seen)
    assert value > 0.5, "the words alone give the tags away"
    assert [row["step"] for row in reports(tiny["output_dir"])] == [5, 11, 16]
    folder = Path(tiny["output_dir"])
    assert {"config.yaml", "result.json", "checkpoint.json", "adapter"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "checkpoint").exists(), "a finished training needs no state to go on from"
    assert {row["adapter_parameters"] for row in reports(tiny["output_dir"])} == {
        sum(one.size for one in weights(tiny).values())
    }
    assert all(json.loads(line)["eval_seconds"] > 0 for line in (folder / "result.json").read_text().splitlines())


@pytest.mark.parametrize("ratio", [1.0, 5.0])
def test_the_head_learns_at_a_rate_of_its_own(tiny: dict[str, Any], ratio: float) -> None:
    """Adam's first step is as long as the learning rate, and both begin at 0."""
    rate = 1e-3
    tiny["training"] |= {"learning_rate": rate, "head_lr_ratio": ratio, "lr_scheduler_type": "constant"}
    tiny["training"] |= {"warmup_ratio": 0, "num_epochs": 1, "per_device_train_batch_size": 1000, "reports": 1}
    fit(tiny)
    moved = {name: abs(one) for name, one in weights(tiny).items()}
    [bias] = [one for name, one in moved.items() if name.endswith("score.bias")]
    assert np.median(bias) == pytest.approx(rate * ratio, rel=1e-2)
    adapters = [one for name, one in moved.items() if "lora_B" in name]
    assert adapters
    assert np.median(np.concatenate([one.ravel() for one in adapters])) == pytest.approx(rate, rel=1e-2)


def test_same_seed_same_bits_other_seed_other_bits(tiny: dict[str, Any]) -> None:
    again, other = elsewhere(tiny, "again"), elsewhere(tiny, "other")
    other["seed"] = 1
    for config in (tiny, again, other):
        fit(config)
    assert_same_run(tiny, again)
    name = next(name for name in weights(tiny) if "lora_A" in name)
    assert not np.array_equal(weights(tiny)[name], weights(other)[name])


def test_finished_training_returns_at_once(tiny: dict[str, Any]) -> None:
    value = fit(tiny)
    assert fit(tiny, lambda *_: pytest.fail("nothing is left to report")) == value


def test_report_stops_and_a_later_call_continues(tiny: dict[str, Any]) -> None:
    whole = elsewhere(tiny, "whole")
    fit(whole)
    fit(tiny, lambda number, _: number == 1)
    assert len(reports(tiny["output_dir"])) == 1
    assert (Path(tiny["output_dir"]) / "checkpoint").is_dir()
    numbers: list[int] = []
    fit(tiny, lambda number, _: bool(numbers.append(number)))
    assert numbers == [2, 3], "a report that was made is never made again"
    assert_same_run(tiny, whole)


@pytest.mark.parametrize("moment", ["after report 1", "in the middle of report 2", "while weights are written"])
def test_killed_and_continued_is_the_unbroken_run(tiny: dict[str, Any], moment: str, tmp_path: Path) -> None:
    tiny["training"]["num_epochs"] = 4
    whole = elsewhere(tiny, "whole")
    fit(whole)
    script = tmp_path / "victim.py"
    script.write_text(
        textwrap.dedent(f"""
        import json, os, sys, time
        from pathlib import Path
        from mistral_ner import files
        from mistral_ner.training import checkpoint, trainer
        from mistral_ner.train import fit

        config, moment = json.loads(sys.argv[1]), sys.argv[2]

        def die():
            Path({str(tmp_path / "ready")!r}).touch()
            time.sleep(60)

        if moment == "in the middle of report 2":
            add = checkpoint.Progress.add
            def slow_add(self, report, checkpoint):
                if report["report"] == 2:
                    die()
                add(self, report, checkpoint)
            checkpoint.Progress.add = slow_add
        if moment == "while weights are written":
            save = trainer.NerTrainer._save_optimizer_and_scheduler
            def slow_save(self, folder):
                if self.state.global_step > 12:
                    die()
                save(self, folder)
            trainer.NerTrainer._save_optimizer_and_scheduler = slow_save
        fit(config, lambda number, _: die() if moment == "after report 1" else None)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = warm.Process([str(script), json.dumps(tiny), moment], tmp_path, environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert process.poll() is None, "the victim ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    made = json.loads((Path(tiny["output_dir"]) / "checkpoint.json").read_text())["reports"]
    assert made == 1
    numbers: list[int] = []
    fit(tiny, lambda number, _: bool(numbers.append(number)))
    assert numbers == [2, 3]
    assert_same_run(tiny, whole)


def test_damaged_checkpoint_is_named_and_not_used(tiny: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    whole = elsewhere(tiny, "whole")
    fit(whole)
    fit(tiny, lambda number, _: number == 2)
    checkpoint = next((Path(tiny["output_dir"]) / "checkpoint").glob("checkpoint-11"))
    (checkpoint / "adapter_model.safetensors").write_bytes(b"garbage")
    fit(tiny)
    assert "checkpoint checkpoint-11 is damaged" in caplog.text
    assert_same_run(tiny, whole)


def test_kept_adapter_is_the_best_reports(tiny: dict[str, Any]) -> None:
    """The rate is so high that later reports are worse; the saved adapter must score what fit returned."""
    from mistral_ner.config.check import check
    from mistral_ner.model import lend_model, load_adapter
    from mistral_ner.training.evaluate import Evaluation
    from mistral_ner.training.fit import _arguments
    from mistral_ner.training.inputs.prepare import prepare
    from mistral_ner.training.schedule import Schedule
    from mistral_ner.training.trainer import NerTrainer

    tiny["training"] |= {"num_epochs": 6, "reports": 6, "learning_rate": 0.3, "lr_scheduler_type": "constant"}
    value = fit(tiny)
    scores = [row["eval_f1"] for row in reports(tiny["output_dir"])]
    assert value == max(scores)
    config = check(tiny)
    tokenizer, data = prepare(config)
    folder = Path(tiny["output_dir"]) / "adapter"
    with lend_model(config.model, data.labels, 7, len(tokenizer)) as model:
        load_adapter(model, folder)
        trainer = NerTrainer(
            model=model,
            args=_arguments(config, Schedule(1, (1,), 1.0), []),
            evaluation=Evaluation.of(data, "dev", 2048),
            pad_id=int(tokenizer.pad_token_id),
        )
        assert trainer.evaluate()["eval_f1"] == value


def test_other_config_in_the_folder_is_refused(tiny: dict[str, Any]) -> None:
    fit(tiny)
    tiny["training"]["learning_rate"] = 1e-3
    with pytest.raises(UserError, match=r"holds a run of another config \(differs in training.learning_rate\)"):
        fit(tiny)


def test_more_reports_than_steps(tiny: dict[str, Any]) -> None:
    tiny["training"]["reports"] = 50
    with pytest.raises(
        UserError, match=r"training.reports=50 needs as many optimiser steps, but 64 windows .* make 16"
    ):
        fit(tiny)


def test_metric_that_no_report_has(tiny: dict[str, Any]) -> None:
    tiny["training"]["metric"] = "eval_f2"
    with pytest.raises(TrainingError, match=r"no report has the metric 'eval_f2'; there are: .*eval_f1"):
        fit(tiny)


def test_non_finite_loss(tiny: dict[str, Any]) -> None:
    tiny["training"] |= {"learning_rate": 1e30, "max_grad_norm": 1e30}
    with pytest.raises(TrainingError, match="non-finite training loss"):
        fit(tiny)


def test_worker_is_as_good_as_new_after_a_broken_training(tiny: dict[str, Any]) -> None:
    before, after, broken = elsewhere(tiny, "before"), elsewhere(tiny, "after"), elsewhere(tiny, "broken")
    broken["training"] |= {"learning_rate": 1e30, "max_grad_norm": 1e30}
    fit(before)
    with pytest.raises(TrainingError):
        fit(broken)
    with pytest.raises(KeyboardInterrupt):
        fit(elsewhere(tiny, "interrupted"), interrupt)
    fit(after)
    assert_same_run(before, after)


def interrupt(*_: Any) -> bool:
    raise KeyboardInterrupt


def held_elsewhere(folder: Path, seconds: float) -> subprocess.Popen[bytes]:
    """A process that trains in ``folder``, as far as others can tell, for some seconds."""
    script = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print(flush=True); time.sleep(float(sys.argv[2]))"
    )
    folder.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder / ".lock"), str(seconds)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_waits_for_a_process_that_is_about_to_end(tiny: dict[str, Any]) -> None:
    with held_elsewhere(Path(tiny["output_dir"]), 1.5) as other:
        started = time.monotonic()
        fit(tiny)
        assert time.monotonic() - started > 1
        assert other.wait(10) == 0


def test_two_processes_do_not_train_in_one_folder(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mistral_ner.locks._PATIENCE", 0.3)
    with held_elsewhere(Path(tiny["output_dir"]), 60) as other:
        with pytest.raises(UserError, match=r"another process trains in .*; fix: wait for its end, or output_dir="):
            fit(tiny)
        other.kill()
    assert fit(tiny) > 0


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (
            1e-9,
            r"does not fall \(\S+ to \S+\): the learning rate is too high .*, or far too low; .*=3e-10 or 4e-09",
        ),
        (6e-4, r"still falls \(\S+ to \S+\): train longer, training.num_epochs=4$"),
    ],
)
def test_a_training_that_finds_nothing_says_why(
    tiny: dict[str, Any], caplog: pytest.LogCaptureFixture, rate: float, said: str
) -> None:
    tiny["training"] |= {"learning_rate": rate, "reports": 8}
    fit(tiny)
    warnings = [one.getMessage() for one in caplog.records if "no entity found right" in one.getMessage()]
    assert len(warnings) == 1
    assert re.search(said, warnings[0])
