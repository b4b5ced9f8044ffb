"""Real trainings on damaged folders, full disks and tampered checkpoints."""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from mistral_ner import files
from mistral_ner.train import fit
from mistral_ner.training.checkpoint import _checksum
from tests.runs import reports

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("cold")


def adapter(folder: Path) -> int:
    return zlib.crc32((folder / "adapter/adapter_model.safetensors").read_bytes())


@pytest.fixture
def whole(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """An unbroken run of ``tiny`` beside it."""
    fit({**tiny, "output_dir": str(tmp_path / "whole")})
    return tmp_path / "whole"


def test_the_last_checkpoint_is_damaged(tiny: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The run goes on from its best report and still ends as the unbroken one."""
    other = tmp_path / "other"
    folder = Path(tiny["output_dir"])
    tiny["training"] |= {"metric": "eval_loss", "mode": "max"}  # the first report is the best one by this
    fit({**tiny, "output_dir": str(other)})
    fit(tiny, lambda number, _: number == 2)
    state = json.loads((folder / "checkpoint.json").read_text())
    assert state["best_report"] == 1, "the loss falls, so that the first report has the highest"
    weights = folder / "checkpoint" / state["checkpoint"] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    numbers: list[int] = []
    fit(tiny, lambda number, _: bool(numbers.append(number)))
    assert "is damaged (adapter_model.safetensors); this training continues from report 1" in caplog.text
    assert numbers == [2, 3]
    assert reports(folder) == reports(other)
    assert adapter(folder) == adapter(other)


def test_a_finished_run_whose_adapter_is_damaged_trains_again(
    tiny: dict[str, Any], whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = reports(whole), adapter(whole)
    (whole / "adapter/adapter_model.safetensors").write_bytes(b"")
    fit({**tiny, "output_dir": str(whole)})
    assert "adapter is damaged (adapter_model.safetensors)" in caplog.text
    assert (reports(whole), adapter(whole)) == expected


class Bomb:
    """What somebody may put in the place of a pickled file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("format", ["torch", "pickle"])
def test_a_checkpoint_that_somebody_else_wrote_runs_nothing(
    tiny: dict[str, Any], tmp_path: Path, name: str, format: str
) -> None:
    """Checksums do not keep anybody out, who can write them too; no file of a checkpoint is unpickled."""
    import torch

    folder, marker = Path(tiny["output_dir"]), tmp_path / "ran"
    fit(tiny, lambda number, _: number == 1)
    state = json.loads((folder / "checkpoint.json").read_text())
    checkpoint = folder / "checkpoint" / state["checkpoint"]
    assert (checkpoint / name).exists()
    if format == "torch":
        torch.save({"state": Bomb(marker)}, checkpoint / name)
        torch.load(checkpoint / name, weights_only=False)
    else:
        (checkpoint / name).write_bytes(pickle.dumps(Bomb(marker)))
        pickle.loads((checkpoint / name).read_bytes())
    assert marker.is_dir(), "the bomb is a real one"
    marker.rmdir()
    state["files"] = {state["checkpoint"]: files.checksum_files(checkpoint)}
    del state["checksum"]
    (folder / "checkpoint.json").write_text(json.dumps({**state, "checksum": _checksum(state)}))
    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights.only"):
        fit(tiny)
    assert not marker.exists()


def launch(
    folder: Path, *arguments: str, room: int | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """``python launch.py`` in ``folder``; no file may grow beyond ``room`` bytes, as on a disk that is full."""

    def limit() -> None:
        if room is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    return subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *arguments],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("HYDRA_")},
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "MISTRAL_NER_CACHE": str(folder / "cache"),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )


SMALL = ["model=tiny", "training.reports=3", "training.num_epochs=2", "training.threads=1", "data=files"]


def test_a_full_disk(tmp_path: Path, toy_files: dict[str, str]) -> None:
    """One clear message, and with room again the same command ends as if nothing had been."""
    command = [*SMALL, *(f"data.{key}={path}" for key, path in toy_files.items())]
    unbroken = launch(tmp_path, *command, "hydra.run.dir=whole")
    assert unbroken.returncode == 0, unbroken.stderr
    weights = (tmp_path / "whole/adapter/adapter_model.safetensors").stat().st_size
    for room in (weights // 2, weights + 1000):  # the weights do not fit; they do, the optimizer's state does not
        full = launch(tmp_path, *command, "hydra.run.dir=run", room=room)
        assert full.returncode == 1, full.stderr
        assert "Traceback" not in full.stderr
        assert "run (File too large)" in full.stderr or "run (No space left on device)" in full.stderr, full.stderr
        assert "fix: make room, then type the same command again" in full.stderr
        assert not (tmp_path / "run/checkpoint.json").exists(), "no report counts whose files are not whole"
    after = launch(tmp_path, *command, "hydra.run.dir=run")
    assert after.returncode == 0, after.stderr
    assert "damaged" not in after.stdout
    assert reports(tmp_path / "run") == reports(tmp_path / "whole")
    assert adapter(tmp_path / "run") == adapter(tmp_path / "whole")


def test_secrets_of_the_environment_are_written_nowhere(tmp_path: Path, toy_files: dict[str, str]) -> None:
    secrets = {name: f"secret-of-{name}" for name in ("HF_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD")}
    command = [*SMALL, *(f"data.{key}={path}" for key, path in toy_files.items()), "hydra.verbose=true"]
    done = launch(tmp_path, *command, "hydra.run.dir=run", **secrets)
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert [str(path) for path in written if b"secret-of-" in path.read_bytes()] == []
    assert "secret-of-" not in done.stdout + done.stderr
