"""What decoding by IOB2's rules is worth, and the mean of the last reports' adapters: F1 of the same trainings.

.venv/bin/python bench/decode.py --sets music politics wnut17_500 sample --seeds 1 2

Trains the default recipe of bench/recipe.py on one thread, and keeps the adapter of each report. Every F1 is computed
twice from the same scores of the words: by the best tag of each word, and by the best sequence in which IOB2 holds.

- results/decode.csv: dev and test of the adapters "best" (that of the best report, which a training keeps),
  "iob2's best" (the one that it would keep if reports were decoded so), "mean 2" and "mean 3" (the means of the weights
  of the last two and three reports).
- results/decode_reports.csv: dev at each report, with the seconds that its scores took, and decoding them each way.

Rows that are there are not made again. ``--print`` only prints the table for README.md.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from recipe import SETS, files_of
from tables import append_row, read_rows

from mistral_ner.config.check import check
from mistral_ner.data.encoded.encode import Encoded
from mistral_ner.decoding import decode
from mistral_ner.train import fit
from mistral_ner.training.evaluate import Evaluation, Forward
from mistral_ner.training.inputs.prepare import prepare

HERE = Path(__file__).parent
TABLE, REPORTS = HERE / "results/decode.csv", HERE / "results/decode_reports.csv"
COLUMNS = ("set", "seed", "adapter", "dev_argmax", "dev_iob2", "test_argmax", "test_iob2")
OF_REPORTS = ("set", "seed", "report", "dev_argmax", "dev_iob2", "seconds_scores", "seconds_argmax", "seconds_iob2")
MEANS = (2, 3)  # reports


def main() -> None:
    """Train what the table lacks, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared/data")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["sample", "music", "politics", "wnut17_500"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--print", action="store_true")
    args = parser.parse_args()
    done = {(row["set"], int(row["seed"])) for row in read_rows(TABLE)}
    for seed in args.seeds:
        for name in args.sets:
            if (name, seed) not in done and not args.print:
                measure(name, files_of(args.data, name), seed)
    print_tables()


def measure(name: str, read: dict[str, Any], seed: int) -> None:
    """Train once and add the rows."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = {"data": {"source": "files", **read}} if read else {}
        config = check({"output_dir": f"{folder}/run", "seed": seed, "training": {"threads": 1}, **data})

        def keep(number: int, metrics: dict[str, float]) -> None:
            newest = max((folder / "run/checkpoint").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
            (folder / str(number)).mkdir()
            for path in newest.glob("adapter_*"):
                shutil.copy2(path, folder / str(number))

        fit(config, keep)
        for kind, values, report in score_all(config, prepare(config)[1], folder):
            if report:
                append_row(REPORTS, OF_REPORTS, [name, seed, report, *values])
            else:
                append_row(TABLE, COLUMNS, [name, seed, kind, *values])


def score_all(config: Any, encoded: Encoded, folder: Path) -> list[tuple[str, list[float], int]]:
    """Return the F1 of each report on dev, then those of the best adapter and of the means on dev and test."""
    from mistral_ner.model.stored import lend_trained, load_adapter

    count = config.training.reports
    for most in MEANS:
        average([folder / str(count - back) for back in range(most)], folder / f"mean {most}")
    found: list[tuple[str, list[float], int]] = []
    with lend_trained(folder / "run/adapter") as trained:
        pad_id = int(trained.tokenizer.pad_token_id or 0)
        found.append(("best", both_ways(trained.model, encoded, ("dev", "test"), pad_id), 0))
        for report in range(1, count + 1):
            load_adapter(trained.model, folder / str(report))  # type: ignore[arg-type]
            times: list[float] = []
            scores = both_ways(trained.model, encoded, ("dev",), pad_id, times)
            found.append(("", [*scores, *times], report))
        by_iob2 = max((values[1], -report) for _, values, report in found if report)[1]
        for name, place in [("iob2's best", str(-by_iob2)), *((f"mean {most}", f"mean {most}") for most in MEANS)]:
            load_adapter(trained.model, folder / place)  # type: ignore[arg-type]
            found.append((name, both_ways(trained.model, encoded, ("dev", "test"), pad_id), 0))
    return found


def average(adapters: Sequence[Path], folder: Path) -> None:
    """Write the mean of the weights of some adapters, those of LoRA's two factors each by itself."""
    from safetensors.torch import load_file, save_file

    states = [load_file(path / "adapter_model.safetensors") for path in adapters]
    folder.mkdir()
    mean = {name: sum(state[name].double() for state in states) / len(states) for name in states[0]}
    save_file({name: mean[name].to(states[0][name].dtype) for name in mean}, folder / "adapter_model.safetensors")


def both_ways(
    model: Any, encoded: Encoded, splits: Sequence[str], pad_id: int, times: list[float] | None = None
) -> list[float]:
    """Return F1 by word and by IOB2's rules, of each split; ``times`` gets the seconds of scores and decodings."""
    found, times = [], times if times is not None else []
    for split in splits:
        evaluation = Evaluation.of(encoded, split, 2048)
        forward = Forward(pad_id, evaluation.batch_tokens)
        begun = time.process_time()
        logits = np.concatenate(list(forward.word_logits(model, evaluation.rows)))
        times.append(time.process_time() - begun)
        for decoding in ("argmax", "iob2"):
            begun = time.process_time()
            tags = decode(logits, evaluation.lengths, evaluation.labels, decoding)
            times.append(time.process_time() - begun)
            found.append(evaluation.score(tags)["f1"])
    return found


def print_tables() -> None:
    """Print every row with what iob2 gains on it, and what the adapter gains over the best report's."""
    rows = read_rows(TABLE)
    best = {(row["set"], row["seed"]): row for row in rows if row["adapter"] == "best"}
    for row in rows:
        of, over = row, best[row["set"], row["seed"]]
        gains = [float(of[f"{split}_iob2"]) - float(of[f"{split}_argmax"]) for split in ("dev", "test")]
        gains += [float(of[name]) - float(over[name]) for name in COLUMNS[3:]]
        print("| " + " | ".join(row.values()) + " |", *(f"{gain:+.4f}" for gain in gains))
    for row in read_rows(REPORTS):
        print(*row.values())


if __name__ == "__main__":
    main()
