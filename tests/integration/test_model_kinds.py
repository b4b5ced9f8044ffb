"""The models that people name, small and random, with tokenizers of their kinds: trained, searched, merged, used."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM

from mistral_ner.config.check import check
from mistral_ner.hyperopt import search
from mistral_ner.model.stored import read_labels, save_merged
from mistral_ner.predict import Tagger
from mistral_ner.train import fit
from mistral_ner.training.checkpoint import reports_on_disk

TEXT = [f"{who} Li {verb} {where} . we" for who in ("Ada", "Bo", "Cy", "Di", "Ed")
        for verb in ("saw", "left", "knows") for where in ("Oslo", "Rome", "Lima", "Bonn")]  # fmt: skip
SENTENCES = [text.split()[:5] for text in TEXT]
BERTS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
ROBERTAS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def train(core: Tokenizer, trainer: trainers.Trainer, begin: str = "", end: str = "") -> Tokenizer:
    """Train on the toy data; ``begin`` and ``end`` stand around each text."""
    core.train_from_iterator(TEXT, trainer)
    special = [(token, core.token_to_id(token)) for token in (begin, end) if token]
    if special:
        single = f"{begin} $A {end}".strip()
        core.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return core


def word_pieces() -> Tokenizer:
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.BertNormalizer(lowercase=False), pre_tokenizers.BertPreTokenizer()
    return train(core, trainers.WordPieceTrainer(vocab_size=120, special_tokens=BERTS), "[CLS]", "[SEP]")


def byte_pairs(begin: str = "<s>", end: str = "</s>") -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # as on the hub: a space belongs to its word
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=ROBERTAS, initial_alphabet=alphabet)
    return train(core, trainer, begin, end)


def pieces(special: list[str], begin: str, end: str) -> Tokenizer:
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    unknown = next(token for token in special if "unk" in token.lower())
    trainer = trainers.UnigramTrainer(vocab_size=100, special_tokens=special, unk_token=unknown)
    return train(core, trainer, begin, end)


def gemma_pairs() -> Tokenizer:
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.add_special_tokens([AddedToken(token, special=True) for token in ROBERTAS])
    return train(core, trainers.BpeTrainer(vocab_size=160, special_tokens=ROBERTAS), "<s>")


SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SHAPE, "num_key_value_heads": 2}
DEBERTA_V3 = {**SHAPE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
DEBERTA_V3 |= {"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_buckets": 16}
FAST = "PreTrainedTokenizerFast"


@dataclass(frozen=True)
class Kind:
    """A network of a family, with the kind of tokenizer that its checkpoints on the hub have."""

    type: str
    build_tokenizer: Callable[[], Tokenizer]
    tokenizer_class: str
    shape: dict[str, Any] = field(default_factory=lambda: SHAPE)
    decoder: bool = False


KINDS = {
    "BERT": Kind("bert", word_pieces, "BertTokenizerFast"),
    "RoBERTa": Kind("roberta", byte_pairs, "RobertaTokenizerFast"),
    # mDeBERTa is DeBERTa-v3, network and kind of tokenizer alike, with a vocabulary of many languages
    "DeBERTa-v3, mDeBERTa": Kind(
        "deberta-v2", lambda: pieces(BERTS, "[CLS]", "[SEP]"), "DebertaV2TokenizerFast", DEBERTA_V3
    ),
    "ModernBERT": Kind("modernbert", byte_pairs, FAST),
    "XLM-R": Kind("xlm-roberta", lambda: pieces(ROBERTAS, "<s>", "</s>"), "XLMRobertaTokenizerFast"),
    "EuroBERT": Kind("eurobert", byte_pairs, FAST, {**GROUPED, "mask_token_id": 4}),
    "Llama": Kind("llama", lambda: byte_pairs(end=""), FAST, GROUPED, decoder=True),
    "Qwen2": Kind("qwen2", lambda: byte_pairs("", ""), "Qwen2TokenizerFast", GROUPED, decoder=True),
    "Qwen3": Kind("qwen3", lambda: byte_pairs("", ""), "Qwen2TokenizerFast", {**GROUPED, "head_dim": 8}, decoder=True),
    "Gemma": Kind("gemma", gemma_pairs, "GemmaTokenizerFast", {**GROUPED, "head_dim": 8}, decoder=True),
    "Gemma 2": Kind("gemma2", gemma_pairs, "GemmaTokenizerFast", {**GROUPED, "head_dim": 8}, decoder=True),
}


def save_checkpoint(kind: Kind, folder: Path) -> None:
    """Write what a hub model of this kind consists of: pretrained without a tagger's head, and its tokenizer."""
    core = kind.build_tokenizer()
    folder.mkdir()
    core.save(str(folder / "tokenizer.json"))
    like_bert = core.token_to_id("[PAD]") is not None
    pad, begin, end, unknown, mask = BERTS if like_bert else [ROBERTAS[place] for place in (1, 0, 2, 3, 4)]
    names = {"pad_token": pad, "unk_token": unknown, "mask_token": mask}
    names |= {"cls_token": begin, "sep_token": end} if not kind.decoder else {"bos_token": begin, "eos_token": end}
    said = {"tokenizer_class": kind.tokenizer_class, "do_lower_case": False, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    ids = {f"{name}_token_id": core.token_to_id(token) for name, token in (("pad", pad), ("bos", begin), ("eos", end))}
    own = (
        {"cls_token_id": ids["bos_token_id"], "sep_token_id": ids["eos_token_id"]} if kind.type == "modernbert" else {}
    )
    config = CONFIG_MAPPING[kind.type](vocab_size=core.get_vocab_size(), **ids, **own, **kind.shape)
    torch.manual_seed(0)
    network = AutoModelForCausalLM if kind.decoder else AutoModelForMaskedLM
    network.from_config(config).save_pretrained(folder)


@pytest.mark.parametrize("name", KINDS)
def test_a_model_that_people_name_is_trained_merged_and_predicts(
    tmp_path: Path, name: str, toy_files: dict[str, str]
) -> None:
    kind, folder, run = KINDS[name], tmp_path / "model", tmp_path / "run"
    save_checkpoint(kind, folder)
    given = {
        "output_dir": str(run),
        "model": {"model_name": str(folder), "lora_r": 4, "bidirectional": kind.decoder},
        "data": {"source": "files", **toy_files, "cache_dir": str(tmp_path / "cache")},
        "training": {"num_epochs": 4, "reports": 2, "learning_rate": 1e-2, "threads": 1},
    }
    given["training"] |= {"per_device_train_batch_size": 8}
    assert fit(given) > 0
    first, last = reports_on_disk(run)
    assert last["eval_loss"] < first["eval_loss"], "it learns"
    save_merged(check(given), read_labels(run / "adapter"), run / "adapter", tmp_path / "merged")
    ours, merged = (
        [one for found in Tagger.load(place).tag_words(SENTENCES) for one in found]
        for place in (run, tmp_path / "merged")
    )
    assert ours, "it has learnt to find some"
    assert [(e.start, e.end, e.type) for e in merged] == [(e.start, e.end, e.type) for e in ours]
    np.testing.assert_allclose([e.score for e in merged], [e.score for e in ours], atol=2e-4)


@pytest.mark.parametrize("name", KINDS)
def test_a_model_that_people_name_is_searched(tmp_path: Path, name: str, toy_files: dict[str, str]) -> None:
    kind, folder = KINDS[name], tmp_path / "model"
    save_checkpoint(kind, folder)
    by_loss = {"metric": "eval_loss", "mode": "min"}
    found = search(
        {
            "output_dir": ".",
            "model": {"model_name": str(folder), "bidirectional": kind.decoder},
            "data": {"source": "files", **toy_files, "cache_dir": str(tmp_path / "cache")},
            "training": {**by_loss, "num_epochs": 2, "reports": 2, "threads": 1, "per_device_train_batch_size": 8},
            "search_space": {
                "lora_r": {"type": "choice", "choices": [2, 4]},
                "learning_rate": {"type": "loguniform", "low": 5e-3, "high": 2e-2},
            },
            "hyperopt": {
                "strategy": "random",
                "optuna_sampler": "Random",
                "num_trials": 2,
                "max_concurrent": 1,
                **by_loss,
                "final": {"enabled": False},
                "results_dir": str(tmp_path),
                "study_name": "s",
            },
        }
    )
    assert found.trials["state"].tolist() == ["COMPLETE"] * 2
    first, second = found.trials["value"]
    assert found.best.metrics["eval_loss"] == min(first, second)
    assert first != second, "the settings act"
    assert sorted(found.best.config) == ["learning_rate", "lora_r"]
    losses = [report["eval_loss"] for report in reports_on_disk(found.best.folder)]
    assert losses[1] < losses[0], "it learns"
    assert (found.folder / "best_config.yaml").is_file()
