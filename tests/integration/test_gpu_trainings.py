"""What would go wrong on a GPU, as far as a CPU can show it: memory that a training keeps, cards that it takes."""

from __future__ import annotations

import copy
import gc
import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from mistral_ner.config.check import check
from mistral_ner.errors import UserError
from mistral_ner.hyperopt.cluster.workers import Failed
from mistral_ner.hyperopt.results.trainings import Candidate, Finalist, Trainings
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.model import base, stored
from mistral_ner.train import OutOfMemoryError, fit
from mistral_ner.training.evaluate import Forward, score
from mistral_ner.training.trainer import NerTrainer

pytestmark = pytest.mark.usefixtures("cold")


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref[NerTrainer]]]:
    """Every Trainer that is made; no collection happens but those that the project asks for."""
    made: list[weakref.ref[NerTrainer]] = []
    own = NerTrainer.__init__

    def remember(self: NerTrainer, **kwargs: Any) -> None:
        own(self, **kwargs)
        made.append(weakref.ref(self))

    monkeypatch.setattr(NerTrainer, "__init__", remember)
    gc.disable()
    yield made
    gc.enable()


def in_folder(config: dict[str, Any], name: str) -> dict[str, Any]:
    return {**copy.deepcopy(config), "output_dir": str(Path(config["output_dir"]).parent / name)}


def reports(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(config["output_dir"]) / "result.json").read_text().splitlines()]


def test_a_failed_training_gives_its_memory_back(
    tiny: dict[str, Any], trainers: list[weakref.ref[NerTrainer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three run out of memory in their second step; none is left, not even while its exception is."""
    own, broken, kept = NerTrainer.training_step, True, []

    def step(self: NerTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = own(self, *args, **kwargs)
        if broken and self.state.global_step == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss

    monkeypatch.setattr(NerTrainer, "training_step", step)
    for number in range(3):
        with pytest.raises(OutOfMemoryError, match="out of memory with 8 of 8 sentences") as raised:
            fit(in_folder(tiny, f"broken_{number}"))
        kept.append(raised.value)
        assert [trainer() for trainer in trainers] == [None] * (number + 1)
    assert kept[0].__cause__ is not None, "the reason is still there"
    broken = False
    for number in range(2):
        fit(in_folder(tiny, f"good_{number}"))
    assert [trainer() for trainer in trainers] == [None] * 5


def test_what_the_caller_was_handling_is_left_alone(tiny: dict[str, Any]) -> None:
    def fail() -> None:
        mine = "a local variable"
        raise KeyError(mine)

    def stop(number: int, metrics: dict[str, float]) -> bool:
        raise ValueError("a report that cannot be written")

    try:
        fail()
    except KeyError as error:
        with pytest.raises(ValueError, match="cannot be written"):
            fit(tiny, stop)
        frame = error.__traceback__.tb_next.tb_frame  # type: ignore[union-attr]
        assert frame.f_locals["mine"] == "a local variable"


def test_one_card_whatever_is_visible(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainer would multiply the batch by four cards, and the loss, and train fewer steps an epoch."""
    fit(in_folder(tiny, "one"))
    seen: list[tuple[int, int, bool]] = []
    own = NerTrainer.training_step

    def step(self: NerTrainer, model: Any, inputs: Any, *args: Any) -> torch.Tensor:
        seen.append((self.args.n_gpu, len(inputs["labels"]), isinstance(model, torch.nn.DataParallel)))
        return own(self, model, inputs, *args)

    monkeypatch.setattr(NerTrainer, "training_step", step)
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 4))
    monkeypatch.setattr(
        torch.nn.DataParallel, "__init__", lambda *_: pytest.fail("the base would be copied to each card")
    )
    fit(in_folder(tiny, "four"))
    assert set(seen) == {(1, 8, False)}
    one, four = (reports(in_folder(tiny, name)) for name in ("one", "four"))
    for name in ("step", "epoch", "train_loss", "eval_loss"):
        assert [row[name] for row in one] == [row[name] for row in four]


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_scores_need_no_second_base(tiny: dict[str, Any], tuning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What trained a model scores it, on the base that it keeps; a model that was trained whole is the only one."""
    loads: list[int] = []
    own = base.load_base
    for module in (base, stored):
        monkeypatch.setattr(module, "load_base", lambda *args: (loads.append(1), own(*args))[1])
    tiny["model"]["tuning"] = tuning
    value = fit(tiny)
    scores = [score(check(tiny), Path(tiny["output_dir"]) / "adapter", split) for split in ("dev", "test", "dev")]
    assert loads == [1]
    assert len(base._kept) == (tuning == "lora")
    assert scores[0] is not None
    assert scores[0].metrics["f1"] == pytest.approx(value, abs=1e-6)
    assert scores[2] is not None
    assert scores[0].metrics == scores[2].metrics
    assert fit(in_folder(tiny, "again")) == value


@pytest.mark.parametrize("room", [100, 1])
def test_scores_within_memory(tiny: dict[str, Any], room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit goes through in smaller batches; if one sentence does not fit, the error says so."""
    value = fit(tiny)
    own = Forward._compute

    def compute(self: Forward, *arguments: Any) -> Any:
        rows = arguments[-1]
        if len(rows) * max(len(row["input_ids"]) for row in rows) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(self, *arguments)

    monkeypatch.setattr(Forward, "_compute", compute)
    adapter = Path(tiny["output_dir"]) / "adapter"
    if room == 1:
        with pytest.raises(OutOfMemoryError, match=r"out of memory with \d tokens of an evaluation batch; fix: free"):
            score(check(tiny), adapter, "dev")
    else:
        found = score(check(tiny), adapter, "dev")
        assert found is not None
        assert found.metrics["f1"] == pytest.approx(value, abs=1e-6)


def test_a_score_without_memory_says_how_to_go_on(tiny: dict[str, Any]) -> None:
    class Full:
        at_once = 1
        office = None

        def each(self, function: Any, items: Any) -> Iterator[tuple[Any, Failed]]:
            yield from ((item, Failed("out of memory with the model")) for item in items)

    full: Any = Full()
    tiny["hyperopt"] = {"strategy": "optuna"}
    tiny["search_space"] = {"learning_rate": {"type": "uniform", "low": 0.1, "high": 0.2}}
    finalist = Finalist(Candidate(0, {}, 0.5), {1: (check(tiny), 0.5)})
    with pytest.raises(UserError, match=r"could not be scored: out of memory with the model; the trainings are kept: "):
        Trainings(Plan.of(tiny), full).scores([finalist], "dev")
