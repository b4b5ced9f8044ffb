"""What decoding by IOB2's rules is worth: F1 on dev and test of the same trainings, with it and without.

.venv/bin/python bench/decode.py --sets music politics wnut17_500 sample --seeds 1 2

Trains the default recipe of bench/recipe.py on one thread, scores it both ways, and adds a line to results/decode.csv.
Rows that are there are not made again.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from quality import files_of
from recipe import SETS

from mistral_ner.config.check import check
from mistral_ner.decoding import decode
from mistral_ner.train import fit
from mistral_ner.training.evaluate import Evaluation, Forward
from mistral_ner.training.prepare import prepare

HERE = Path(__file__).parent
TABLE = HERE / "results/decode.csv"
COLUMNS = ("set", "seed", "dev_by_word", "dev_iob2", "test_by_word", "test_iob2")


def main() -> None:
    """Train what the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared/data")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["sample", "music", "politics", "wnut17_500"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    args = parser.parse_args()
    done = {(row["set"], int(row["seed"])) for row in csv.DictReader(TABLE.open())} if TABLE.exists() else set()
    for seed in args.seeds:
        for name in args.sets:
            if (name, seed) not in done:
                append([name, seed, *both_ways(files_of(args.data, name), seed)])


def both_ways(read: dict[str, Any], seed: int) -> list[float]:
    """Return F1 by word and by IOB2's rules, on dev and on test."""
    from mistral_ner.model.stored import lend_trained

    with tempfile.TemporaryDirectory() as folder:
        data = {"data": {"source": "files", **read}} if read else {}
        config = check({"output_dir": f"{folder}/run", "seed": seed, "training": {"threads": 1}, **data})
        fit(config)
        _, encoded = prepare(config)
        found = []
        with lend_trained(Path(folder, "run/adapter")) as trained:
            for split in ("dev", "test"):
                evaluation = Evaluation.of(encoded, split, config.training.eval_batch_tokens)
                forward = Forward(int(trained.tokenizer.pad_token_id or 0), evaluation.batch_tokens)
                logits = np.concatenate(list(forward.word_logits(trained.model, evaluation.rows)))
                for tags in (logits.argmax(-1), decode(logits, evaluation.lengths, evaluation.labels)):
                    found.append(evaluation.score(tags)["f1"])
    return found


def append(row: list[Any]) -> None:
    """Add a line, and the head to a new table."""
    new = not TABLE.exists()
    with TABLE.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow([f"{value:.4f}" if isinstance(value, float) else value for value in row])
    print(*row, flush=True)


if __name__ == "__main__":
    main()
