"""peft without bitsandbytes: what peft 0.21.2 and transformers 5.23.0 look for, and that they find it afterwards."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from peft import import_utils
from peft.tuners.lora import model as lora_model
from transformers.utils import is_bitsandbytes_available

from mistral_ner.model.lora import without_bitsandbytes

INSTALLED = importlib.util.find_spec("bitsandbytes") is not None


def test_peft_asks_these_functions_whose_answers_can_be_forgotten() -> None:
    for name in ("is_bnb_available", "is_bnb_4bit_available"):
        asked = getattr(import_utils, name)
        assert callable(asked.cache_clear), f"peft has changed {name}"
        assert getattr(lora_model, name) is asked, f"peft's LoRA asks another function than {name}"


def test_it_is_not_found_inside_and_found_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    assert import_utils.is_bnb_available() == INSTALLED
    with without_bitsandbytes():
        assert not import_utils.is_bnb_available()
        assert not import_utils.is_bnb_4bit_available()
        with pytest.raises(ImportError):
            import bitsandbytes  # noqa: F401
    assert import_utils.is_bnb_available() == INSTALLED
    assert is_bitsandbytes_available() == INSTALLED
    assert "bitsandbytes" not in sys.modules


def test_what_has_been_imported_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", sys)
    with without_bitsandbytes():
        assert sys.modules["bitsandbytes"] is sys
    assert sys.modules["bitsandbytes"] is sys
