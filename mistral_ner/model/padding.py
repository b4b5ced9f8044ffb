"""Whether a model's answers depend on the padding beside a sentence."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import torch

from mistral_ner.model.hardware import autocast
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
    place = next(model.parameters()).device
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
