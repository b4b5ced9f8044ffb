"""Tokenizers: trained ones, packaged ones, and those built from SentencePiece files."""

import time
from pathlib import Path

import pytest
from test_model_adapter import tiny

from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import UserError
from mistral_ner.model import load_saved_tokenizer, load_tokenizer

TEXT = "Angela Merkel met Zürich's mayor at O'Hare on 24 May 2019 ; U.N. staff , São Paulo 北京 🙂 said so"
WORDS = TEXT.split()
SENTENCES = [[WORDS[(i * 7 + j * (i % 5 + 1)) % len(WORDS)] for j in range(3 + i % 17)] for i in range(400)]
TEXTS = [" ".join(words) for words in SENTENCES] + ["two  spaces", " leading", "tab\there", "", "\n", "<s> text", "▁"]


def test_a_trained_tokenizer_maps_tokens_to_words_and_knows_all_text():
    start = time.perf_counter()
    tokenizer = load_tokenizer(tiny(), SENTENCES)
    assert time.perf_counter() - start < 10  # 0.05 s here; transformers' import is in it
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (
        0,
        1,
        2,
        3,
    )
    assert tokenizer.padding_side == "right"
    encoded = tokenizer([SENTENCES[0], ["unseen", "Ωμέγα", "𓀀"]], is_split_into_words=True, padding=True)
    assert set(encoded) == {"input_ids", "attention_mask"}
    assert set(encoded.word_ids(1)) == {None, 0, 1, 2}
    assert tokenizer.unk_token_id not in encoded["input_ids"][1]
    assert tokenizer.decode(encoded["input_ids"][1], skip_special_tokens=True) == " unseen Ωμέγα 𓀀"


def test_a_trained_tokenizer_comes_back_from_disk(tmp_path):
    tokenizer = load_tokenizer(tiny(), SENTENCES)
    tokenizer.save_pretrained(tmp_path)
    again = load_saved_tokenizer(tmp_path)
    assert again.pad_token_id == 0
    assert again(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert set(again("a")) == {"input_ids", "attention_mask"}


def test_no_saved_tokenizer(tmp_path):
    with pytest.raises(UserError, match=r"must hold a tokenizer\.json, found none"):
        load_saved_tokenizer(tmp_path)


def test_random_init_needs_sentences():
    with pytest.raises(ValueError, match="needs train_sentences"):
        load_tokenizer(tiny())


def test_minilm_survives_saving(tmp_path):
    tokenizer = load_tokenizer(ModelConfig())
    assert tokenizer.pad_token == "[PAD]"
    tokenizer.save_pretrained(tmp_path)
    again = load_saved_tokenizer(tmp_path)
    assert again(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert set(again("a")) == set(tokenizer("a"))


def sentencepiece_folder(tmp_path, **options):
    import sentencepiece

    settings = {
        "model_type": "bpe",
        "vocab_size": 430,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "split_digits": True,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3), model_prefix=str(tmp_path / "tokenizer"), **(settings | options)
    )
    return tmp_path, sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))


def test_sentencepiece_file_gives_its_own_ids(tmp_path):
    folder, pieces = sentencepiece_folder(tmp_path)
    (folder / "config.json").write_text('{"model_type": "mistral"}')
    tokenizer = load_tokenizer(ModelConfig(model_name=str(folder)))
    assert tokenizer.pad_token == "</s>"
    for text in TEXTS:
        if "<s>" in text:
            continue  # SentencePiece has no markup in text; a transformers tokenizer does
        found = tokenizer(text)["input_ids"]
        assert found[0] == pieces.bos_id()
        assert found[1:] == pieces.encode(text), text
    encoded = tokenizer(SENTENCES[3], is_split_into_words=True)
    assert set(encoded.word_ids()) == {None, *range(len(SENTENCES[3]))}
    tokenizer.save_pretrained(tmp_path / "saved")
    assert load_saved_tokenizer(tmp_path / "saved")(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]


def test_a_sentencepiece_file_of_another_kind_is_refused(tmp_path):
    folder, _ = sentencepiece_folder(tmp_path, model_type="unigram", vocab_size=320)
    with pytest.raises(UserError, match=r"must be a byte-pair SentencePiece file.*tokenizer\.json"):
        load_tokenizer(ModelConfig(model_name=str(folder)))


def test_mistrals_own_files(tmp_path):
    """The files that mistral-common ships, where that package is installed (`pip install --no-deps mistral-common`)."""
    import importlib.util
    import shutil

    import sentencepiece

    spec = importlib.util.find_spec("mistral_common")
    if spec is None:
        pytest.skip("mistral-common is not installed")
    source = Path(spec.origin).parent / "data" / "mistral_instruct_tokenizer_240323.model.v3"
    shutil.copy(source, tmp_path / "tokenizer.model")
    tokenizer = load_tokenizer(ModelConfig(model_name=str(tmp_path)))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(source))
    assert len(tokenizer) == 32768
    for text in TEXTS:
        if "<s>" not in text:
            assert tokenizer(text, add_special_tokens=False)["input_ids"] == pieces.encode(text), text


def model_folder(folder, kind, tokenizer_class=None):
    """A model without files of a tokenizer, and the class that it names."""
    from transformers import CONFIG_MAPPING

    CONFIG_MAPPING[kind]().save_pretrained(folder)
    if tokenizer_class is not None:
        (folder / "tokenizer_config.json").write_text(f'{{"tokenizer_class": "{tokenizer_class}"}}')
    return ModelConfig(model_name=str(folder))


@pytest.mark.parametrize(("kind", "name"), [("canine", "CanineTokenizer"), ("t5", "ByT5Tokenizer")])
def test_a_tokenizer_without_a_fast_form_is_refused_with_the_reason(tmp_path, kind, name):
    with pytest.raises(UserError) as refused:
        load_tokenizer(model_folder(tmp_path, kind, name))
    assert str(refused.value) == (
        f"the tokenizer of {tmp_path} has no fast form ({name} is written in Python), so nothing says which subwords "
        "a word has\n  fix: another model.model_name, or model=minilm"
    )


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2", "xlm-roberta", "llama", "qwen3", "gemma"])
def test_a_model_without_its_vocabulary_is_refused(tmp_path, kind):
    """transformers makes up a tokenizer of a few special tokens, to which every word is unknown."""
    with pytest.raises(UserError, match=r"has no vocabulary|cannot load"):
        load_tokenizer(model_folder(tmp_path, kind))


def test_deberta_v3_brings_a_sentencepiece_file_alone(tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    from mistral_ner.model.source import check_model

    special = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    ids = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    folder, pieces = sentencepiece_folder(
        tmp_path, model_type="unigram", vocab_size=400, hard_vocab_limit=False, byte_fallback=False, **special, **ids
    )
    (folder / "tokenizer.model").rename(folder / "spm.model")
    model = model_folder(folder, "deberta-v2")
    save_file({"x": np.zeros(1)}, folder / "model.safetensors")
    check_model(model)
    tokenizer = load_tokenizer(model)
    for words in SENTENCES[:50]:
        assert tokenizer(" ".join(words), add_special_tokens=False)["input_ids"] == pieces.encode(" ".join(words))


def test_mistral_common_beside_it_changes_nothing(tmp_path, monkeypatch):
    """With that package AutoTokenizer returns a class of its own for a Mistral, which cannot map tokens to words."""
    import transformers

    load_tokenizer(tiny(), SENTENCES).save_pretrained(tmp_path)
    wanted = load_tokenizer(ModelConfig(model_name=str(tmp_path)))
    other = type("MistralCommonBackend", (), {})()
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *args, **options: other)
    found = load_tokenizer(ModelConfig(model_name=str(tmp_path)))
    assert found.is_fast
    assert found(TEXTS)["input_ids"] == wanted(TEXTS)["input_ids"]
