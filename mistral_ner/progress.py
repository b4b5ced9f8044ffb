"""What a training has written so far: its reports and its checkpoint, readable after any kind of end.

A run's folder holds ``config.yaml``, ``result.json`` (one JSON object a line for each report), ``checkpoint/`` and
``checkpoint.json``. The last is renamed into place after everything it names is on disk, so it is the one file that
decides where a continued run starts: a report without it counts as not made.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mistral_ner import files
from mistral_ner.config import Config, UserError, to_container

log = logging.getLogger(__name__)

# Keys that say where and how a run is watched, not what it computes.
_NOT_THE_RUN = ("output_dir", "search_space", "hyperopt", "budget", "tracking")


@dataclass
class Progress:
    """The reports of one training and the checkpoint to go on from."""

    folder: Path
    mode: str
    metric: str
    reports: list[dict[str, Any]] = field(default_factory=list)
    checkpoint: str | None = None  # folder name under checkpoint/, of the last report
    best: str | None = None  # folder name under checkpoint/, of the best report
    finished: bool = False
    sums: dict[str, dict[str, str]] = field(default_factory=dict)  # of the files of both folders, taken once

    @classmethod
    def open(cls, config: Config) -> Progress:
        """Return the progress in ``config.output_dir``, none in a new folder; saves the config there.

        Raises:
            UserError: the folder holds a run of another config.
        """
        folder = Path(config.output_dir)
        progress = cls(folder, config.training.mode, config.training.metric)
        _claim(folder, config)
        progress._read()
        return progress

    @property
    def best_report(self) -> dict[str, Any]:
        """The best report so far; the first of equals."""
        sign = 1 if self.mode == "max" else -1
        return max(self.reports, key=lambda report: sign * float(report[self.metric]))

    @property
    def best_value(self) -> float:
        """The metric of the best report."""
        return float(self.best_report[self.metric])

    @property
    def checkpoints(self) -> Path:
        """The folder that the checkpoints lie in."""
        return self.folder / "checkpoint"

    def add(self, report: dict[str, Any], checkpoint: str) -> None:
        """Make a report and its checkpoint count; the checkpoint's files must be complete."""
        self.reports.append(report)
        if self.best_report is report:
            self.best = checkpoint
        self.checkpoint = checkpoint
        self.sums[checkpoint] = self._checksums(checkpoint)
        self.sums = {name: sums for name, sums in self.sums.items() if name in (self.checkpoint, self.best)}
        self._write()
        self._remove_unneeded()

    def finish(self) -> None:
        """Mark the run as ended with its whole budget used; its state to go on from is no longer needed."""
        self.finished, self.checkpoint, self.sums = True, None, {}
        self._write()
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _write(self) -> None:
        files.write_json_lines(self.folder / "result.json", self.reports)
        state = {
            "reports": len(self.reports),
            "finished": self.finished,
            "checkpoint": self.checkpoint,
            "best": self.best,
            "best_report": self.best_report["report"],
            "metric": self.metric,
            "best_value": self.best_value,
            "files": self.sums,
        }
        files.write_json(self.folder / "checkpoint.json", state)

    def _checksums(self, name: str) -> dict[str, str]:
        return files.checksums(self.checkpoints / name)

    def _remove_unneeded(self) -> None:
        for path in self.checkpoints.iterdir():
            if path.name not in (self.checkpoint, self.best):
                shutil.rmtree(path, ignore_errors=True)

    def _read(self) -> None:
        try:
            state = json.loads((self.folder / "checkpoint.json").read_text(encoding="utf-8"))
            lines = (self.folder / "result.json").read_text(encoding="utf-8").splitlines()
            reports = [json.loads(line) for line in lines[: state["reports"]]]
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            log.warning(
                "%s: unreadable progress (%s); this training starts again from its beginning", self.folder, error
            )
            return
        broken = [name for name, sums in state["files"].items() if not self._intact(name, sums)]
        if broken or len(reports) < state["reports"]:
            log.warning(
                "%s: checkpoint %s is damaged; this training starts again from its beginning",
                self.folder,
                ", ".join(broken) or "or report list",
            )
            return
        self.reports, self.finished = reports, state["finished"]
        self.checkpoint, self.best, self.sums = state["checkpoint"], state["best"], state["files"]

    def _intact(self, name: str, sums: dict[str, str]) -> bool:
        folder = self.checkpoints / name
        return folder.is_dir() and self._checksums(name) == sums


def _claim(folder: Path, config: Config) -> None:
    path = folder / "config.yaml"
    mine = _the_run(to_container(config))
    if path.exists():
        theirs = _the_run(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
        if theirs != mine:
            changed = sorted(
                f"{group}.{key}"
                for group in mine
                if isinstance(mine[group], dict) and isinstance(theirs.get(group), dict)
                for key in mine[group]
                if mine[group][key] != theirs[group].get(key)
            )
            raise UserError(
                f"{folder} holds a run of another config (differs in {', '.join(changed) or 'seed'}); "
                f"to train this one: output_dir=ANOTHER_FOLDER"
            )
    else:
        files.write_yaml(path, to_container(config))


def _the_run(container: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in container.items() if key not in _NOT_THE_RUN}


def reports_on_disk(folder: Path) -> list[dict[str, Any]]:
    """Return the reports that count in a run's folder, none where there are none or they cannot be read."""
    try:
        count = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))["reports"]
        lines = (folder / "result.json").read_text(encoding="utf-8").splitlines()[:count]
        return [json.loads(line) for line in lines]
    except (OSError, ValueError, KeyError, TypeError):
        return []
