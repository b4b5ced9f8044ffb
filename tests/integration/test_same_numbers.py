"""One path, one number: what ``predict`` tags in the test split, scored by seqeval, is what ``score`` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2

from mistral_ner.config.check import check
from mistral_ner.data.read import Splits, load_splits
from mistral_ner.metrics import Score, entity_spans
from mistral_ner.predict.columns import Reading
from mistral_ner.predict.formats import read_items, tag_items
from mistral_ner.predict.source import Source
from mistral_ner.predict.tagger import Tagger
from mistral_ner.train import fit
from mistral_ner.training.evaluate import Evaluation, Forward
from mistral_ner.training.inputs.prepare import prepare
from mistral_ner.training.predictions import score_and_write, write_splits
from tests.conftest import SHARED_DATA, needs_real_data
from tests.tagging import tag_lines

pytestmark = [pytest.mark.usefixtures("cold"), needs_real_data]

BERT = {"model_type": "bert", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
MODELS = {"mistral": {}, "bert": {"random_init": {**BERT, "num_attention_heads": 2}}, "full": {"tuning": "full"}}


def crossner(domain: str) -> dict[str, str]:
    folder = SHARED_DATA / "crossner" / domain
    return {f"{split}_file": str(folder / f"{split}.txt") for split in ("train", "dev", "test")}


def randomise_head(adapter: Path) -> None:
    """Replace the weights of the head, so that the model finds many entities without having learnt any."""
    path = next(adapter.glob("*.safetensors"))
    state = load_file(path)
    torch.manual_seed(0)
    for name in state:
        if name.endswith(("score.weight", "classifier.weight")):
            state[name] = torch.randn_like(state[name])
    save_file(state, path, metadata={"format": "pt"})


WNUT = {
    "train_file": str(SHARED_DATA / "wnut17" / "wnut17train.conll"),
    "dev_file": str(SHARED_DATA / "wnut17" / "emerging.dev.conll"),
    "test_file": str(SHARED_DATA / "wnut17" / "emerging.test.annotated"),
}
CASES = [  # data, model, precision, subwords a window, neighbours on each side, decoding
    ("music", "mistral", "bf16", 32, 0, "iob2"),  # nearly every sentence takes several windows
    ("ai", "bert", "fp32", 24, 0, "argmax"),
    ("politics", "mistral", "fp32", 64, 0, "argmax"),
    ("literature", "full", "bf16", 128, 2, "iob2"),
    ("science", "bert", "bf16", 512, 1, "argmax"),
    ("wnut17", "bert", "auto", 16, 0, "iob2"),
]


def seqeval_scores(gold: list[list[str]], found: list[list[str]]) -> dict[str, float]:
    report: Any = classification_report(gold, found, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
    micro = report["micro avg"]
    return {"precision": micro["precision"], "recall": micro["recall"], "f1": micro["f1-score"]}


def last_column(lines: list[str]) -> list[list[str]]:
    blocks = "\n".join(lines).split("\n\n")
    return [[line.split("\t")[-1] for line in block.split("\n") if line] for block in blocks if block.strip()]


def train_and_score(tiny: dict[str, Any]) -> tuple[Splits, Score]:
    """Train, and score test with a head that finds entities."""
    fit(tiny)
    randomise_head(Path(tiny["output_dir"]) / "adapter")
    config = check(tiny)
    splits = load_splits(config.data)
    scored = score_and_write(config, "test", splits)
    assert scored is not None
    assert scored.counts[:, 1].sum() > 50, "equal scores of no entities say nothing"
    return splits, scored


@pytest.mark.parametrize(
    ("data", "model", "precision", "max_length", "context", "decoding"), CASES, ids=[one[0] for one in CASES]
)
def test_predict_gives_the_tags_that_were_scored(
    data: str,
    model: str,
    precision: str,
    max_length: int,
    context: int,
    decoding: str,
    tiny: dict[str, Any],
    tmp_path: Path,
) -> None:
    files = WNUT if data == "wnut17" else crossner(data)
    most = {"max_train_sentences": 200, "max_dev_sentences": 1}
    most |= {} if context else {"max_test_sentences": 300}  # the neighbours of the last one are in the rest of the file
    tiny["data"] |= {**files, "max_length": max_length, "context_sentences": context, **most}
    tiny["model"] |= {**MODELS[model], "decoding": decoding}
    tiny["training"] |= {"precision": precision, "num_epochs": 0.05, "reports": 1}
    splits, scored = train_and_score(tiny)
    test = splits.test
    written = tmp_path / "test.conll"
    written.write_text("\n".join("".join(f"{word}\tO\n" for word in one.tokens) for one in test), encoding="utf-8")
    torch.set_num_threads(2)  # a final training has its share of the machine; predict has all of it
    tagger = Tagger.load(tiny["output_dir"])
    found = last_column(tag_lines(tagger, "conll", written.read_text(encoding="utf-8").split("\n")))
    assert seqeval_scores([one.tags for one in test], found) == {
        name: scored.metrics[name] for name in ("precision", "recall", "f1")
    }
    spans = entity_spans(scored.tags, [len(one.tokens) for one in test], splits.labels)
    stray = (scored.tags != splits.labels.index("O")).sum() - (spans[:, 1] - spans[:, 0]).sum()
    assert (stray == 0) == (decoding == "iob2"), "a head of random weights has tags without a beginning to repair"
    rows = [json.loads(line) for line in (tmp_path / "run/predictions_test.jsonl").read_text().splitlines()]
    assert [row["predicted_ner_tags"] for row in rows] == found
    assert [row["ner_tags"] for row in rows] == [one.tags for one in test]
    write_splits(tmp_path, splits)
    read = [json.loads(line) for line in (tmp_path / "splits/test.jsonl").read_text().splitlines()]
    assert [{**row, "predicted_ner_tags": tags} for row, tags in zip(read, found, strict=True)] == rows
    assert read[1]["line"] == len(test[0].tokens) + 2 or data == "wnut17"


def test_predict_gives_sentences_the_neighbours_that_they_were_scored_with(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    """Documents of ten sentences; the scored split is the first part of the file, and dev is drawn from train."""
    data = crossner("ai")
    for split in ("train", "test"):
        blocks = Path(data[f"{split}_file"]).read_text(encoding="utf-8").strip().split("\n\n")
        marked = [f"-DOCSTART-\tO\n\n{one}" if at % 10 == 0 else one for at, one in enumerate(blocks)]
        data[f"{split}_file"] = str(tmp_path / f"{split}.conll")
        Path(data[f"{split}_file"]).write_text("\n\n".join(marked), encoding="utf-8")
    tiny["data"] |= {**data, "dev_file": None, "max_test_sentences": 95, "max_length": 64, "context_sentences": 2}
    tiny["training"] |= {"num_epochs": 0.05, "reports": 1}
    splits, scored = train_and_score(tiny)
    rows = [json.loads(line) for line in (tmp_path / "run/predictions_test.jsonl").read_text().splitlines()]
    tagger = Tagger.load(tiny["output_dir"])
    lines = Path(data["test_file"]).read_text(encoding="utf-8").split("\n")
    written = tag_lines(tagger, "conll", lines)
    found = last_column([line for line in written if not line.startswith("-DOCSTART-")])[:95]
    assert found == [row["predicted_ner_tags"] for row in rows]
    assert seqeval_scores([one.tags for one in splits.test], found) == {
        name: scored.metrics[name] for name in ("precision", "recall", "f1")
    }
    source = Source("x.conll", "conll", enumerate(lines, 1))
    resumed = [line for one in tag_items(tagger, read_items(source, Reading()), 40) for line in one.lines]
    assert resumed == written[-len(resumed) :], "as --resume goes on"
    tagger.context_sentences = 0
    assert tag_lines(tagger, "conll", lines) != written, "neighbours that change nothing show nothing"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_do_not_depend_on_the_number_of_threads(precision: str, tiny: dict[str, Any]) -> None:
    from mistral_ner.model import lend_model

    tiny["data"] |= {**crossner("music"), "max_length": 32}
    config = check(tiny)
    tokenizer, data = prepare(config)
    forward = Forward(int(tokenizer.pad_token_id or 0), 512, precision)
    bits = []
    with lend_model(config.model, data.labels, 0, len(tokenizer)) as model:
        model.eval()
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            bits.append([one.tobytes() for one in forward.word_logits(model, data.rows("dev"))])
            assert torch.get_num_threads() == threads
    assert bits[0] == bits[1] == bits[2]


def test_every_word_is_scored_once_and_knows_no_gold(tiny: dict[str, Any]) -> None:
    """The windows of dev and test are those of new text: the borders of gold entities move none of them."""
    tiny["data"] |= {**crossner("music"), "max_length": 32}
    config = check(tiny)
    _, data = prepare(config)
    splits = load_splits(config.data)
    for name in ("dev", "test"):
        evaluation = Evaluation.of(data, name, 2048)
        assert [data.labels[tag] for tag in evaluation.gold] == [
            tag for one in getattr(splits, name) for tag in one.tags
        ]
        assert evaluation.lengths.tolist() == [len(one.tokens) for one in getattr(splits, name)]
