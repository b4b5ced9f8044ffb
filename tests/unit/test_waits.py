"""What makes the host wait for a GPU: numbers that it reads from the device in a step. A CPU shows where."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CONFIG_MAPPING, AutoModelForTokenClassification

from mistral_ner.model.padding import takes_whole_mask, whole_mask
from mistral_ner.train import fit
from mistral_ner.training import trainer
from mistral_ner.training.inputs.batches import collate, pieces

READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")  # results on the host


class Reads(TorchDispatchMode):
    """Remembers every operation whose result the host needs, and the line of Python that asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket._qualified_op_name.partition("::")[2] in READS:
            frames = [one for one in traceback.extract_stack()[:-1] if "/torch/" not in one.filename]
            self.lines.append(f"{frames[-1].filename}:{frames[-1].lineno} {frames[-1].line}")
        return func(*args, **(kwargs or {}))


@contextmanager
def reads() -> Iterator[list[str]]:
    with Reads() as found:
        yield found.lines


def test_a_read_is_seen() -> None:
    with reads() as found:
        if torch.ones(3).all():
            float(torch.ones(()))
    assert len(found) == 2
    assert "float(torch.ones(()))" in found[1]


DECODERS = ["llama", "mistral", "qwen2", "qwen3"]
ENCODERS = ["bert", "roberta", "xlm-roberta"]
CASES = [*itertools.product(DECODERS, [True, False]), *((kind, True) for kind in ENCODERS)]


def small(kind: str, both_sides: bool) -> Any:
    size = {"vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_labels": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8} if kind in DECODERS else {}
    config = CONFIG_MAPPING[kind](**size, **(heads or {"num_attention_heads": 4}))
    config.use_cache = False
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(config, attn_implementation="sdpa").eval()
    if both_sides:
        model.config.is_causal = False
        for module in model.modules():
            if hasattr(module, "is_causal"):
                module.is_causal = False
    return model


def rows(*lengths: int) -> list[dict[str, Any]]:
    return [{"input_ids": np.arange(4, 4 + length), "labels": np.zeros(length)} for length in lengths]


@pytest.mark.parametrize(("kind", "both_sides"), CASES)
def test_the_whole_mask_is_what_transformers_makes(kind: str, both_sides: bool) -> None:
    model, batch = small(kind, both_sides), collate(rows(9, 7, 3), pad_id=0)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert takes_whole_mask(model.config, ids.shape[1])
    with torch.no_grad():
        wanted = model(input_ids=ids, attention_mask=mask).logits
        with reads() as found:
            mine = model(input_ids=ids, attention_mask=whole_mask(model.config, mask)).logits
        alone = model(input_ids=ids[1:2, :7]).logits[0]
    assert torch.equal(mine[mask.bool()], wanted[mask.bool()])
    torch.testing.assert_close(mine[1, :7], alone, msg="padding changes nothing")
    assert found == []


def test_other_networks_keep_their_mask() -> None:
    sliding = CONFIG_MAPPING["mistral"](sliding_window=16)
    sliding._attn_implementation = "sdpa"
    assert takes_whole_mask(sliding, 15)
    assert not takes_whole_mask(sliding, 16), "its layers see a window only"
    other = CONFIG_MAPPING["deberta-v2"]()
    other._attn_implementation = "sdpa"
    assert not takes_whole_mask(other, 8)
    eager = CONFIG_MAPPING["mistral"](sliding_window=None)
    eager._attn_implementation = "eager"
    assert not takes_whole_mask(eager, 8), "eager attention adds its mask, which is of numbers"


def test_pieces_are_cut_without_a_look_into_the_batch() -> None:
    batch = collate(rows(9, 7, 3, 2), pad_id=0)
    with reads() as found:
        whole = list(pieces(batch, [9, 7, 3, 2], 4))
        halves = list(pieces(batch, [9, 7, 3, 2], 2))
    assert found == []
    assert len(whole) == 1
    assert all(whole[0][name] is batch[name] for name in batch)
    assert [tuple(piece["labels"].shape) for piece in halves] == [(2, 9), (2, 8)]
    assert [piece["attention_mask"].sum(1).tolist() for piece in halves] == [[9, 7], [3, 2]]


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("micro_batch", [8, 3])
def test_no_step_reads_a_number(
    tiny: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch, micro_batch: int
) -> None:
    """Twice the steps between two reports read no more: nothing is read in a step."""
    monkeypatch.setattr(
        trainer, "mask_without_waiting", lambda model, mask: whole_mask(model.get_base_model().config, mask)
    )
    own = trainer.NerTrainer.__init__

    def in_pieces(self: Any, **kwargs: Any) -> None:
        own(self, **{**kwargs, "micro_batch": micro_batch})

    monkeypatch.setattr(trainer.NerTrainer, "__init__", in_pieces)
    tiny["model"]["attention"] = "sdpa"
    found = []
    for number, epochs in enumerate([0.5, 0.5, 1]):  # the first one loads the base and looks at it
        run = {**tiny, "output_dir": str(tmp_path / str(number))}
        run["training"] = {**tiny["training"], "num_epochs": epochs, "reports": 1}
        with reads() as lines:
            fit(run)
        found.append(sorted(lines))
    assert found[1] == found[2]
    assert any("float(self._loss)" in line for line in found[2]), "a report does read its loss"
