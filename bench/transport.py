"""What a report costs where nothing is shared, against a folder that driver and worker share.

.venv/bin/python bench/transport.py            as root, on Linux; writes results/transport.json

Two hosts are made of namespaces, joined by a veth pair: one with the head of a Ray and the driver, one with a worker.
The study lies on the disk. On one side the worker sees it; on the others it does not, and each report sends what has
changed through Ray: over the bare pair, and over one that lets 1 Gbit/s through. A trial makes reports as a training
does: a new checkpoint, the last one deleted, result.json and checkpoint.json rewritten. What is timed is a report, from
its call to the driver's answer. Sizes: those of `minilm` with LoRA on all linear layers (adapter and optimiser), and
200 MB, which is what LoRA of rank 16 on a 7B model leaves.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from machine import machine

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tests.namespaces import PROJECT, PYTHON, Host, Network, start_ray, why_not  # noqa: E402

SIZES = {"minilm": 15_000_000, "7b": 200_000_000}  # bytes of a checkpoint
SIDES = ("shared", "nothing shared", "nothing shared, 1 Gbit/s")
REPORTS = 6
DRIVER = """
import logging, sys, yaml
sys.path[:0] = ["{project}", "{project}/bench"]
from transport import checkpoints
from mistral_ner.hyperopt import search
logging.basicConfig(level="INFO")
search(yaml.safe_load(open("/tmp/config.yaml")), checkpoints({size}))
"""


def checkpoints(size: int) -> Any:
    """Return an objective that leaves checkpoints of so many bytes, and notes how long its reports took."""

    def objective(config: Any, report: Any) -> None:
        import json as json_
        import os
        import time as time_
        from pathlib import Path as Path_

        from mistral_ner.training.checkpoint import Progress

        folder = Path_(config.output_dir)
        progress, took = Progress(folder, "max", "eval_f1"), []
        for number in range(1, config.training.reports + 1):
            place = folder / "checkpoint" / f"checkpoint-{number}"
            place.mkdir(parents=True)
            for part in range(4):
                (place / f"{part}.bin").write_bytes(os.urandom(size // 4))
            metrics = {"eval_f1": number / 100}
            progress.add({"report": number, **metrics}, place.name)
            (folder / "took.json").write_text(json_.dumps(took))
            began = time_.perf_counter()
            report(number, metrics)
            took.append(time_.perf_counter() - began)
        (folder / "took.json").write_text(json_.dumps(took))

    return objective


def main() -> None:
    """Measure every side with every size and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=REPORTS)
    args = parser.parse_args()
    if (reason := why_not()) is not None:
        sys.exit(f"not measured: {reason}")
    rows = []
    for side in SIDES:
        rows += on_a_side(side, args.reports)
        print(json.dumps(rows[-len(SIZES) :], indent=2), flush=True)
    written = {"machine": machine(), "reports": args.reports, "rows": rows}
    (HERE / "results/transport.json").write_text(json.dumps(written, indent=2) + "\n")


def on_a_side(side: str, reports: int) -> list[dict[str, Any]]:
    """Return a row for each size."""
    build = HERE.parent / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as folder, Network() as network:
        head, worker = network.add("head"), network.add("worker")
        if "nothing" in side:
            worker.forget_project()
        if "Gbit" in side:
            for host in (head, worker):
                host.do(f"tc qdisc add dev {host.link} root tbf rate 1gbit burst 256kb latency 50ms")
        log = Path(folder) / "ray.txt"
        start_ray(head, log, cpus=0)
        time.sleep(10)
        start_ray(worker, log, head, cpus=1)
        time.sleep(10)
        results = Path(PROJECT) / Path(folder).relative_to(HERE.parent)
        return [{"side": side, "checkpoint": name, **measured(head, results, size, reports, Path(folder))}
                for name, size in SIZES.items()]  # fmt: skip


def measured(head: Host, results: Path, size: int, reports: int, here: Path) -> dict[str, float]:
    """Run one trial and return the median of its reports' seconds, and the bytes that each sent."""
    config = {
        "output_dir": "/tmp/run",
        "training": {"reports": reports},
        "search_space": {"learning_rate": {"type": "loguniform", "low": 1e-4, "high": 1e-2}},
        "hyperopt": {
            "strategy": "combined",
            "num_trials": 1,
            "max_concurrent": 1,
            "ray_address": f"{head.address}:6379",
            "results_dir": str(results),
            "study_name": "s",
            "asha_grace_period": reports,
            "asha_max_t": reports,
        },
    }
    head.see("/tmp/config.yaml").write_text(yaml.safe_dump(config))
    log = here / f"driver_{size}.txt"
    before = sent_from(head)
    done = head.start(PYTHON, "-c", DRIVER.format(project=PROJECT, size=size), log=log).wait(600)
    assert done == 0, log.read_text()
    took = json.loads((here / "s/trial_0000/took.json").read_text())
    shutil.rmtree(here / "s")
    seconds = statistics.median(took)
    return {
        "s_per_report": round(seconds, 4),
        "s_slowest": round(max(took), 4),
        "mb_per_report": round((sent_from(head) - before) / 1e6 / reports, 1),
        "share_at_one_report_in_30_s": round(seconds / (30 + seconds), 4),
    }


def sent_from(head: Host) -> int:
    """Return the bytes that have come to a host from the others."""
    lines = Path(f"/proc/{head.pid}/net/dev").read_text().splitlines()
    return int(next(line for line in lines if head.link in line).split()[1])


if __name__ == "__main__":
    main()
