"""Tokenizers: the model's own, one built from a SentencePiece file, or a small one trained on the data."""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mistral_ner.config import ModelConfig, UserError
from mistral_ner.model.source import hub_options, loading_errors, locate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<s>", "</s>"  # of a trained tokenizer; their ids are 0, 1, 2, 3
TRAINED_VOCAB_SIZE = 1500


def load_tokenizer(model: ModelConfig, train_sentences: Iterable[list[str]] | None = None) -> PreTrainedTokenizerFast:
    """Return the tokenizer of ``model``, with a pad token and padding on the right.

    Args:
        model: with ``random_init`` the tokenizer is trained on the sentences, otherwise it is the model's own.
        train_sentences: the words of each training sentence; needed (and read) only with ``random_init``.

    Raises:
        UserError: there is no such model, or it has no tokenizer that can map tokens back to words.
    """
    if model.random_init is not None:
        if train_sentences is None:
            raise ValueError("a random_init model needs train_sentences to train its tokenizer")
        return train_tokenizer(train_sentences)
    source = locate(model)
    with loading_errors(model):
        return _ready(_own_tokenizer(source, model), source)


def load_saved_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer that ``save_pretrained`` wrote into ``folder``, exactly as it was.

    Raises:
        UserError: ``folder`` holds none.
    """
    from transformers import PreTrainedTokenizerFast

    if not (Path(folder) / "tokenizer.json").is_file():
        raise UserError(f"a trained model's folder must hold a tokenizer.json, found none in {folder}; name its folder")
    # the plain class takes tokenizer.json as it is; AutoTokenizer may rebuild it after the model's type
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(str(folder))
    return _ready(tokenizer, str(folder))


def train_tokenizer(sentences: Iterable[list[str]]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer: the same sentences give the same bits, and no text is unknown to it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    # each word gets its leading space, whether it comes alone or in a text
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TRAINED_VOCAB_SIZE,
        special_tokens=[PAD, UNK, BOS, EOS],
        # all 256 bytes, so that the alphabet does not depend on the data
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    core.train_from_iterator((" ".join(words) for words in sentences), trainer)
    core.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="right",
        # the class's default names token_type_ids too, which decoders do not take
        model_input_names=["input_ids", "attention_mask"],
    )


def _own_tokenizer(source: str, model: ModelConfig) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    folder = Path(source)
    if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
        # AutoTokenizer gives wrong ids for such a folder, without a word (transformers 5.23)
        from mistral_ner.model.sentencepiece import from_sentencepiece

        return from_sentencepiece(folder / "tokenizer.model")
    tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, **hub_options(model))
    if not tokenizer.is_fast:
        raise UserError(
            f"the tokenizer of {source} cannot map tokens back to words: it must be a fast one (tokenizer.json); "
            "type another model.model_name, or model=minilm"
        )
    return cast("PreTrainedTokenizerFast", tokenizer)


def _ready(tokenizer: PreTrainedTokenizerFast, source: str) -> PreTrainedTokenizerFast:
    if tokenizer.pad_token is None:
        # padded positions are masked, so any token does; one that occurs in no text cannot be mistaken for one
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise UserError(f"a tokenizer must have a pad, eos or unk token, found none in {source}; set one there")
    tokenizer.padding_side = "right"
    # what save_pretrained writes: the input names, which a plain fast tokenizer would not know, but not whether the
    # hub was in reach
    tokenizer.init_kwargs["model_input_names"] = list(tokenizer.model_input_names)
    tokenizer.init_kwargs.pop("local_files_only", None)
    return tokenizer
