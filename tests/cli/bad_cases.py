"""The table of what people get wrong on the command line: each command with what its message must say.

``{bad}`` in an argument stands for the folder of faulty inputs, ``{good}`` for that of a whole model and data set.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A command line and what its message must say: the rule with the value found, and the fix."""

    arguments: tuple[str, ...]
    text: str
    fix: str


def train(file: str, text: str, fix: str, *more: str) -> Case:
    """A training on one of the bad data files."""
    return Case(("model=tiny", "data=files", f"data.train_file={{bad}}/{file}", *more), text, fix)


def model(folder: str, text: str, fix: str) -> Case:
    """A training of the model in one of the bad folders."""
    return Case(("model=minilm", f"model.model_name={{bad}}/{folder}"), text, fix)


def command(arguments: str, text: str, fix: str) -> Case:
    return Case(tuple(arguments.split()), text, fix)


def config(name: str, text: str, fix: str, *more: str) -> Case:
    """One of the configs that somebody has edited by hand."""
    return Case(("--config-dir", "{bad}/configs", "--config-name", name, *more), text, fix)


DATA = {
    "wrong encoding": train(
        "latin1.txt", "latin1.txt:1: text must be UTF-8 (data.encoding), found", "data.encoding=latin-1"
    ),
    "UTF-16": train("utf16.txt", "text must be UTF-8 (data.encoding), found", "data.encoding=utf-16"),
    "UTF-16 without a mark": train("utf16_unmarked.txt", ":1: text must not hold NUL bytes", "data.encoding=utf-16-le"),
    "empty": train("empty.txt", "must hold sentences, found an empty file", "give another file"),
    "only blank lines": train("blank.txt", "must hold sentences, found none in it as conll", "data.format="),
    "only comments": train("comments.txt", "must hold sentences, found none in it as conll", "data.format="),
    "one column": train("one_column.txt", "one_column.txt:1: a token line needs at least two columns", "data.format="),
    "one line without a tag": train("third_line.txt", "third_line.txt:3: a token line needs at least two", "a tag"),
    "uneven columns": train("three_columns.txt", ":2: a line must have 2 columns like the lines before", "by tabs"),
    "10 MB line": train("long_line.txt", ":2: a line may have 1,000,000 characters at most", "the right file"),
    "NUL bytes": train("nul.txt", "nul.txt:2: text must not hold NUL bytes", "another file"),
    "tag without prefix": train("no_prefix.txt", ":1: unknown tag 'PER'", "write tags as O, B-TYPE and I-TYPE"),
    "tag without type": train("no_type.txt", ":1: unknown tag 'B-'", "write tags as O, B-TYPE"),
    "tag in the first column": train("tag_first.txt", ":1: unknown tag 'Ada'", "data.t"),
    "empty token": train("no_token.txt", ":2: a token must not be empty", "write a token before the tag"),
    "column out of range": train("all_o.txt", "data.tag_column=7 is not among", "N from 0 to 1", "data.tag_column=7"),
    "one label only": train("all_o.txt", "train must hold entities, found 16 sentences whose tags", "data.tag_column"),
    "too small to split": train("two_sentences.txt", "which has only 2 sentences", "data.dev_file=PATH"),
    "another scheme than told": train(
        "bioes.txt", ":2: the prefixes of data.tag_scheme=iob2 are B, I, found", "auto", "data.tag_scheme=iob2"
    ),
    "missing": train("lenghts.jsonl", "there is no such file (did you mean 'lengths.jsonl'?)", "data.train_file="),
    "missing folder": train("no/train.txt", "there is no such file, nor its folder", "data.train_file=PATH"),
    "directory": train("configs", "must be a file, or a folder with .ann files, found a folder (with ", "/FILE"),
    "device": Case(("data=files", "data.train_file=/dev/null"), "must be a regular file", "data.train_file=PATH"),
    "unreadable": train("unreadable.txt", "cannot be read (Permission denied)", "chmod a+r"),
    "missing dev file": Case(
        ("data=files", "data.train_file={good}/train.txt", "data.dev_file={bad}/nope"),
        "data.dev_file={bad}/nope: there is no such file",
        "data.dev_file=PATH",
    ),
    "broken JSON": train("broken.jsonl", "broken.jsonl:2: a line must be valid JSON", "one JSON object a line"),
    "JSON lengths differ": train("lengths.jsonl", "must have one length, not 2 and 1", "give each token one tag"),
    "JSON without tags": train("no_tags.jsonl", "must be a column 'ner_tags'", "data.tags_key=COLUMN"),
    "JSON without tags later": train("second_without.jsonl", ":2: every record needs the key 'ner_tags'", "add"),
    "JSON numbers as tags": train("numbers.jsonl", ":1: tags are numbers whose names", "write the tags as text"),
    "JSON text as tokens": train("text.jsonl", ":1: tokens must be a list of texts", "data.tokens_key=COLUMN"),
    "JSON empty token": train("empty_token.jsonl", ":1: a token must not be empty", "take it out"),
    "JSON half a character": train("surrogate.jsonl", "not half a surrogate pair", "mend it"),
    "JSON list": train("list.jsonl", ":1: a record must be a JSON object, found 'Ada'", "one JSON object a line"),
    "JSON lists in lists": train("nested.jsonl", ":1: a record must be a JSON object", "data.format"),
    "CoNLL named JSON": train("conll.jsonl", "conll.jsonl:1: a line must be valid JSON", "data.format=conll"),
    "Parquet garbled": train("garbled.parquet", "not a readable Parquet file", "data.format=conll"),
    "CoNLL named Parquet": train("conll.parquet", "not a readable Parquet file", "data.format=conll"),
    "Parquet without tags": train("no_tags.parquet", "must be a column 'ner_tags'", "data.tags_key=COLUMN"),
    "Parquet numbers as tags": train("numbers.parquet", ":1: tags are numbers whose names", "ClassLabel"),
    "Parquet nulls": train("nulls.parquet", "nulls.parquet:1: tokens must be a list of texts", "data.tokens_key"),
    "max_length below a word": Case(
        ("model=tiny", "data.max_length=7"), "data.max_length: must be at least 8, found 7", "data.max_length=128"
    ),
}

MODELS = {
    "missing folder": model("nope/deep/er", "model.model_name must name a folder that exists", "type model.model_name"),
    "no weights": model("no_weights", "must hold weights (*.safetensors), found none", "copy model.safetensors"),
    "pickled weights": model("pickled", "found only pytorch_model.bin", "model.save_pretrained(FOLDER)"),
    "another model's weights may be pickled": Case(
        ("model=minilm", "model.model_name={bad}/pickled", "model.pickled_weights={good}/model"),
        "found only pytorch_model.bin",
        "model.pickled_weights={bad}/pickled",
    ),
    "truncated weights": model("truncated", "must be a whole safetensors file, found ", "copy or download it again"),
    "garbled weights": model("garbled", "must be a whole safetensors file, found ", "copy or download it again"),
    "empty weights": model("empty", "must be a whole safetensors file, found 0 bytes", "copy or download it again"),
    "a shard is missing": model("shards", "names model-00002.safetensors, which is not there", "download it again"),
    "no tokenizer": model("no_tokenizer", "must hold a tokenizer", "copy the model's tokenizer files"),
    "garbled tokenizer": model("bad_tokenizer", "cannot load ", "type another model.model_name"),
    "no config.json": model("no_config", "must hold a config.json, found none", "type model.model_name=FOLDER"),
    "garbled config.json": model(
        "bad_config", "config.json must be JSON, but cannot be read as JSON", "copy the model's own"
    ),
    "config.json of nothing": model("kindless", "must name a model_type, found None", "copy the model's own"),
    "code of its own": model(
        "remote_code", "comes with code of its own, which runs only if you allow it", "read that code"
    ),
    "package not installed": Case(
        ("model.model_name=package:no_such_package",), "needs the Python package no_such_package", "pip install"
    ),
    "package without a model": Case(
        ("model.model_name=package:json",), "must name its model's folder in MODEL_DIR", "model.model_name="
    ),
    "unknown model type": Case(
        ("model=tiny", "model.random_init.model_type=mistrall"), "(did you mean 'mistral'?)", "model_type=mistral"
    ),
    "unknown model field": Case(
        ("model=tiny", "+model.random_init.hiden_size=8"), "(did you mean 'hidden_size'?)", "~model.random_init.hiden"
    ),
}

COMMANDS = {
    "unknown key": command(
        "training.lerning_rate=1",
        "training.lerning_rate: unknown key (did you mean 'training.learning_rate'?)",
        "training.learning_rate=1",
    ),
    "key without its group": command(
        "learning_rate=1e-3", "learning_rate: unknown key (did you mean 'training.learning_rate'?)", "learning_rate="
    ),
    "key below a value": command("model.lora_r.x=1", "model.lora_r.x: unknown key", "--cfg job shows every key"),
    "added unknown key": command("+training.lr=3", "training.lr: unknown key", "fix: ~training.lr"),
    "added twice": command("+seed=1", "+seed: adds a key, but there is one already", "seed=VALUE, without the +"),
    "unknown group": command("trainig=default", "trainig: unknown key (did you mean 'training'?)", "training=default"),
    "unknown model": command("model=minilmm", "(did you mean 'minilm'?), found 'minilmm'", "fix: model=minilm"),
    "unknown strategy": command("-m hyperopt=combinde", "(did you mean 'combined'?), found", "fix: hyperopt=combined"),
    "unknown space": command(
        "search_space=loar", "search_space: must be one of full, lora, lora_wide,", "search_space=lora"
    ),
    "unknown launcher": command("-m hydra/launcher=rai", "(did you mean 'ray'?), found 'rai'", "hydra/launcher=ray"),
    "options of a Ray task": command(
        "-m hyperopt=optuna hydra/launcher=ray +hydra.launcher.ray.remote.max_calls=1",
        "hydra.launcher.ray.remote.max_calls: found 1. Invalid option keyword max_calls for actors.",
        "fix: ~hydra.launcher.ray.remote.max_calls",
    ),
    "a number as a group": command("training=3", "takes a name, found int", "--cfg job"),
    "no value": command("training.learning_rate=", "must be a number, found ''", "training.learning_rate=0.001"),
    "no equals sign": command("training.seed", "an override is KEY=VALUE, found no =", "training.seed=VALUE"),
    "open bracket": command("training.reports=[1,", "must follow Hydra's grammar", "close every bracket"),
    "nothing to delete": command("~modle", "~modle: there is no such key (did you mean 'model'?)", "fix: ~model"),
    "open interpolation": command("data.train_file=${nope}", "data.train_file: Interpolation key 'nope'", "fix:"),
    "open interpolation in Hydra": command("hydra.run.dir=${nope}", "hydra.run.dir: Interpolation key", "fix:"),
    "unknown config": command("--config-name confg", "there is no config confg.yaml in", "--config-name config"),
    "unknown config folder": command("--config-dir nope --config-name best_config", "must be a folder", "FOLDER"),
    "run folder below a file": Case(("hydra.run.dir={bad}/empty.txt/x",), "cannot be written or read", "hydra.run.dir"),
    "output folder below a file": Case(
        ("output_dir={bad}/empty.txt/x",), "must be a folder that can be created, found the file", "output_dir="
    ),
    "output folder is a file": Case(("output_dir={bad}/empty.txt",), "output_dir: must be a folder", "output_dir="),
    "output folder in /proc": Case(("output_dir=/proc/nope/x", "model=tiny"), "cannot write", "output_dir="),
    "cache below a file": Case(("data.cache_dir={bad}/empty.txt/x", "model=tiny"), "cannot write", "data.cache_dir="),
    "a config's own code": command(
        "+hydra.callbacks.x._target_=shutil.rmtree +hydra.callbacks.x.path=/tmp/nope",
        "shutil.rmtree: a config may only name classes of Hydra and of this project",
        "take it out",
    ),
    "a secret": command("+hydra.job.env_set.HF_TOKEN=hf_x", "hydra.job.env_set.HF_TOKEN: would be saved", "export HF"),
    "a secret of a search": command("-m hyperopt=random +hydra.job.env_set.WANDB_API_KEY=x", "looks like a", "export"),
    "a secret of a multirun": command("-m seed=1,2 +hydra.job.env_set.DB_PASSWORD=x", "looks like a secret", "export"),
    "a sweeper's own code": command("-m hydra.sweeper._target_=os.system", "a config may only name classes", "take it"),
}

CONFIGS = {
    "broken YAML": config("broken", "configs/broken.yaml:2: a config file must be valid YAML", "mend that line"),
    "a tab in YAML": config("tab", "configs/tab.yaml:2: a config file must be valid YAML", "mend that line"),
    "an object in YAML": config("object", "configs/object.yaml:1: a config file must be valid YAML", "mend that line"),
    "not UTF-8": config("latin1", "latin1: a config file must be UTF-8", "save it as UTF-8"),
    "a list": config("list", "list: a config file must be a group of keys", "write it again"),
    "empty": config("empty", "output_dir: must be set", "output_dir=VALUE"),
    "no output_dir": config("no_output_dir", "output_dir: must be set", "output_dir=VALUE"),
    "wrong type": config("wrong_type", "training.learning_rate: must be a number, found 'fast'", "learning_rate=0.001"),
    "a value for a group": config("no_group", "training: must be a group of keys, found 3", "fix:"),
    "unknown key": config("unknown", "training.lerning_rate: unknown key (did you mean 'learning_rate'?)", "~training"),
    "out of range": config("range", "model.lora_dropout: must be less than 1, found 3", "model.lora_dropout=0.05"),
}

SEARCHES = {
    **{
        f"study name {name!r}": Case(
            ("-m", "hyperopt=combined", f"hyperopt.study_name='{name}'"), "hyperopt.study_name: ", "study_name=my_study"
        )
        for name in ("a/b", "..", "", "x" * 300, "a b", "-x/../y")
    },
    "results_dir is a file": Case(
        ("-m", "hyperopt=combined", "model=tiny", "hyperopt.results_dir={bad}/empty.txt"),
        "hyperopt.results_dir: must be a folder that can be created, found the file",
        "hyperopt.results_dir=FOLDER",
    ),
    "a choice that stands for a missing value": Case(
        ("-m", "hyperopt=optuna", "+search_space.cache_dir={type: choice, choices: [a, '???']}"),
        "search_space.cache_dir.choices: must not hold '???'",
        "take it out",
    ),
    "bad data": Case(("-m", "hyperopt=random", *DATA["one column"].arguments), "needs at least two columns", "fix:"),
    "bad model": Case(("-m", "hyperopt=optuna", *MODELS["truncated weights"].arguments), "whole safetensors", "again"),
    "a sweep of bad values": Case(("-m", "seed=-1,-2"), "seed: must be at least 0, found -1", "seed=42"),
}

TABLES = {"data": DATA, "model": MODELS, "command": COMMANDS, "config": CONFIGS, "search": SEARCHES}
CASES = {f"{table}: {name}": case for table, cases in TABLES.items() for name, case in cases.items()}
if os.geteuid() == 0:
    del CASES["data: unreadable"]  # root may read every file
