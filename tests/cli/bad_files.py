"""The faulty inputs that the cases of ``bad_cases.py`` name: data files, configs and copies of a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

SENTENCE = "Ada\tB-PER\nLi\tI-PER\nleft\tO\nOslo\tB-LOC\n\n"
GOOD_CONLL = SENTENCE * 20

BYTES: dict[str, bytes] = {
    "latin1.txt": "Zoë\tB-PER\n".encode("latin1"),
    "utf16.txt": GOOD_CONLL.encode("utf-16"),
    "utf16_unmarked.txt": GOOD_CONLL.encode("utf-16-le"),
    "empty.txt": b"",
    "blank.txt": b"\n\n\t\n",
    "comments.txt": b"# one\n# two\n",
    "one_column.txt": b"Ada\nLi\n",
    "third_line.txt": b"Ada\tB-PER\nLi\tI-PER\nleft\n",
    "three_columns.txt": b"Ada\tB-PER\nLi\tNN\tI-PER\n",
    "long_line.txt": b"Ada\tB-PER\n" + b"x" * 10_000_000 + b"\tO\n",
    "nul.txt": b"Ada\tB-PER\nL\0i\tI-PER\n",
    "no_prefix.txt": b"Ada\tPER\nleft\tO\n",
    "no_type.txt": b"Ada\tB-\n",
    "tag_first.txt": b"B-PER\tAda\nO\tleft\n",
    "no_token.txt": b"Ada\tB-PER\n\tI-PER\n",
    "all_o.txt": b"we\tO\n\n" * 20,
    "two_sentences.txt": SENTENCE.encode() * 2,
    "bioes.txt": b"Ada\tB-PER\nLi\tE-PER\n\n" * 20,
    "broken.jsonl": b'{"tokens": ["Ada"], "ner_tags": ["B-PER"]}\n{"tokens": ["Ada"\n',
    "lengths.jsonl": b'{"tokens": ["Ada", "Li"], "ner_tags": ["B-PER"]}\n',
    "no_tags.jsonl": b'{"tokens": ["Ada"]}\n',
    "second_without.jsonl": b'{"tokens": ["Ada"], "ner_tags": ["B-PER"]}\n{"tokens": ["Ada"]}\n',
    "numbers.jsonl": b'{"tokens": ["Ada"], "ner_tags": [1]}\n',
    "text.jsonl": b'{"tokens": "Ada Li", "ner_tags": ["B-PER", "I-PER"]}\n',
    "empty_token.jsonl": b'{"tokens": ["Ada", ""], "ner_tags": ["B-PER", "O"]}\n',
    "surrogate.jsonl": b'{"tokens": ["\\ud800"], "ner_tags": ["B-PER"]}\n',
    "list.jsonl": b'["Ada", "Li"]\n',
    "nested.jsonl": b"[" * 200_000,
    "conll.jsonl": GOOD_CONLL.encode(),
    "garbled.parquet": b"PAR1" + bytes(range(256)) * 4,
    "conll.parquet": GOOD_CONLL.encode(),
}


def write_data(bad: Path) -> None:
    for name, content in BYTES.items():
        (bad / name).write_bytes(content)
    words = pa.array([["Ada", "Li"]])
    for name, columns in {
        "no_tags": {"tokens": words},
        "numbers": {"tokens": words, "ner_tags": pa.array([[1, 2]])},
        "nulls": {"tokens": pa.array([["Ada", None]]), "ner_tags": pa.array([["O", "O"]])},
    }.items():
        pyarrow.parquet.write_table(pa.table(columns), bad / f"{name}.parquet")
    (bad / "unreadable.txt").write_text(GOOD_CONLL)
    (bad / "unreadable.txt").chmod(0)


def write_configs(folder: Path) -> None:
    folder.mkdir()
    for name, content in {
        "broken": b"seed: [1\nmodel: }\n",
        "tab": b"seed: 1\n\tmodel: {}\n",
        "object": b"seed: !!python/object/apply:os.system ['true']\n",
        "latin1": "# Zoë\nseed: 1\n".encode("latin1"),
        "list": b"- 1\n- 2\n",
        "empty": b"",
        "no_output_dir": b"seed: 1\n",
        "wrong_type": b"output_dir: out\ntraining: {learning_rate: fast}\n",
        "no_group": b"output_dir: out\ntraining: 3\n",
        "unknown": b"output_dir: out\ntraining: {lerning_rate: 1e-3}\n",
        "range": b"output_dir: out\nmodel: {lora_dropout: 3}\n",
    }.items():
        (folder / f"{name}.yaml").write_bytes(content)


def write_models(good: Path, bad: Path) -> None:
    """Copies of a whole model, each with one thing broken."""

    def drop(name: str) -> Callable[[Path], None]:
        return lambda folder: (folder / name).unlink()

    def write(name: str, content: bytes) -> Callable[[Path], object]:
        return lambda folder: (folder / name).write_bytes(content)

    def pickled(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    def no_tokenizer(folder: Path) -> None:
        for file in folder.glob("token*"):
            file.unlink()

    weights = (good / "model.safetensors").read_bytes()
    settings = json.loads((good / "config.json").read_text())
    index = json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}).encode()
    code = json.dumps({**settings, "model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}).encode()
    for name, change in {
        "no_weights": drop("model.safetensors"),
        "pickled": pickled,
        "truncated": write("model.safetensors", weights[: len(weights) // 2]),
        "garbled": write("model.safetensors", bytes(reversed(weights))),
        "empty": write("model.safetensors", b""),
        "shards": write("model.safetensors.index.json", index),
        "no_tokenizer": no_tokenizer,
        "bad_tokenizer": write("tokenizer.json", b'{"model": 3}'),
        "no_config": drop("config.json"),
        "bad_config": write("config.json", b'{"model_type": "mis'),
        "kindless": write("config.json", b"{}"),
        "remote_code": write("config.json", code),
    }.items():
        shutil.copytree(good, bad / name)
        change(bad / name)
