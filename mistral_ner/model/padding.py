"""Padding beside a sentence: whether a model's answers depend on it, and a mask that hides it without a wait."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import torch

from mistral_ner.model.hardware import autocast, place_of_inputs
from mistral_ner.model.hardware import precision as chosen_precision

log = logging.getLogger(__name__)

_kept: weakref.WeakKeyDictionary[Any, dict[Any, bool]] = weakref.WeakKeyDictionary()  # by network and what it computes


def reads_padding(model: Any, precision: str, pad_id: int) -> bool:
    """Return whether the logits of a sentence depend on the padding beside it, and warn of that once a network.

    A sentence of a few tokens goes through the model alone, beside padding, and beside other tokens that are masked,
    too. Most networks give masked tokens a weight of 0. Convolutions, pooling and sums over all positions may not
    (ConvBERT, Funnel and others in transformers 5.23).

    Args:
        model: a token classifier in eval mode, or a peft model around one; the answer is kept as long as it.
        precision: ``training.precision``.
        pad_id: the tokenizer's.
    """
    network: Any = getattr(model, "get_base_model", lambda: model)()
    key = getattr(network.config, "is_causal", None), network.config._attn_implementation, precision
    known = _kept.setdefault(network, {})
    if key not in known:
        known[key] = _differ(model, precision, pad_id)
        if known[key]:
            log.warning(
                "the answers of a %s depend on the padding beside a sentence: sentences of one length are scored "
                "together, which takes longer, and training still pads its batches",
                network.config.model_type,
            )
    return known[key]


def mask_without_waiting(model: Any, mask: torch.Tensor) -> torch.Tensor:
    """Return the mask of the attention itself, (rows, 1, tokens, tokens), for the mask of a batch, (rows, tokens).

    transformers looks into the latter for padding, and on a GPU the host then waits for everything before. Other
    networks than :data:`MASKED_ONCE`, other implementations of attention than sdpa, and the CPU, where there is
    nothing to wait for, get ``mask`` back.

    Args:
        model: a token classifier, or a peft model around one.
        mask: 1 for tokens, 0 for padding on the right.
    """
    network: Any = getattr(model, "get_base_model", lambda: model)()
    if mask.device.type == "cpu" or not takes_whole_mask(network.config, mask.shape[1]):
        return mask
    return whole_mask(network.config, mask)


def takes_whole_mask(config: Any, tokens: int) -> bool:
    """Whether a network takes the mask of the attention itself, the same for all its layers."""
    window = getattr(config, "sliding_window", None)
    known = config.model_type in MASKED_ONCE and config._attn_implementation == "sdpa"
    return known and (window is None or window > tokens)


def whole_mask(config: Any, mask: torch.Tensor) -> torch.Tensor:
    """Return what transformers makes of ``mask``: true where a token, by row, sees a token, by column."""
    rows, tokens = mask.shape
    seen = mask.bool()[:, None, None, :].expand(rows, 1, tokens, tokens)
    if config.model_type in _DECODERS and getattr(config, "is_causal", True):
        seen = seen & torch.ones((tokens, tokens), dtype=torch.bool, device=mask.device).tril()
    return seen


_DECODERS = ("llama", "mistral", "qwen2", "qwen3")
MASKED_ONCE = (*_DECODERS, "bert", "roberta", "xlm-roberta")  # each is tested: transformers takes the mask as it is
_SENTENCE = [2, 5, 6, 7]
_BESIDE = 8  # masked tokens


def _differ(model: Any, precision: str, pad_id: int) -> bool:
    other = 3 if pad_id != 3 else 4
    with torch.inference_mode(), autocast(precision):
        alone, padded, filled = (_logits(model, beside) for beside in ([], [pad_id] * _BESIDE, [other] * _BESIDE))
    scale = float(padded.abs().max()) + 1e-12
    of_content, of_length = _rounding(model, precision)
    by_content, by_length = float((padded - filled).abs().max()) / scale, float((padded - alone).abs().max()) / scale
    return by_content > of_content or by_length > of_length


def _logits(model: Any, beside: list[int]) -> torch.Tensor:
    place = place_of_inputs(model)
    ids = torch.tensor([_SENTENCE + beside], device=place)
    mask = torch.tensor([[1] * len(_SENTENCE) + [0] * len(beside)], device=place)
    logits: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits[0, : len(_SENTENCE)]
    return logits.float()


def _rounding(model: Any, precision: str) -> tuple[float, float]:
    """Return the share of the largest logit that rounding explains, for inputs of one shape and of two shapes.

    For inputs of one shape it is 0 where the masked tokens have a weight of 0. Weights in 8 bits are an exception:
    bitsandbytes chooses the columns that it keeps in 16 bits by all tokens.
    """
    short = chosen_precision(precision) != "fp32" or model.dtype != torch.float32
    return 2e-2 if getattr(model, "is_quantized", False) else 1e-5, 5e-2 if short else 1e-3
