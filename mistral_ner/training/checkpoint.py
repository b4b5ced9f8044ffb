"""The reports and the checkpoint of a training on disk, readable however it ended.

A run's folder holds ``config.yaml``, ``result.json`` (one JSON object a line for each report), ``checkpoint/`` and
``checkpoint.json``. The last is renamed into place after everything it names is on disk, so it alone decides where a
continued run starts: a report that it does not name does not count. It also holds the reports, and checksums of every
file that a continued run reads, itself included. On damage ``result.json`` is written again; if only the last
checkpoint is broken, the run continues from its best report, and otherwise it starts over. Each time a warning names
the damaged file.
"""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mistral_ner import files
from mistral_ner.config.check import read
from mistral_ner.config.schema import Config, DataConfig, TrainingConfig, to_container
from mistral_ner.data.read import reads_the_same
from mistral_ner.errors import UserError

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoint"  # the folder of the checkpoints, in a run's folder

# Keys that do not change what a run computes.
_NOT_THE_RUN = ("output_dir", "search_space", "hyperopt", "budget", "tracking")


@dataclass
class Progress:
    """The reports of one training and the checkpoint to continue from."""

    folder: Path
    mode: str
    metric: str
    reports: list[dict[str, Any]] = field(default_factory=list)
    checkpoint: str | None = None  # folder name under checkpoint/, of the last report
    best: str | None = None  # folder name under checkpoint/, of the best report
    finished: bool = False
    sums: dict[str, dict[str, str]] = field(default_factory=dict)  # checksums of the files of both folders

    @classmethod
    def open(cls, config: Config) -> Progress:
        """Return the progress in ``config.output_dir``, and save the config there; a new folder has no progress.

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

    def is_over(self, training: TrainingConfig) -> bool:
        """Whether every report was made that ``training`` allows."""
        values = [float(row[self.metric]) for row in self.reports]
        last = training.stop_after or training.reports
        return len(values) >= last or has_lost_patience(values, 1 if self.mode == "max" else -1, training.patience)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / CHECKPOINTS

    def add(self, report: dict[str, Any], checkpoint: str) -> None:
        """Record a report and its checkpoint, whose files must be complete."""
        self.reports.append(report)
        if self.best_report is report:
            self.best = checkpoint
        self.checkpoint = checkpoint
        self.sums[checkpoint] = self._checksums(checkpoint)
        self.sums = {name: sums for name, sums in self.sums.items() if name in (self.checkpoint, self.best)}
        self._write()
        self._remove_unneeded()

    def finish(self) -> None:
        """Mark the run as finished, with its whole budget used, and delete the checkpoints."""
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
        files.write_json(self.folder / STATE, {**state, "checksum": _checksum(state)})

    def _folder_of(self, name: str) -> Path:
        return self.folder / name if name == _ADAPTER else self.checkpoints / name

    def _checksums(self, name: str) -> dict[str, str]:
        return files.checksum_files(self._folder_of(name))

    def _remove_unneeded(self) -> None:
        for path in self.checkpoints.iterdir():
            if path.name not in (self.checkpoint, self.best):
                shutil.rmtree(path, ignore_errors=True)

    def _read(self) -> None:
        try:
            state = _state(self.folder)
        except ValueError as error:
            self._start_over(f"{STATE} is damaged ({error})")
            return
        if state is None:
            return
        damaged = {name: found for name, sums in state["files"].items() if (found := self._find_damaged(name, sums))}
        listed = "; ".join(f"{name} is damaged ({', '.join(found)})" for name, found in damaged.items())
        if damaged and (state["best"] in damaged or state["best"] not in state["files"]):
            self._start_over(listed if state["finished"] else f"checkpoint {listed}")
            return
        self.reports, self.finished = state["rows"], state["finished"]
        self.checkpoint, self.best, self.sums = state["checkpoint"], state["best"], state["files"]
        if damaged:
            self.reports, self.checkpoint = self.reports[: state["best_report"]], self.best
            log.warning(
                "%s: checkpoint %s; this training continues from report %d", self.folder, listed, len(self.reports)
            )
        if damaged or not self._report_list_is_whole():
            self.sums = {name: sums for name, sums in self.sums.items() if name not in damaged}
            self._write()

    def _find_damaged(self, name: str, sums: dict[str, str]) -> list[str]:
        """Return the files of a folder that have changed since they were written."""
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
            log.warning("%s: %s is damaged; written again from %s", self.folder, _REPORTS, STATE)
        return whole

    def _start_over(self, reason: str) -> None:
        log.warning("%s: %s; this training starts again", self.folder, reason)
        for name in (STATE, _REPORTS):  # so that nobody takes the old reports for new ones
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)


STATE, _REPORTS, _ADAPTER = "checkpoint.json", "result.json", "adapter"


def reports_on_disk(folder: Path) -> list[dict[str, Any]]:
    """Return the reports that count in a run's folder; an empty list if there are none or they cannot be read."""
    try:
        state = _state(folder)
    except ValueError:
        return []
    rows: list[dict[str, Any]] = state["rows"] if state else []
    return rows


def named_files(folder: Path) -> list[str]:
    """Return the files that a run's ``checkpoint.json`` names, by their paths in the run's folder."""
    try:
        state = _state(folder)
    except ValueError:
        return []
    named = state["files"] if state else {}
    places = {name: name if name == _ADAPTER else f"{CHECKPOINTS}/{name}" for name in named}
    return [f"{places[name]}/{file}" for name, sums in named.items() for file in sums]


def finished_value(folder: Path) -> float | None:
    """Return the metric of a run that has ended and whose adapter is as it was written, else None; changes nothing."""
    try:
        state = _state(folder)
    except ValueError:
        return None
    sums = state["files"].get(_ADAPTER) if state and state["finished"] else None
    if not sums or not (folder / _ADAPTER).is_dir():
        return None
    there = files.checksum_files(folder / _ADAPTER)
    return float(state["best_value"]) if sums.items() <= there.items() else None  # type: ignore[index]


def best_report(reports: list[dict[str, Any]], metric: str, sign: int) -> dict[str, Any] | None:
    """Return the report with the highest ``sign * metric``, the first of equals; None if no report has the metric."""
    values = {place: report.get(metric) for place, report in enumerate(reports)}
    best = find_best({place: float(value) for place, value in values.items() if isinstance(value, int | float)}, sign)
    return None if best is None else reports[best[0]]


def find_best(values: Mapping[int, float], sign: int) -> tuple[int, float] | None:
    """Return the key and value with the highest ``sign * value``, the lowest key of equals; None without values."""
    return max(values.items(), key=lambda item: (sign * item[1], -item[0]), default=None)


def has_lost_patience(values: Sequence[float], sign: int, patience: int | None) -> bool:
    """Whether the last ``patience`` values are no better than the best one before them.

    As long as all values are the same they say nothing: a tagger's first F1 are 0, of good settings and of poor ones.
    """
    if patience is None or len(set(values)) < 2:
        return False
    best = find_best(dict(enumerate(values)), sign)
    return best is not None and len(values) - 1 - best[0] >= patience


def _state(folder: Path) -> dict[str, Any] | None:
    """Return what ``checkpoint.json`` holds, None if there is no such file.

    Raises:
        ValueError: it has changed since it was written.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if not isinstance(state, dict) or state.pop("checksum", None) != _checksum(state):
        raise ValueError("its content does not fit its checksum")
    return state


def _checksum(state: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(state, sort_keys=True).encode()):08x}"


def check_folder(config: Config) -> None:
    """Check ``config.output_dir`` without changing anything there.

    Raises:
        UserError: it holds a run of another config.
    """
    folder = Path(config.output_dir)
    mine, theirs = _the_run(to_container(config)), _their_run(folder / "config.yaml")
    if theirs is None:
        return
    if mine["training"]["threads"] is None:  # the run will use what its process has
        mine["training"]["threads"] = theirs["training"].get("threads")
    if mine["data"] != theirs.get("data") and _reads_the_same(theirs, config):
        theirs["data"] = mine["data"]
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


def _reads_the_same(theirs: dict[str, Any], config: Config) -> bool:
    """Whether a run of an earlier version has read the sentences that this one reads."""
    saved = theirs.get("data")
    if not isinstance(saved, dict) or {*saved, "cache_dir"} != set(vars(config.data)):
        return False
    saved = {**saved, "cache_dir": config.data.cache_dir}
    return reads_the_same(DataConfig(**saved), config.data)


def _claim(folder: Path, config: Config) -> None:
    """Save the config in a new folder; in one that has a run, check that it is the same."""
    check_folder(config)
    path = folder / "config.yaml"
    if _their_run(path) is None:
        if path.exists():
            log.warning("%s is damaged; written again, since there is no report yet", path)
        try:
            files.write_yaml(path, _without_passwords(to_container(config)))
        except OSError as error:
            if error.errno in files.NO_ROOM:
                raise  # a caller says how to continue
            rule = f"output_dir: cannot write in {folder} ({error.strerror})"
            raise UserError(f"{rule}\n  fix: output_dir=FOLDER that you may write to and that has room") from None


def _without_passwords(container: dict[str, Any]) -> dict[str, Any]:
    hyperopt = container["hyperopt"]
    return {**container, "hyperopt": {**hyperopt, "storage_url": files.redact(hyperopt["storage_url"] or "") or None}}


def _their_run(path: Path) -> dict[str, Any] | None:
    """Return what decides the run whose config is at ``path``, None if there is no config or no report yet.

    Raises:
        UserError: the config is damaged, and there are reports that may belong to it.
    """
    try:
        container = files.read_yaml(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (yaml.YAMLError, UnicodeDecodeError):
        container = None
    if isinstance(container, dict) and "training" in container:
        return _the_run(_as_now(container))
    if (path.parent / STATE).exists():
        raise UserError(
            f"{path} is damaged, so nothing says which config the reports beside it belong to\n"
            f"  fix: put it back, or rm -r {path.parent}, or output_dir=ANOTHER_FOLDER"
        )
    return None


def _as_now(container: dict[str, Any]) -> dict[str, Any]:
    """Return a saved config with the keys that have come since; as it is if this version does not take it."""
    config, faults = read(container)
    return container if faults or config is None else to_container(config)


def _the_run(container: dict[str, Any]) -> dict[str, Any]:
    run = {key: value for key, value in container.items() if key not in _NOT_THE_RUN}
    if isinstance(data := run.get("data"), dict):
        run["data"] = {key: value for key, value in data.items() if key != "cache_dir"}
    return run
