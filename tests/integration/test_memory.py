"""Memory that runs out in a training, for real: the process may have no more address space."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from arithmetic import arithmetic, run
from optuna.trial import TrialState
from safetensors.numpy import load_file

from mistral_ner.hyperopt.sampling.samplers import INFEASIBLE
from mistral_ner.train import fit
from mistral_ner.training.checkpoint import _checksum

pytestmark = pytest.mark.usefixtures("cold")

SCRIPT = textwrap.dedent("""
    import json, logging, resource, sys
    from mistral_ner.train import fit

    logging.basicConfig(level="WARNING")
    config, at, room = json.loads(sys.argv[1]), int(sys.argv[2]), 40 * 2**20

    def limit():
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + room, resource.RLIM_INFINITY))

    def report(number, metrics):
        print("report", number, flush=True)
        if number == at:
            limit()

    # everything is imported and loaded before the limit
    few = {**config["training"], "per_device_train_batch_size": 1, "reports": 1, "num_epochs": 1}
    fit({**config, "output_dir": config["output_dir"] + "_before", "training": few,
         "data": {**config["data"], "max_train_sentences": 4}})
    if at == 0:
        limit()
    fit(config, report)
""")


@pytest.fixture
def wide(tiny: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Batches of 128 sentences of 100 words: a step takes some 200 MB."""
    words = "Ada\tB-PER\nsaw\tO\nOslo\tB-LOC\n.\tO\n" * 25
    for split, count in (("train", 256), ("dev", 8), ("test", 8)):
        tiny["data"][f"{split}_file"] = str(tmp_path / f"{split}.txt")
        (tmp_path / f"{split}.txt").write_text(f"{words}\n" * count)
    tiny["model"]["lora_dropout"] = 0
    tiny["training"] |= {"per_device_train_batch_size": 128, "precision": "fp32"}
    return tiny


def limited(config: dict[str, Any], after: int, auto_batch: bool = True) -> subprocess.CompletedProcess[str]:
    """Train ``config`` in a process whose memory is short after so many reports."""
    config = copy.deepcopy(config)
    config["training"]["auto_batch"] = auto_batch
    command = [sys.executable, "-c", SCRIPT, json.dumps(config), str(after)]
    # what is freed goes back to the system at once, or the steps before the limit would leave enough for those after it
    given_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    # oneDNN, which compiles its products as it goes, ends the process where it is refused memory for that
    by_mkl = {"ATEN_CPU_CAPABILITY": "avx2"}
    env = {**os.environ, **given_back, **by_mkl}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=600)


def reports(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(config["output_dir"]) / "result.json").read_text().splitlines()]


def test_goes_on_from_the_last_report_in_smaller_pieces(wide: dict[str, Any], tmp_path: Path) -> None:
    """Same batches, same steps, same numbers but for rounding."""
    enough = {**wide, "output_dir": str(tmp_path / "enough")}
    fit(enough)
    done = limited(wide, after=1)
    assert done.returncode == 0, done.stderr
    made = [line for line in done.stdout.splitlines() if line.startswith("report ")]
    assert made == ["report 1", "report 2", "report 3"], "no report is made twice"
    assert (
        "out of memory with 128 of 128 sentences of a batch: 64 at once from report 1 on, in batches of 128"
        in done.stderr
    )
    rows, whole = reports(wide), reports(enough)
    assert "micro_batch" not in rows[0]
    settled = [row["micro_batch"] for row in rows[1:]]
    assert all(one in (64, 32, 16, 8, 4, 2, 1) for one in settled)
    assert settled == sorted(settled, reverse=True)
    for row, expected in zip(rows, whole, strict=True):
        for name in ("step", "epoch", "eval_loss", "train_loss"):
            assert row[name] == pytest.approx(expected[name], rel=1e-4)


def test_without_leave_it_fails_and_says_what_to_type(wide: dict[str, Any]) -> None:
    done = limited(wide, after=0, auto_batch=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "OutOfMemoryError: out of memory with 128 of 128 sentences of a batch; fix: training.auto_batch=true" in last
    assert not (Path(wide["output_dir"]) / "checkpoint.json").exists()


def test_what_it_settled_on_holds_when_it_is_continued(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Continued in another process, it takes pieces of the same size, and ends as the unbroken run bit for bit."""
    folder = Path(tiny["output_dir"])
    tiny["training"]["auto_batch"] = True
    fit(tiny, lambda number, _: number == 1)
    state = json.loads((folder / "checkpoint.json").read_text())
    state["rows"][0]["micro_batch"] = 3  # of batches of 8: pieces of 3, 3 and 2
    del state["checksum"]
    (folder / "checkpoint.json").write_text(json.dumps({**state, "checksum": _checksum(state)}))
    broken = {**tiny, "output_dir": str(tmp_path / "broken")}
    shutil.copytree(folder, broken["output_dir"])
    fit(tiny)
    fit(broken, lambda number, _: number == 2)
    fit(broken)
    assert [row["micro_batch"] for row in reports(tiny)] == [3, 3, 3]
    unbroken, continued = (
        load_file(Path(one["output_dir"]) / "adapter/adapter_model.safetensors") for one in (tiny, broken)
    )
    assert all((unbroken[name] == continued[name]).all() for name in unbroken)


@pytest.mark.parametrize(("batch", "accumulated", "at_once"), [(8, 1, 4), (8, 1, 3), (4, 2, 4), (4, 2, 1), (7, 1, 2)])
def test_gradients_of_pieces_are_those_of_the_whole(
    tiny: dict[str, Any], batch: int, accumulated: int, at_once: int
) -> None:
    """Sentences of unlike length, so that a mean of means would be another number."""
    import torch

    from mistral_ner.config.check import check
    from mistral_ner.model import lend_model
    from mistral_ner.training.evaluate import Evaluation
    from mistral_ner.training.fit import _arguments
    from mistral_ner.training.inputs.batches import collate
    from mistral_ner.training.inputs.prepare import prepare
    from mistral_ner.training.schedule import Schedule
    from mistral_ner.training.trainer import NerTrainer

    tiny["model"]["lora_dropout"] = 0
    tiny["training"] |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
    config = check(tiny)
    tokenizer, data = prepare(config)
    by_length = sorted((data.train[index] for index in range(len(data.train))), key=lambda row: len(row["input_ids"]))
    rows = by_length[:: len(by_length) // (batch * accumulated)][: batch * accumulated]
    assert len({len(row["input_ids"]) for row in rows}) > 1
    pad = int(tokenizer.pad_token_id or 0)
    with lend_model(config.model, data.labels, 0, len(tokenizer)) as model:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # the head's own
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model(**collate(rows, pad)).loss.backward()
        expected = [parameter.grad for parameter in trained]
        model.zero_grad()
        trainer = NerTrainer(
            model=model,
            args=_arguments(config, Schedule(1, (1,), 1.0), []),
            evaluation=Evaluation.of(data, "dev", 2048),
            pad_id=pad,
            micro_batch=at_once,
        )
        trainer.create_optimizer()
        loader = iter([trainer.data_collator(rows[at : at + batch]) for at in range(0, len(rows), batch)])
        batches, labelled = trainer.get_batch_samples(loader, accumulated, model.device)
        loss = sum(trainer.training_step(model, one, labelled) for one in batches)
        for parameter, gradient in zip(trained, expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(trainer._loss, loss)


def test_settings_that_do_not_fit_are_avoided(tmp_path: Path) -> None:
    """Each fails with its reason and marks its point infeasible; the sampler proposes it less and less."""
    base = arithmetic()

    def objective(trial: Any, report: Any) -> None:
        from mistral_ner.train import OutOfMemoryError

        if trial.model.lora_r == 16:
            raise OutOfMemoryError("out of memory with 1 of 8 sentences of a batch")
        base(trial, report)

    _, trials = run(
        tmp_path, "optuna", objective, num_trials=36, max_concurrent=1, max_failure_rate=1, optuna_n_startup_trials=12
    )
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert failed
    assert all(trial.params["lora_r"] == 16 for trial in failed)
    assert all(trial.user_attrs["reason"].startswith("OutOfMemoryError: out of memory") for trial in failed)
    assert all(trial.constraints == {INFEASIBLE: 1.0} for trial in failed)
    assert sum(trial.number >= 18 for trial in failed) <= 3, "of 18; at random it would be six"
