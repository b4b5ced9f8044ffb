"""The adapter on real tiny networks: put on, trained, taken off."""

import copy
import hashlib
import math

import pytest
import torch
from transformers import AutoModelForTokenClassification, BertConfig, MistralConfig

from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import UserError
from mistral_ner.model import attach, base_model, detach, lend_model
from mistral_ner.model.base import remove_head

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
VOCAB = 300
MISTRAL = {
    "model_type": "mistral",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
BERT = {key: value for key, value in MISTRAL.items() if key != "num_key_value_heads"} | {"model_type": "bert"}
IDS = torch.arange(4, 28).reshape(2, 12)


def tiny(random_init=MISTRAL, **settings):
    return ModelConfig(model_name="tiny", random_init=random_init, lora_r=4, **settings)


pytestmark = pytest.mark.usefixtures("cold")


def checksum(tensors):
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors):
        digest.update(name.encode() + tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def base_bits(base):
    return checksum([*base.named_parameters(), *base.named_buffers()])


def adapter_bits(attached):
    return checksum((name, value) for name, value in attached.named_parameters() if value.requires_grad)


def outward(base):
    """What a later trial could notice besides the weights."""
    return {
        "config": copy.deepcopy(base.config.to_dict()),
        "modules": [(path, type(module), module.training) for path, module in base.named_modules()],
        "attributes": sorted(name for name in vars(base) if name != "_require_grads_hooks"),  # an empty list
        "trainable": [name for name, value in base.named_parameters() if value.requires_grad],
        "hooks": [path for path, module in base.named_modules() if module._forward_hooks or module._forward_pre_hooks],
        "checkpointing": [
            path for path, module in base.named_modules() if getattr(module, "gradient_checkpointing", 0)
        ],
        "causal": [module.is_causal for module in base.modules() if hasattr(module, "is_causal")],
    }


def train(attached, steps=3, learning_rate=1e-2):
    attached.train()
    torch.manual_seed(1)  # of the dropout
    optimizer = torch.optim.AdamW([p for p in attached.parameters() if p.requires_grad], lr=learning_rate)
    targets = torch.arange(IDS.numel()).reshape(IDS.shape) % attached.config.num_labels
    losses = []
    for _ in range(steps):
        loss = attached(input_ids=IDS, labels=targets).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def logits(model, ids=IDS, mask=None):
    model.eval()
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits


@pytest.mark.parametrize("random_init", [MISTRAL, BERT], ids=["mistral", "bert"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_detach_leaves_the_base_bit_for_bit_as_it_was(random_init, checkpointing):
    model = tiny(random_init, gradient_checkpointing=checkpointing, bidirectional=True)
    base = base_model(model, VOCAB)
    before, seen, answer = base_bits(base), outward(base), logits(base)
    for _ in range(2):
        attached = attach(model, base, LABELS, seed=1)
        train(attached)
        assert detach(attached) is base
        assert base_bits(base) == before
        assert outward(base) == seen
        assert torch.equal(logits(base), answer)


def test_gradient_checkpointing_changes_memory_and_not_numbers():
    results = []
    for checkpointing in (False, True):
        with lend_model(tiny(gradient_checkpointing=checkpointing, lora_dropout=0.2), LABELS, 0, VOCAB) as attached:
            assert any(getattr(m, "gradient_checkpointing", False) for m in attached.modules()) is checkpointing
            results.append((train(attached), adapter_bits(attached)))
    assert results[0] == results[1]


def test_same_seed_same_bits_on_a_cold_and_a_warm_base():
    torch.manual_seed(123)
    with lend_model(tiny(), LABELS, seed=5, vocab_size=VOCAB) as attached:
        cold_bits = adapter_bits(attached)
        train(attached)
        trained = adapter_bits(attached)
    torch.manual_seed(456)
    with lend_model(tiny(), LABELS, seed=5, vocab_size=VOCAB) as attached:
        assert adapter_bits(attached) == cold_bits != trained
        train(attached)
        assert adapter_bits(attached) == trained
    with lend_model(tiny(), LABELS, seed=6, vocab_size=VOCAB) as attached:
        assert adapter_bits(attached) != cold_bits


def test_loading_and_attaching_leave_the_global_random_state_alone():
    torch.manual_seed(9)
    state = torch.get_rng_state()
    with lend_model(tiny(), LABELS, 0, VOCAB):
        assert torch.equal(torch.get_rng_state(), state)


def test_other_labels_on_the_same_warm_base():
    base = base_model(tiny(), VOCAB)
    for labels in (LABELS, ["O", "B-X"], LABELS):
        with lend_model(tiny(), labels, 0, VOCAB) as attached:
            assert attached.get_base_model() is base
            assert logits(attached).shape == (*IDS.shape, len(labels))
            assert attached.config.id2label == dict(enumerate(labels))
            assert attached.config.label2id[labels[-1]] == attached.config.num_labels - 1
            assert math.isfinite(train(attached, steps=1)[0])


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_adapted_detaches_whatever_happens(kind):
    base = base_model(tiny(), VOCAB)
    seen = outward(base)

    def broken_trial():
        with lend_model(tiny(), LABELS, 0, VOCAB) as attached:
            train(attached, steps=1)
            raise kind

    with pytest.raises(kind):
        broken_trial()
    assert outward(base) == seen
    assert base_model(tiny(), VOCAB) is base


def test_a_second_adapter_on_one_base_is_refused():
    with lend_model(tiny(), LABELS, 0, VOCAB) as attached, pytest.raises(RuntimeError, match="detach it first"):
        attach(tiny(), attached.get_base_model(), LABELS, 0)


def test_only_the_adapter_trains_and_in_float32():
    with lend_model(tiny(dtype="bfloat16"), LABELS, 0, VOCAB) as attached:
        trainable = {name: value for name, value in attached.named_parameters() if value.requires_grad}
        assert all("lora_" in name or "score" in name for name in trainable)
        assert {value.dtype for value in trainable.values()} == {torch.float32}
        assert attached.get_base_model().model.embed_tokens.weight.dtype == torch.bfloat16
        losses = train(attached, steps=8)
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("mask", [None, torch.ones_like(IDS)], ids=["no mask", "mask"])
def test_a_later_token_reaches_an_earlier_one_only_when_bidirectional(attention, mask):
    changed = IDS.clone()
    changed[:, -1] = 99
    outputs = []
    for bidirectional in (False, True, False):  # on the same warm base
        with lend_model(tiny(bidirectional=bidirectional, attention=attention), LABELS, 0, VOCAB) as attached:
            outputs.append(logits(attached, mask=mask))
            same = torch.equal(outputs[-1][:, :-1], logits(attached, changed, mask)[:, :-1])
            assert same is not bidirectional
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[1])


def test_padding_reaches_nothing_when_bidirectional():
    padded = torch.cat([IDS, torch.zeros(2, 3, dtype=torch.long)], dim=1)
    mask = (padded != 0).long()
    with lend_model(tiny(bidirectional=True), LABELS, 0, VOCAB) as attached:
        torch.testing.assert_close(logits(attached, padded, mask)[:, :12], logits(attached), atol=1e-5, rtol=1e-4)


def test_bidirectional_has_no_effect_on_an_encoder():
    outputs = []
    for bidirectional in (False, True):
        with lend_model(tiny(BERT, bidirectional=bidirectional), LABELS, 0, VOCAB) as attached:
            outputs.append(logits(attached))
    assert torch.equal(*outputs)


LLAMA_LIKE = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("random_init", "wanted", "targets"),
    [
        (MISTRAL, "auto", LLAMA_LIKE),
        (MISTRAL, "all-linear", LLAMA_LIKE),
        (MISTRAL, ["q_proj"], {"q_proj"}),
        (MISTRAL, ["layers.1.mlp.up_proj"], {"up_proj"}),
        (BERT, "auto", {"query", "value"}),
        (BERT, "all-linear", {"query", "key", "value", "dense"}),
    ],
)
def test_target_modules(random_init, wanted, targets):
    with lend_model(tiny(random_init, lora_target_modules=wanted), LABELS, 0, VOCAB) as attached:
        paths = {name.split(".lora_A")[0] for name, _ in attached.named_parameters() if ".lora_A" in name}
    assert {path.rpartition(".")[2] for path in paths} == targets
    if wanted == ["layers.1.mlp.up_proj"]:
        assert len(paths) == 1


def test_auto_falls_back_to_all_linear_for_an_architecture_that_peft_does_not_know():
    modernbert = {"model_type": "modernbert", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    modernbert |= {"num_attention_heads": 4}
    with lend_model(tiny(modernbert), LABELS, 0, VOCAB) as attached:
        assert "Wqkv" in attached.peft_config["default"].target_modules


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["q_porj"], r"found 'q_porj' \(did you mean 'q_proj'\?\); type model.lora_target_modules=\[down_proj,"),
        (["embed_tokens"], "must name linear layers of the model, found 'embed_tokens'"),
        (["q_proj", "score"], "must not name the head, found 'score'.*type model.lora_target_modules=auto"),
    ],
)
def test_wrong_target_modules_name_the_nearest_and_leave_the_base_as_it_was(wanted, message):
    base = base_model(tiny(), VOCAB)
    seen = outward(base)
    with (
        pytest.raises(UserError, match=message),
        lend_model(tiny(lora_target_modules=wanted), LABELS, 0, VOCAB),
    ):
        pass
    assert outward(base) == seen


@pytest.mark.parametrize(
    ("settings", "scaling"),
    [
        ({}, 2.0),  # alpha = 2 r
        ({"lora_alpha_ratio": 0.5}, 0.5),
        ({"lora_alpha": 6.0}, 1.5),
        ({"use_rslora": True}, 4.0),  # 8 / sqrt(4)
        ({"lora_alpha": 6.0, "use_rslora": True}, 3.0),
    ],
)
def test_scaling(settings, scaling):
    with lend_model(tiny(**settings), LABELS, 0, VOCAB) as attached:
        found = {module.scaling["default"] for module in attached.modules() if hasattr(module, "lora_A")}
    assert found == {scaling}


def attach_in_shape(model, config):
    """A model with its adapter on meta tensors: no weights, no memory."""
    with torch.device("meta"):
        base = remove_head(AutoModelForTokenClassification.from_config(config))
    return attach(model, base, LABELS, seed=0)


def test_mistral_7b_in_shape():
    config = MistralConfig(
        vocab_size=32768,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        sliding_window=None,
    )
    model = ModelConfig(model_name="mistralai/Mistral-7B-v0.3", lora_r=16, bidirectional=True)
    attached = attach_in_shape(model, config)
    hidden, inner, key_value = 4096, 14336, 8 * 128
    attention = [(hidden, hidden), (hidden, key_value), (hidden, key_value), (hidden, hidden)]
    feed_forward = [(hidden, inner), (hidden, inner), (inner, hidden)]
    lora = 32 * sum(16 * (into + out) for into, out in attention + feed_forward)
    head = (hidden + 1) * len(LABELS)
    frozen = 32 * (sum(into * out for into, out in attention + feed_forward) + 2 * hidden) + hidden * (32768 + 1)
    counts = {
        part: sum(value.numel() for name, value in attached.named_parameters() if chosen(name, value))
        for part, chosen in {
            "lora": lambda name, value: "lora_" in name,
            "trained": lambda name, value: value.requires_grad,
            "frozen": lambda name, value: not value.requires_grad and "score" not in name,
        }.items()
    }
    assert counts == {"lora": lora, "trained": lora + head, "frozen": frozen}
    assert 7.0e9 < frozen < 7.2e9
    assert {value.device.type for value in attached.parameters()} == {"meta"}
    assert attached.config.is_causal is False


def test_auto_on_bert_puts_lora_on_query_and_value():
    attached = attach_in_shape(ModelConfig(lora_r=8, lora_target_modules="auto"), BertConfig())
    trained = sum(value.numel() for value in attached.parameters() if value.requires_grad)
    assert trained == 12 * 2 * 8 * (768 + 768) + 769 * len(LABELS)
