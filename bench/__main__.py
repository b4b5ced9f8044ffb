"""All measurements, one after the other, on a machine that does nothing else.

make bench                               all of them; about six hours on two cores, of which quality takes five
make bench DATA=FOLDER                   FOLDER holds crossner/music and wnut17; the default is ../shared/data
.venv/bin/python bench noop peer         some of them, by the name of their script

Each script writes its figures, with date, machine and versions, to results/; README.md beside this file says what they
mean.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
MUSIC, WNUT = "crossner/music", "wnut17"  # below --data
_FEWER = ("--batch", "8", "--seeds", "2")
# script, its arguments, and the data that it is given, if any
RUNS: tuple[tuple[str, tuple[str, ...], str | None], ...] = (
    ("driver", (), None),
    ("noop", (), None),
    ("noop", ("--trials", "5000", "--pairs", "1"), None),
    ("ask_time", (), None),
    ("idle", (), None),
    ("share", (), MUSIC),
    ("peer", (), MUSIC),
    ("steps", ("padding", "--lr", "2e-4", "--warmup", "0.1", "--schedule", "constant_with_warmup"), WNUT),
    ("steps", ("prefix", "--lr", "5e-3", "--epochs", "12", "--dev", "100", "--seeds", "5"), MUSIC),
    (
        "steps",
        ("prefix", "--model", "smollm2_135m", "--layers", "top:6", "--epochs", "2", "--dev", "50", *_FEWER),
        MUSIC,
    ),
    ("spin", ("--steps", "40"), MUSIC),
    ("ablation", (), MUSIC),
    ("memory", (), MUSIC),
    ("start", (), None),
    ("transport", (), None),
    ("decode", (), "."),
    ("quality", ("--sets", "sample", "music", "politics", "wnut17_500"), "."),
)


def main() -> int:
    """Run the scripts and return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(dict.fromkeys(name for name, *_ in RUNS)))
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    args = parser.parse_args()
    if unknown := set(args.names) - {name for name, *_ in RUNS}:
        parser.error(f"no measurement is called {', '.join(sorted(unknown))}")
    runs = [run for run in RUNS if not args.names or run[0] in args.names]
    missing = sorted({part for *_, part in runs if part is not None and not (args.data / part).is_dir()})
    if missing:
        print(
            f"the measurements need {' and '.join(missing)} in {args.data}, which is not there\n"
            "  fix: make bench DATA=FOLDER, where FOLDER holds them (CoNLL-like files, train, dev and test)",
            file=sys.stderr,
        )
        return 1
    failed = []
    for name, arguments, part in runs:
        data = ("--data", str(args.data / part)) if part is not None else ()
        command = [sys.executable, str(HERE / f"{name}.py"), *arguments, *data]
        print(f"== {name} {' '.join(arguments)}", flush=True)
        begun = time.monotonic()
        done = subprocess.run(command, cwd=HERE.parent)
        print(f"== {name}: {time.monotonic() - begun:.0f} s, exit code {done.returncode}", flush=True)
        if done.returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
