"""What the machine can do: device, number format, quantisation and attention for the frozen weights."""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import os
from typing import Any

import torch
import transformers
from transformers.utils.import_utils import is_flash_attn_2_available

from mistral_ner.config import ModelConfig, UserError

HEADS = ("score", "classifier")  # what transformers calls the head of a token classifier: decoders, encoders


def device() -> torch.device:
    """Return this process's GPU, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def frozen_dtype(model: ModelConfig) -> torch.dtype:
    """Return the dtype of the frozen weights; ``auto`` is what the hardware computes fast in."""
    if model.dtype != "auto":
        chosen: torch.dtype = getattr(torch, model.dtype)
        return chosen
    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def precision(wanted: str) -> str:
    """Return the number format of a training's products; ``auto`` is what the hardware has units for."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    # on a CPU without such units bf16 is many times slower than fp32
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases of torch cannot tell
    return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"


def autocast(wanted: str) -> torch.autocast:
    """Compute as a training with ``training.precision=wanted`` does."""
    chosen = precision(wanted)
    dtype = torch.float16 if chosen == "fp16" else torch.bfloat16
    return torch.autocast(device().type, dtype, enabled=chosen != "fp32")


def quantization(model: ModelConfig) -> Any:
    """8-bit (LLM.int8) or 4-bit (QLoRA's NF4, double quantised: https://arxiv.org/abs/2305.14314)."""
    try:
        import bitsandbytes  # type: ignore[import-untyped,unused-ignore]  # noqa: F401
    except ImportError:
        raise UserError(
            f"model.quantization={model.quantization} needs bitsandbytes, which is not installed: "
            "type `pip install bitsandbytes`, or model.quantization=none"
        ) from None
    # a quantised head could not be trained
    skip = list(HEADS)
    if model.quantization == "8bit":
        return transformers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=frozen_dtype(model),
        llm_int8_skip_modules=skip,
    )


def attention(model: ModelConfig) -> str | None:
    """Return the implementation to ask for; None lets transformers take sdpa, or eager where it must."""
    usable = torch.cuda.is_available() and is_flash_attn_2_available() and frozen_dtype(model) != torch.float32
    if model.attention == "auto":
        return "flash_attention_2" if usable else None
    if model.attention == "flash_attention_2" and not usable:
        raise UserError(
            "model.attention=flash_attention_2 needs a GPU, the flash-attn package and a 16-bit model.dtype; "
            "type model.attention=auto"
        )
    return model.attention
