"""Tokenizers: the model's own, one built from a SentencePiece file, or a small one trained on the data."""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import UserError
from mistral_ner.model.source import explain_loading_errors, hub_options, locate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<s>", "</s>"  # of a trained tokenizer; their ids are 0, 1, 2, 3
TRAINED_VOCAB_SIZE = 1500
# what AutoTokenizer takes for a Mistral where the package mistral-common is installed; it does not map tokens to words
_MISTRAL_COMMON = "MistralCommonBackend"
_FEWEST_WORDS = 16  # subwords of a tokenizer that is one; the least letters alone are more


def load_tokenizer(model: ModelConfig, train_sentences: Iterable[list[str]] | None = None) -> PreTrainedTokenizerFast:
    """Return the tokenizer of ``model``, with a pad token and padding on the right.

    Args:
        model: with ``random_init`` a tokenizer is trained on the sentences; otherwise it is the model's own.
        train_sentences: the words of each training sentence; needed (and read) only with ``random_init``.

    Raises:
        UserError: there is no such model, or it has no tokenizer that can map tokens back to words.
    """
    if model.random_init is not None:
        if train_sentences is None:
            raise ValueError("a random_init model needs train_sentences to train its tokenizer")
        return train_tokenizer(train_sentences)
    source = locate(model)
    with explain_loading_errors(model):
        return _set_up(_own_tokenizer(source, model), source)


def load_saved_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer that ``save_pretrained`` wrote into ``folder``, exactly as it was.

    Raises:
        UserError: ``folder`` holds no tokenizer.
    """
    from transformers import PreTrainedTokenizerFast

    if not (Path(folder) / "tokenizer.json").is_file():
        raise UserError(f"a trained model's folder must hold a tokenizer.json, found none in {folder}; name its folder")
    # the plain class reads tokenizer.json as it is; AutoTokenizer may change it to suit the model's type
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(str(folder))
    return _set_up(tokenizer, str(folder))


def train_tokenizer(sentences: Iterable[list[str]]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer: the same sentences give the same bits, and no text is unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    # each word gets a leading space, alone as in a text
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
        # the default has token_type_ids too, which decoders do not take
        model_input_names=["input_ids", "attention_mask"],
    )


def _own_tokenizer(source: str, model: ModelConfig) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = Path(source)
    if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
        # AutoTokenizer silently gives wrong ids for such a folder (transformers 5.23)
        from mistral_ner.model.tokenizer.sentencepiece import from_sentencepiece

        return from_sentencepiece(folder / "tokenizer.model")
    tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, **hub_options(model))
    if type(tokenizer).__name__ == _MISTRAL_COMMON:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source, **hub_options(model))
    if not tokenizer.is_fast:
        raise UserError(
            f"the tokenizer of {source} has no fast form ({type(tokenizer).__name__} is written in Python), so nothing "
            "says which subwords a word has\n  fix: another model.model_name, or model=minilm"
        )
    words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    if len(words) < _FEWEST_WORDS:  # transformers makes up an empty one
        raise UserError(
            f"{source} has no vocabulary: it must hold the tokenizer that its model was trained with (tokenizer.json, "
            "vocab.txt, spm.model or the like)\n  fix: copy these files there, or another model.model_name"
        )
    return cast("PreTrainedTokenizerFast", tokenizer)


def _set_up(tokenizer: PreTrainedTokenizerFast, source: str) -> PreTrainedTokenizerFast:
    if tokenizer.pad_token is None:
        # padding is masked, so any token will do; best is one that occurs in no text
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise UserError(f"a tokenizer must have a pad, eos or unk token, found none in {source}; set one there")
    tokenizer.padding_side = "right"
    # save_pretrained writes these: the input names, which a plain fast tokenizer would not know, but not whether the
    # hub could be reached
    tokenizer.init_kwargs["model_input_names"] = list(tokenizer.model_input_names)
    tokenizer.init_kwargs.pop("local_files_only", None)
    return tokenizer
