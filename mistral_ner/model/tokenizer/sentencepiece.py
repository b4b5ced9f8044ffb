"""A fast tokenizer from a SentencePiece BPE file (`tokenizer.model`), which Mistral's and Llama's first models have."""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistral_ner.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SPACE = "▁"
_PROBES = (
    "The quick brown fox",
    "Zürich, São Paulo and 北京 🙂",
    " two  spaces\tand a tab ",
    "U.S.-based A1B2 3,141.59 (§12) don't",
)


def from_sentencepiece(path: Path) -> PreTrainedTokenizerFast:
    """Build the tokenizer, and check that it gives SentencePiece's own ids.

    Raises:
        UserError: the sentencepiece package is missing, or the file is of a kind that cannot be converted.
    """
    try:
        import sentencepiece  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise UserError(
            f"{path} is a SentencePiece file, which needs the sentencepiece package: type `pip install sentencepiece`, "
            "or put the model's tokenizer.json beside it"
        ) from None
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    core = _bpe(pieces)
    for text in _PROBES:
        if core.encode(text, add_special_tokens=False).ids != pieces.encode(text):
            raise UserError(
                f"{path} must be a byte-pair SentencePiece file without text normalisation, but a tokenizer built from "
                "it does not give its ids; put the model's tokenizer.json beside it"
            )
    return _wrap(core, pieces)


def _bpe(pieces: Any) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    size = pieces.get_piece_size()
    vocab = {pieces.id_to_piece(index): index for index in range(size)}
    special = [index for index in range(size) if pieces.is_control(index) or pieces.is_unknown(index)]
    plain = [index for index in range(size) if index not in set(special) and not pieces.is_byte(index)]
    core = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=_merges(pieces, vocab, plain),
            unk_token=pieces.id_to_piece(pieces.unk_id()),
            fuse_unk=True,
            byte_fallback=any(pieces.is_byte(index) for index in range(size)),
        )
    )
    # no pre-tokenizer: SentencePiece merges across word boundaries
    core.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    core.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens(
        [AddedToken(pieces.id_to_piece(index), normalized=False, special=True) for index in special]
    )
    return core


def _merges(pieces: Any, vocab: dict[str, int], plain: list[int]) -> list[tuple[str, str]]:
    """Return the merges: every split of a piece into two pieces, those with the best-scored result first."""
    ranked = sorted(plain, key=lambda index: (-pieces.get_score(index), index))
    allowed = {pieces.id_to_piece(index) for index in plain}
    merges: list[tuple[str, str]] = []
    for index in ranked:
        piece = pieces.id_to_piece(index)
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [(left, right) for left, right in splits if left in allowed and right in allowed]
        merges += sorted(known, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return merges


def _wrap(core: Any, pieces: Any) -> PreTrainedTokenizerFast:
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    names = {"unk_token": pieces.unk_id(), "bos_token": pieces.bos_id(), "eos_token": pieces.eos_id()}
    # an id of -1 means that the file has no such token
    tokens = {name: pieces.id_to_piece(index) for name, index in names.items() if index >= 0}
    if "bos_token" in tokens:
        bos = tokens["bos_token"]
        core.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, pieces.bos_id())])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, model_input_names=["input_ids", "attention_mask"], padding_side="right", **tokens
    )
