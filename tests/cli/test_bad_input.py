"""What people get wrong, typed into the real command: one clear message, exit code 1, nothing left behind.

Every case is a process of its own in an empty folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from bad_cases import CASES
from bad_files import GOOD_CONLL, write_configs, write_data, write_models

from tests import warm

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folders that ``{good}`` and ``{bad}`` stand for."""
    from transformers import MistralConfig, MistralForTokenClassification

    from mistral_ner.model.tokenizer import train_tokenizer

    good, bad = tmp_path_factory.mktemp("good"), tmp_path_factory.mktemp("bad")
    (good / "train.txt").write_text(GOOD_CONLL)
    tokenizer = train_tokenizer([["Ada", "Li", "left", "Oslo"]])
    tokenizer.save_pretrained(good / "model")
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = MistralForTokenClassification(MistralConfig(**shape, num_key_value_heads=1, vocab_size=len(tokenizer)))
    network.save_pretrained(good / "model")
    write_data(bad)
    write_configs(bad / "configs")
    write_models(good / "model", bad)
    return {"good": str(good), "bad": str(bad)}


def launch(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python launch.py ARGUMENTS`` in ``folder``, offline and on one thread."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HYDRA_", "PYTEST_"))}
    env |= {"PYTHONPATH": str(ROOT), "MISTRAL_NER_CACHE": str(folder.parent / "cache"), **environment}
    return warm.run_text([str(ROOT / "launch.py"), *arguments], folder, env)


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 100
    assert len({case.arguments for case in CASES.values()}) == len(CASES)


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, inputs: dict[str, str], tmp_path: Path) -> None:
    case = CASES[name]
    folder = tmp_path / "empty"
    folder.mkdir()
    done = launch(folder, *(_at(inputs, argument) for argument in case.arguments))
    output, message = done.stdout + done.stderr, " ".join(done.stderr.split())
    assert done.returncode == 1, output
    assert "Traceback" not in output, output
    assert _at(inputs, case.text) in message, output
    assert _at(inputs, case.fix) in message, output
    assert output.count("error: ") == 1, output
    assert len(message) < 1500, output
    assert list(folder.rglob("*")) == [], output


def _at(inputs: dict[str, str], text: str) -> str:
    return text.replace("{bad}", inputs["bad"]).replace("{good}", inputs["good"])


def test_input_that_only_looks_bad(inputs: dict[str, str], tmp_path: Path) -> None:
    """Windows line ends, a byte-order mark, an I- after another type: read as if they were not there."""
    text = GOOD_CONLL.encode()
    files = {
        "plain": text,
        "crlf": text.replace(b"\n", b"\r\n"),
        "bom": b"\xef\xbb\xbf" + text,
        "stray": text.replace(b"Oslo\tB-LOC", b"Oslo\tI-LOC"),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    sweep = ",".join(str(tmp_path / name) for name in files)
    done = launch(
        tmp_path,
        *(
            "-m",
            "model=tiny",
            "data=files",
            f"data.train_file={sweep}",
            "data.tag_scheme=iob2",
            "hyperopt.study_name=s",
        ),
        *("training.reports=1", "training.num_epochs=1", "training.threads=1"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    losses = [
        json.loads((path / "result.json").read_text())["eval_loss"] for path in (tmp_path / "multirun/s").glob("*/")
    ]
    assert len(losses) == len(files)
    assert len(set(losses)) == 1, "they hold the same sentences"
    assert "stray" in done.stdout, "the file whose tags were mended is named"


def test_pickled_weights_that_are_allowed_by_name(inputs: dict[str, str], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "model"
    shutil.copytree(f"{inputs['good']}/model", folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    done = launch(
        tmp_path,
        *("model=minilm", f"model.model_name={folder}", f"model.pickled_weights={folder}", "data=files"),
        *(f"data.train_file={inputs['good']}/train.txt", "training.reports=1", "training.num_epochs=1"),
        "model.lora_target_modules=all-linear",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.glob("outputs/*/*/adapter/adapter_model.safetensors"))
