"""What decoding by IOB2's rules is worth: F1 on dev and test of the same trainings, with it and without.

.venv/bin/python bench/decode.py --sets music politics wnut17_500 sample --seeds 1 2

Trains the default recipe of bench/recipe.py on one thread, scores it both ways, and adds a line to results/decode.csv.
Rows that are there are not made again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from recipe import SETS, files_of
from tables import append_row, read_rows

from mistral_ner.config.check import check
from mistral_ner.metrics import IntArray
from mistral_ner.train import fit
from mistral_ner.training.evaluate import Evaluation, Forward
from mistral_ner.training.prepare import prepare

HERE = Path(__file__).parent
TABLE = HERE / "results/decode.csv"
FloatArray = npt.NDArray[np.float32]
COLUMNS = ("set", "seed", "dev_by_word", "dev_iob2", "test_by_word", "test_iob2")


def main() -> None:
    """Train what the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared/data")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["sample", "music", "politics", "wnut17_500"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    args = parser.parse_args()
    done = {(row["set"], int(row["seed"])) for row in read_rows(TABLE)}
    for seed in args.seeds:
        for name in args.sets:
            if (name, seed) not in done:
                append_row(TABLE, COLUMNS, [name, seed, *both_ways(files_of(args.data, name), seed)])


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


def decode(logits: FloatArray, lengths: npt.ArrayLike, labels: Sequence[str]) -> IntArray:
    """Return the tags of words: of each sentence the sequence with the greatest sum of logits in which IOB2 holds.

    In IOB2 an ``I-`` tag continues a ``B-`` or ``I-`` of its own type. The tags of each word by itself need not hold
    to that, and what breaks it counts as no entity. The model's chance of a sequence is the product of its words'
    chances, so this is Viterbi's algorithm with steps that are either allowed or not (Viterbi 1967, IEEE Transactions
    on Information Theory 13).

    Args:
        logits: of all words, sentence by sentence, shape (words, labels).
        lengths: words of each sentence.
        labels: ``["O", "B-LOC", "I-LOC", …]``.
    """
    tags: IntArray = logits.argmax(-1).astype(np.int64)
    allowed, begins = _steps(labels)
    words = np.asarray(lengths, dtype=np.int64)
    ends = np.cumsum(words)
    starts = ends - words
    broken = np.zeros(len(tags), dtype=bool)
    broken[1:] = ~allowed[tags[:-1], tags[1:]]
    first = starts[ends > starts]
    broken[first] = ~begins[tags[first]]
    sums = np.concatenate([[0], np.cumsum(broken)])
    for place in np.flatnonzero(sums[ends] > sums[starts]):  # the others are the best sequences already
        start, end = starts[place], ends[place]
        tags[start:end] = _best_path(logits[start:end], allowed, begins)
    return tags


def _steps(labels: Sequence[str]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return whether one label may follow another, shape (labels, labels), and whether it may begin a sentence."""
    inside = np.array([label[:2] == "I-" for label in labels])
    same = np.array([[one[2:] == other[2:] and one != "O" for other in labels] for one in labels])
    return ~inside[None, :] | same, ~inside


def _best_path(
    logits: FloatArray, allowed: npt.NDArray[np.bool_], begins: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Return the allowed sequence with the greatest sum of logits, shape (words,)."""
    penalty = np.where(allowed, 0.0, -np.inf)
    best = np.where(begins, logits[0], -np.inf)
    came_from = np.zeros(logits.shape, dtype=np.int64)
    for place in range(1, len(logits)):
        sums = best[:, None] + penalty
        came_from[place] = sums.argmax(0)
        best = sums.max(0) + logits[place]
    path = np.empty(len(logits), dtype=np.int64)
    path[-1] = best.argmax()
    for place in range(len(logits) - 1, 0, -1):
        path[place - 1] = came_from[place, path[place]]
    return path


if __name__ == "__main__":
    main()
