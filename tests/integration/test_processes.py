"""What has to be the same in every process: a tokenizer trained on the same sentences, and random weights."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import torch

from mistral_ner.config.schema import ModelConfig
from mistral_ner.model import base_model, forget_base, load_tokenizer

ROOT = Path(__file__).parents[2]


def fingerprints(random_init: dict[str, object]) -> list[str]:
    """Hash a tokenizer trained on a few hundred sentences, and a base model with random weights."""
    text = "Angela Merkel met Zürich's mayor at O'Hare on 24 May 2019 ; U.N. staff , São Paulo 北京 🙂 said so"
    words = text.split()
    sentences = [[words[(i * 7 + j * (i % 5 + 1)) % len(words)] for j in range(3 + i % 17)] for i in range(400)]
    model = ModelConfig(model_name="tiny", random_init=random_init)
    tokenizer = load_tokenizer(model, sentences).backend_tokenizer.to_str()
    torch.manual_seed(os.getpid())  # what a process has drawn before must not matter
    base = base_model(model, 1000)
    weights = b"".join(value.detach().numpy().tobytes() for value in base.parameters())
    forget_base()
    return [hashlib.sha256(content).hexdigest() for content in (tokenizer.encode(), weights)]


def test_tokenizer_and_random_weights_are_the_same_in_every_process(tiny_model: dict[str, dict[str, object]]) -> None:
    code = f"from test_processes import fingerprints; print(*fingerprints({tiny_model['random_init']!r}))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]), "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == fingerprints(tiny_model["random_init"])
