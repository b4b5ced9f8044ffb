"""What a training has written so far: its reports and its checkpoint, readable after any kind of end.

A run's folder holds ``config.yaml``, ``result.json`` (one JSON object a line for each report), ``checkpoint/`` and
``checkpoint.json``. The last is renamed into place after everything it names is on disk, so it is the one file that
decides where a continued run starts: a report without it counts as not made. It holds the reports, too, and checksums
of every file that a continued run reads, itself included, so that damage is seen: ``result.json`` is then written
again, the run goes on from its best report if only the last checkpoint is broken, and starts anew otherwise, each time
with a warning that names the file.
"""

from __future__ import annotations

import json
import logging
import shutil
import zlib
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
        best = best_report(self.reports, self.metric, 1 if self.mode == "max" else -1)
        assert best is not None, "asked for after the first report"
        return best

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
        if self._folder_of(_ADAPTER).is_dir():
            self.sums[_ADAPTER] = self._checksums(_ADAPTER)
        self._write()
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _write(self) -> None:
        files.write_json_lines(self.folder / _REPORTS, self.reports)
        state = {
            "reports": len(self.reports),
            "finished": self.finished,
            "checkpoint": self.checkpoint,
            "best": self.best,
            "best_report": self.best_report["report"],
            "metric": self.metric,
            "best_value": self.best_value,
            "files": self.sums,
            "rows": self.reports,
        }
        files.write_json(self.folder / _STATE, {**state, "checksum": _checksum(state)})

    def _folder_of(self, name: str) -> Path:
        return self.folder / name if name == _ADAPTER else self.checkpoints / name

    def _checksums(self, name: str) -> dict[str, str]:
        return files.checksums(self._folder_of(name))

    def _remove_unneeded(self) -> None:
        for path in self.checkpoints.iterdir():
            if path.name not in (self.checkpoint, self.best):
                shutil.rmtree(path, ignore_errors=True)

    def _read(self) -> None:
        try:
            state = _state(self.folder)
        except ValueError as error:
            self._start_anew(f"{_STATE} is damaged ({error})")
            return
        if state is None:
            return
        damaged = {name: found for name, sums in state["files"].items() if (found := self._damaged(name, sums))}
        listed = "; ".join(f"{name} is damaged ({', '.join(found)})" for name, found in damaged.items())
        if damaged and (state["best"] in damaged or state["best"] not in state["files"]):
            self._start_anew(listed if state["finished"] else f"checkpoint {listed}")
            return
        self.reports, self.finished = state["rows"], state["finished"]
        self.checkpoint, self.best, self.sums = state["checkpoint"], state["best"], state["files"]
        if damaged:
            self.reports, self.checkpoint = self.reports[: state["best_report"]], self.best
            log.warning(
                "%s: checkpoint %s; this training goes on from report %d", self.folder, listed, len(self.reports)
            )
        if damaged or not self._report_list_is_whole():
            self.sums = {name: sums for name, sums in self.sums.items() if name not in damaged}
            self._write()

    def _damaged(self, name: str, sums: dict[str, str]) -> list[str]:
        """Return the files of a folder that are not what was written."""
        folder = self._folder_of(name)
        there = self._checksums(name) if folder.is_dir() else {}
        return [file for file, checksum in sums.items() if there.get(file) != checksum]

    def _report_list_is_whole(self) -> bool:
        try:
            lines = (self.folder / _REPORTS).read_text(encoding="utf-8").splitlines()
            whole = [json.loads(line) for line in lines] == self.reports
        except (OSError, ValueError):
            whole = False
        if not whole:
            log.warning("%s: %s is damaged; written again from %s", self.folder, _REPORTS, _STATE)
        return whole

    def _start_anew(self, reason: str) -> None:
        log.warning("%s: %s; this training starts again from its beginning", self.folder, reason)
        for name in (_STATE, _REPORTS):  # so that nobody takes the old reports for those of the new start
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)


_STATE, _REPORTS, _ADAPTER = "checkpoint.json", "result.json", "adapter"


def reports_on_disk(folder: Path) -> list[dict[str, Any]]:
    """Return the reports that count in a run's folder, none where there are none or they cannot be read."""
    try:
        state = _state(folder)
    except ValueError:
        return []
    rows: list[dict[str, Any]] = state["rows"] if state else []
    return rows


def best_report(reports: list[dict[str, Any]], metric: str, sign: int) -> dict[str, Any] | None:
    """Return the best report by ``sign * metric``, the first of equals, or None where none has the metric."""
    valued = [report for report in reports if isinstance(report.get(metric), int | float)]
    return max(valued, key=lambda report: sign * float(report[metric]), default=None)


def _state(folder: Path) -> dict[str, Any] | None:
    """Return what ``checkpoint.json`` holds, None where there is none.

    Raises:
        ValueError: it is not what was written.
    """
    try:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if not isinstance(state, dict) or state.pop("checksum", None) != _checksum(state):
        raise ValueError("its content does not fit its checksum")
    return state


def _checksum(state: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(state, sort_keys=True).encode()):08x}"


def check_folder(config: Config) -> None:
    """Look at ``config.output_dir`` without changing anything there.

    Raises:
        UserError: it holds a run of another config.
    """
    folder = Path(config.output_dir)
    mine, theirs = _the_run(to_container(config)), _their_run(folder / "config.yaml")
    if theirs is None:
        return
    if mine["training"]["threads"] is None:  # as many as the process will have
        mine["training"]["threads"] = theirs["training"].get("threads")
    if mine != theirs:
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


def _claim(folder: Path, config: Config) -> None:
    """Save the config in a new folder; compare it with the one that is there."""
    check_folder(config)
    path = folder / "config.yaml"
    if _their_run(path) is None:
        if path.exists():
            log.warning("%s is damaged; written again, since no report has been made", path)
        try:
            files.write_yaml(path, _without_passwords(to_container(config)))
        except OSError as error:
            if error.errno in files.NO_ROOM:
                raise  # named by whoever says how to go on
            rule = f"output_dir: cannot write in {folder} ({error.strerror})"
            raise UserError(f"{rule}\n  fix: output_dir=FOLDER that you may write to and that has room") from None


def _without_passwords(container: dict[str, Any]) -> dict[str, Any]:
    hyperopt = container["hyperopt"]
    return {**container, "hyperopt": {**hyperopt, "storage_url": files.redacted(hyperopt["storage_url"] or "") or None}}


def _their_run(path: Path) -> dict[str, Any] | None:
    """Return what decides the run whose config is saved at ``path``, None where no run has got anywhere.

    Raises:
        UserError: the config is damaged, and there are reports that it may belong to.
    """
    try:
        container = files.read_yaml(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (yaml.YAMLError, UnicodeDecodeError):
        container = None
    if isinstance(container, dict) and "training" in container:
        return _the_run(container)
    if (path.parent / _STATE).exists():
        raise UserError(
            f"{path} is damaged, so nothing says which config the reports beside it belong to\n"
            f"  fix: put it back, or rm -r {path.parent}, or output_dir=ANOTHER_FOLDER"
        )
    return None


def _the_run(container: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in container.items() if key not in _NOT_THE_RUN}
