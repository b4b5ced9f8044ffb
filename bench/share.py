"""What a worker does with its time in a `combined` study, and how long a warm one takes to its first optimiser step.

.venv/bin/python bench/share.py --data FOLDER   FOLDER holds crossner/music's files; writes results/share.json

Twenty trials of `minilm` on CrossNER music (100 training sentences, the first 100 of dev), four epochs, nine reports,
the default space, two at once, one thread each. The objective is the package's ``fit`` with clocks around it: a
training step lasts from the fetched batch to the changed weights, an evaluation from its first batch to its scores.
Everything else is overhead: adapters, optimisers, checkpoints, files, and the time between two trials.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from machine import machine

HERE = Path(__file__).parent
TRIALS, AT_ONCE, DEV = 20, 2, 100


def main() -> None:
    """Run the study and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=TRIALS)
    args = parser.parse_args()
    os.environ.update(RAY_worker_niceness="0")  # Ray gives its workers the least of a busy machine
    with tempfile.TemporaryDirectory() as folder:
        searched(args.data.absolute(), Path(folder), args.trials)
        found = figures(Path(folder) / "s")
    written = {"machine": machine(), **found}
    (HERE / "results/share.json").write_text(json.dumps(written, indent=2) + "\n")
    print(json.dumps(written, indent=2))


def searched(data: Path, folder: Path, trials: int) -> None:
    """Search with the default config; only data, number of trials and folders are given."""
    from hydra import compose, initialize_config_dir

    import mistral_ner.hyperopt.sweepers  # noqa: F401  registers the engines with Hydra
    from mistral_ner.hyperopt import search

    overrides = [
        *("hyperopt=combined", f"budget.num_trials={trials}", f"budget.max_concurrent={AT_ONCE}", "data=files"),
        *(f"data.train_file={data}/train.txt", f"data.dev_file={data}/dev.txt", f"data.test_file={data}/test.txt"),
        *(f"data.max_dev_sentences={DEV}", f"data.cache_dir={folder}/cache", "output_dir=."),
        *(f"hyperopt.results_dir={folder}", "hyperopt.study_name=s"),
    ]
    with initialize_config_dir(str(HERE.parent / "conf")):
        cfg = compose("config", overrides)
    search(cfg, timed_fit())


def timed_fit() -> Any:
    """Return ``fit`` with clocks; made in a function, so that it travels to workers that know nothing of this file."""

    def objective(config: Any, report: Any) -> None:
        import json as json_
        import os
        import time
        from pathlib import Path as Path_

        begun = time.time()
        from transformers import TrainerCallback

        from mistral_ner.train import fit
        from mistral_ner.training.trainer import NerTrainer

        seen: dict[str, Any] = {"process": os.getpid(), "begun": begun, "training": 0.0, "evaluation": 0.0, "steps": 0}
        seen |= {"cpu": time.process_time(), "cpu_in_steps": 0.0}

        class Clock(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                self.at, self.cpu = time.time(), time.process_time()
                seen.setdefault("first_step_begun", self.at)

            def on_step_end(self, *_: Any, **__: Any) -> None:
                now = time.time()
                seen["training"] += now - self.at
                seen["cpu_in_steps"] += time.process_time() - self.cpu
                seen["steps"] += 1
                seen.setdefault("first_step_ended", now)

        init, evaluate = NerTrainer.__init__, NerTrainer.evaluate

        def with_clock(self: Any, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **kwargs)
            self.add_callback(Clock())

        def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
            at, cpu = time.time(), time.process_time()
            found = evaluate(self, *args, **kwargs)
            seen["evaluation"] += time.time() - at
            seen["cpu_in_steps"] += time.process_time() - cpu
            return found

        def noted(*args: Any) -> Any:
            seen["reported"] = time.time()
            seen["stopped"] = report(*args)
            return seen["stopped"]

        NerTrainer.__init__, NerTrainer.evaluate = with_clock, timed  # type: ignore[method-assign]
        try:
            fit(config, noted)
        finally:
            NerTrainer.__init__, NerTrainer.evaluate = init, evaluate  # type: ignore[method-assign]
            seen["ended"], seen["cpu"] = time.time(), time.process_time() - seen["cpu"]
            (Path_(config.output_dir) / "times.json").write_text(json_.dumps(seen))

    return objective


def figures(folder: Path) -> dict[str, Any]:
    """Return shares and seconds from the times that the trials wrote down and those in the study."""
    from mistral_ner.hyperopt.spec.plan import trial_name
    from mistral_ner.hyperopt.study.opening import read_study

    trials = read_study(folder).trials
    rows = []
    for trial in trials:
        row = json.loads((folder / trial_name(trial.number) / "times.json").read_text())
        assert trial.datetime_start is not None
        rows.append({**row, "suggested": trial.datetime_start.timestamp(), "reports": len(trial.intermediate_values)})
    workers: dict[int, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["begun"]):
        workers.setdefault(row["process"], []).append(row)
    for own in workers.values():
        if own[-1]["stopped"]:  # it hears of that with the next trial, or at the end of the search: an idle slot
            own[-1]["ended"] = own[-1]["reported"]
    worked = sum(row["training"] + row["evaluation"] for row in rows)
    lived = sum(own[-1]["ended"] - own[0]["begun"] for own in workers.values())
    slots = AT_ONCE * (max(row["ended"] for row in rows) - min(row["suggested"] for row in rows))
    warm = [row for own in workers.values() for row in own[1:]]
    gaps = [after["begun"] - before["ended"] for own in workers.values() for before, after in pairwise(own)]
    in_trials = sum(row["ended"] - row["begun"] for row in rows)
    return {
        "trials": len(rows),
        "reports": sum(row["reports"] for row in rows),
        "workers": len(workers),
        "share_in_steps_of_worker_time": round(worked / lived, 3),
        "share_in_steps_of_trial_time": round(worked / in_trials, 3),
        "share_in_steps_of_the_processor_time_of_warm_trials": round(
            sum(row["cpu_in_steps"] for row in warm) / sum(row["cpu"] for row in warm), 3
        ),
        "share_in_steps_of_the_slots_from_the_first_suggestion": round(worked / slots, 3),
        "training_s": round(sum(row["training"] for row in rows), 1),
        "evaluation_s": round(sum(row["evaluation"] for row in rows), 1),
        "between_two_trials_s_median": round(statistics.median(gaps), 3),
        "suggestion_to_first_step_s_median": round(
            statistics.median(row["first_step_begun"] - row["suggested"] for row in warm), 3
        ),
        "suggestion_to_end_of_first_step_s_median": round(
            statistics.median(row["first_step_ended"] - row["suggested"] for row in warm), 3
        ),
        "first_trials_of_workers_to_first_step_s": [
            round(own[0]["first_step_begun"] - own[0]["suggested"], 1) for own in workers.values()
        ],
    }


if __name__ == "__main__":
    main()
