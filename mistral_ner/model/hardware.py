"""What the machine supports: device, number format, quantisation and attention of the frozen weights."""

# mypy: allow-untyped-calls
# (many functions of transformers and peft declare no types)
from __future__ import annotations

import logging
import os
from typing import Any

import torch
import transformers
from transformers.utils.import_utils import is_flash_attn_2_available

from mistral_ner.config.schema import ModelConfig
from mistral_ner.errors import UserError

log = logging.getLogger(__name__)

HEADS = ("score", "classifier")  # what transformers calls the head of a token classifier: decoders, encoders


def device() -> torch.device:
    """Return this process's GPU, or the CPU if there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def find_map(model: ModelConfig) -> Any:
    """Return how transformers is to spread a network over devices; None: it lies on one.

    Raises:
        UserError: it is to be spread over GPUs, and there are none.
    """
    if model.device_map is not None and not torch.cuda.is_available():
        raise UserError(
            f"model.device_map={model.device_map} spreads a model over GPUs, and this process sees none; "
            "type model.device_map=null"
        )
    return model.device_map


def place_of_inputs(model: Any) -> torch.device:
    """Return the device on which a network, or a peft model around it, takes its inputs and gives its outputs.

    One that is spread over several moves what passes between its parts itself: accelerate has hooked them.
    """
    network: Any = getattr(model, "get_base_model", lambda: model)()
    place = getattr(getattr(network, "_hf_hook", None), "execution_device", None)
    return next(iter(network.parameters())).device if place is None else torch.device(place)


def frozen_dtype(model: ModelConfig) -> torch.dtype:
    """Return the dtype of the frozen weights; ``auto`` is the one in which the hardware is fast."""
    if model.dtype != "auto":
        chosen: torch.dtype = getattr(torch, model.dtype)
        return chosen
    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if _computes_bf16() else torch.float16


def _computes_bf16() -> bool:
    """Tell whether the GPU has units for bfloat16; NVIDIA's have them from compute capability 8 (Ampere) on.

    Older ones emulate it, many times slower.
    """
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def precision(wanted: str) -> str:
    """Return the number format of a training's products; ``auto`` is one that the hardware has units for.

    In fp16 Trainer scales the loss, so that small gradients are not rounded to 0.
    """
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if _computes_bf16() else "fp16"
    # on a CPU without such units bf16 is many times slower than fp32
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older releases of torch lack it
    return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"


def usable_precision(model: Any, wanted: str) -> str:
    """Return the number format in which ``model`` can compute: ``wanted``, or fp32 if a few tokens fail in it.

    Some networks fill their masks with numbers that 16 bits do not hold (DeBERTa v1 in transformers 5.23).

    Args:
        model: a token classifier, in any mode, which it keeps.
        wanted: ``training.precision``.
    """
    chosen = precision(wanted)
    if chosen == "fp32":
        return chosen
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast(chosen):
            model(input_ids=torch.ones((1, 4), dtype=torch.long, device=device()))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        log.warning("this model cannot compute in %s (%s): fp32 takes its place", chosen, error)
        return "fp32"
    finally:
        model.train(training)
    return chosen


def autocast(wanted: str) -> torch.autocast:
    """Return the context that computes in the number format of ``training.precision=wanted``."""
    dtype = product_dtype(wanted)
    if dtype == torch.float32:
        return torch.autocast(device().type, enabled=False)
    return torch.autocast(device().type, dtype)


def product_dtype(wanted: str) -> torch.dtype:
    """Return the dtype of the products under :func:`autocast`."""
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision(wanted)]


def quantization(model: ModelConfig) -> Any:
    """Return the settings of 8-bit (LLM.int8) or 4-bit weights (QLoRA's NF4: https://arxiv.org/abs/2305.14314).

    Raises:
        UserError: bitsandbytes is not installed.
    """
    try:
        import bitsandbytes  # type: ignore[import-untyped,unused-ignore]  # noqa: F401
    except ImportError:
        raise UserError(
            f"model.quantization={model.quantization} needs bitsandbytes, which is not installed: "
            "type `pip install bitsandbytes`, or model.quantization=none"
        ) from None
    # it warns of a cast in every call of every 8-bit layer: hundreds of MB in the log of a 7B trial
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
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
    """Return the implementation to ask for; None lets transformers choose sdpa, or eager for networks without it.

    ``auto`` is never the flash-attn package: in windows of some hundred tokens attention is a small part of the work,
    and transformers then counts the padding on the CPU in every layer, for which the GPU waits.

    Raises:
        UserError: flash attention is asked for and cannot be used.
    """
    if model.attention == "auto":
        return None
    if model.attention == "flash_attention_2" and not (
        torch.cuda.is_available()
        and torch.cuda.get_device_capability()[0] >= _FLASH
        and is_flash_attn_2_available()
        and frozen_dtype(model) != torch.float32
    ):
        raise UserError(
            f"model.attention=flash_attention_2 needs a GPU of compute capability {_FLASH} or more, the flash-attn "
            "package and a 16-bit model.dtype; type model.attention=auto"
        )
    return model.attention


_FLASH = 8  # Ampere, the oldest that flash-attn 2 supports (https://github.com/Dao-AILab/flash-attention)
