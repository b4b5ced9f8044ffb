"""The command line of the report."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mistral_ner.errors import UserError, show_user_errors
from mistral_ner.garbage import collect_rarely
from mistral_ner.hyperopt.results import report
from mistral_ner.hyperopt.results.summary import summarise
from mistral_ner.hyperopt.study.opening import find_newest, read_study
from mistral_ner.hyperopt.study.study import Study


def main() -> None:
    """Write the report of the studies that the command line names."""
    parser = argparse.ArgumentParser(description=report.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", type=Path, help="folders; left out, the newest in multirun/")
    parser.add_argument("-o", "--output", type=Path, help="where the page of several studies goes (compare.html)")
    arguments = parser.parse_args()
    collect_rarely()
    with show_user_errors():
        print(write_report(arguments.studies or [find_newest(Path("multirun"))], arguments.output))


def write_report(folders: list[Path], output: Path | None) -> Path:
    """Write the report of one study into its folder, or that of several to ``output``.

    Raises:
        UserError: a folder holds no study, or the studies looked for different metrics.
    """
    found = [_read(folder) for folder in folders]
    if len(found) == 1:
        if output is not None:
            raise UserError(
                "--output is for several studies, found one; fix: leave it out, report.html is in its folder"
            )
        return report.write(*found[0])
    metrics = {(summary["metric"], summary["mode"]) for _, summary in found}
    if len(metrics) > 1:
        raise UserError(
            f"studies of different metrics cannot share an axis, found {', '.join(sorted(m for m, _ in metrics))}; "
            f"fix: name studies of one metric and mode"
        )
    return report.compare(found, output or Path("compare.html"))


def _read(folder: Path) -> tuple[Study, dict[str, Any]]:
    study = read_study(folder)
    return study, asdict(summarise(study))


if __name__ == "__main__":
    main()
