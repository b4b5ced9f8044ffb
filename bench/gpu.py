"""How well a card is used: training steps and whole searches, against plain Trainer with peft.

.venv/bin/python bench/gpu.py            Mistral-7B's exact shape with random weights, in bf16 and in 4 bits
.venv/bin/python bench/gpu.py --tiny     a network of two layers, to try the script itself without a card

Each side is a process of its own, on the same checkpoint (made once, 14 GB), sentences, batches of 8 and LoRA of rank
16 on all linear layers. Tokens a second are real ones, without padding, over the second half of ``--steps`` steps.

- ``alone``: ``fit``. ``together``: ``fit_together`` with ``--together`` trials in a pass; its tokens are those of all.
- ``plain``: Trainer and peft as their documentations put them together.
- ``search``, ``search_together``: ``hyperopt=random`` without final trainings, one trial at a time, or in passes.
- ``peer_search``: Trainer.hyperparameter_search(backend="optuna") with as many trials of as many steps.

The share of the card's peak counts 4 operations a weight and token (6 where activations are computed again), the frozen
weights having no gradients; that of its bandwidth counts one reading of the weights in each pass forward, backward and
again. Writes results/gpu.json, or prints it alone with ``--tiny``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import machine

HERE = Path(__file__).parent
SHAPE = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
SHAPE |= {"num_key_value_heads": 8, "head_dim": 128}  # Mistral-7B-v0.3's config.json
TINY = {"hidden_size": 64, "intermediate_size": 224, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2}
# dense bf16 operations and bytes a second, from NVIDIA's data sheets
CARDS = {
    "H200": (989e12, 4.8e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.04e12),
    "L40S": (362e12, 0.86e12),
    "L4": (121e12, 0.3e12),
    "4090": (165e12, 1.01e12),
}
BATCH, RANK = 8, 16
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    """Run every side and write the figures, or one side alone (``--side``)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--together", type=int, default=8)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--formats", nargs="+", default=["none", "4bit"])
    parser.add_argument("--checkpoint", type=Path, default=Path("~/.cache/mistral_ner/random-7b").expanduser())
    parser.add_argument("--side", choices=SIDES)
    args = parser.parse_args()
    if args.side:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(SIDES[args.side](args, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.tiny:
            args.checkpoint = Path(folder) / "tiny"
        if not (args.checkpoint / "tokenizer.json").is_file():
            make_checkpoint(args.checkpoint, TINY if args.tiny else SHAPE)
        runs = {one: {side: run(args, side, one) for side in SIDES} for one in args.formats}
    figures = {"settings": {"steps": args.steps, "together": args.together, "trials": args.trials, "batch": BATCH}}
    figures |= {"machine": machine(), "runs": runs, "ratios": {one: ratios(sides) for one, sides in runs.items()}}
    print(json.dumps(figures, indent=2))
    if not args.tiny:
        (HERE / "results/gpu.json").write_text(json.dumps(figures, indent=2) + "\n")


def run(args: argparse.Namespace, side: str, quantization: str) -> dict[str, Any]:
    """Run one side in a process of its own; a failure is a figure, too."""
    given = {"side": side, "formats": quantization, "checkpoint": args.checkpoint}
    given |= {"steps": args.steps, "together": args.together, "trials": args.trials}
    command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in given.items())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(quantization, side, found, file=sys.stderr, flush=True)
    return found


def ratios(sides: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return ours over theirs, where both ran: more is better."""
    pairs = [("alone", "plain"), ("together", "alone"), ("together", "plain"), ("search", "peer_search")]
    pairs += [("search_together", "search"), ("search_together", "peer_search")]
    found = {}
    for one, other in pairs:
        for what in ("tokens_a_second", "trials_an_hour"):
            if what in sides[one] and what in sides[other]:
                found[f"{one} / {other}"] = round(sides[one][what] / sides[other][what], 2)
    return found


def make_checkpoint(place: Path, shape: dict[str, int]) -> None:
    """Write a Mistral with random weights in bf16, and a tokenizer trained on the sample's sentences."""
    import torch
    from transformers import AutoModelForTokenClassification, MistralConfig

    from mistral_ner.config.schema import DataConfig
    from mistral_ner.data.read import load_splits
    from mistral_ner.model.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([sentence.tokens for sentence in load_splits(DataConfig()).train])
    small = shape["hidden_size"] < 1000
    words = {"vocab_size": len(tokenizer) if small else 32768, "pad_token_id": tokenizer.pad_token_id}
    config = MistralConfig(**shape, **words, sliding_window=None, num_labels=2)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        network = AutoModelForTokenClassification.from_config(config, dtype=torch.float32 if small else torch.bfloat16)
    network.save_pretrained(str(place))
    tokenizer.save_pretrained(str(place))


def settings(args: argparse.Namespace, folder: Path, name: str) -> dict[str, Any]:
    """Return the config of a training of ours."""
    model = {"model_name": str(args.checkpoint), "quantization": args.formats[0], "lora_r": RANK, "lora_dropout": 0.0}
    return {
        "output_dir": str(folder / name),
        "model": {**model, "bidirectional": True, "gradient_checkpointing": "auto"},
        "data": {"max_dev_sentences": 1, "cache_dir": str(folder / "cache")},
        "training": {
            "min_steps": args.steps,
            "min_epochs": 0.01,
            "max_epochs": 1000,
            "reports": 2,
            "per_device_train_batch_size": BATCH,
            "learning_rate": 2e-4,
        },
    }


def alone(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One training of ours."""
    from mistral_ner.train import fit

    config = settings(args, folder, "run")
    fit(config)
    return of_steps(args, folder, [config])


def together(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Several trainings of ours in a pass."""
    from mistral_ner.training.fit import fit_together

    configs = [settings(args, folder, f"run_{number}") for number in range(args.together)]
    for number, config in enumerate(configs):
        config["training"]["learning_rate"] *= 1 + number / 10
    fit_together(configs)
    return of_steps(args, folder, configs)


def of_steps(args: argparse.Namespace, folder: Path, configs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of the second halves of trainings that ran side by side."""
    seconds = 0.0
    for config in configs:
        lines = (Path(config["output_dir"]) / "result.json").read_text().splitlines()
        last = json.loads(lines[-1])
        seconds = max(seconds, last["time_s"] - last["eval_seconds"])
    return figures(args, folder, seconds, len(configs), len(configs) > 1)


def figures(args: argparse.Namespace, folder: Path, seconds: float, trials: int, again: bool = False) -> dict[str, Any]:
    """Return tokens a second, peak memory, and the shares of the card's peak and bandwidth."""
    import torch

    steps = args.steps - args.steps // 2
    tokens = real_tokens(args, folder, args.steps // 2, args.steps) * trials
    found = {"tokens_a_second": round(tokens / seconds, 1), "seconds_a_step": round(seconds / steps, 4)}
    if torch.cuda.is_available():
        found["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        card = next((CARDS[name] for name in CARDS if name in torch.cuda.get_device_name()), None)
        if card is not None:
            weights, held = weights_of(args)
            found["share_of_peak"] = round((6 if again else 4) * weights * tokens / seconds / card[0], 4)
            found["share_of_bandwidth"] = round((3 if again else 2) * held * steps / seconds / card[1], 4)
    return found


def weights_of(args: argparse.Namespace) -> tuple[int, float]:
    """Return how many weights the network has, and how many bytes they take on the card."""
    from mistral_ner.config.check import check
    from mistral_ner.model.memory.plan import plan_memory
    from mistral_ner.training.inputs.prepare import prepare

    config = check(settings(args, Path(tempfile.gettempdir()), "unused"))
    tokenizer, data = prepare(config)
    plan = plan_memory(config, len(data.labels), len(tokenizer), 128, True)
    shape = json.loads((args.checkpoint / "config.json").read_text())
    head = shape.get("head_dim") or shape["hidden_size"] // shape["num_attention_heads"]
    attention = 2 * head * (shape["num_attention_heads"] + shape["num_key_value_heads"])
    return shape["num_hidden_layers"] * shape["hidden_size"] * (
        attention + 3 * shape["intermediate_size"]
    ), plan.weights


def real_tokens(args: argparse.Namespace, folder: Path, first: int, last: int) -> int:
    """Return the tokens of the steps from ``first`` to ``last``, as our batches have them."""
    from mistral_ner.config.check import check
    from mistral_ner.training.inputs.batches import ByLength
    from mistral_ner.training.inputs.prepare import prepare

    lengths = prepare(check(settings(args, folder, "unused")))[1].rows("train").lengths
    order: list[int] = []
    sampler = ByLength(lengths, BATCH, 42)
    while len(order) < last * BATCH:
        order += list(sampler)
        sampler.set_epoch(sampler.epoch + 1)
    return int(sum(int(lengths[row]) for row in order[first * BATCH : last * BATCH]))


def plain(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One training by plain Trainer and peft, in batches of the same kind of rows."""
    import transformers

    times: dict[int, float] = {}

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
            import torch

            if state.global_step in (args.steps // 2, args.steps):
                torch.cuda.synchronize() if torch.cuda.is_available() else None
                times[state.global_step] = time.perf_counter()

    trainer, _ = plain_trainer(args, folder, callbacks=[Clock()])
    trainer.train()
    return figures(args, folder, times[args.steps] - times[args.steps // 2], 1)


def plain_trainer(args: argparse.Namespace, folder: Path, **more: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Return a Trainer as the documentations of transformers and peft put it together, and what makes its model."""
    import torch
    import transformers
    from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training

    from mistral_ner.config.check import check
    from mistral_ner.training.inputs.prepare import prepare

    tokenizer, data = prepare(check(settings(args, folder, "unused")))
    on_card, packed = torch.cuda.is_available(), args.formats[0] == "4bit"

    def model_init(_: Any = None) -> Any:
        options: dict[str, Any] = {"dtype": torch.bfloat16 if on_card else torch.float32}
        if packed:
            options["quantization_config"] = transformers.BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_compute_dtype=options["dtype"],
                llm_int8_skip_modules=["score"],
            )
            options["device_map"] = {"": "cuda:0" if on_card else "cpu"}
        network = transformers.AutoModelForTokenClassification.from_pretrained(
            str(args.checkpoint), num_labels=len(data.labels), ignore_mismatched_sizes=True, **options
        )
        if packed:
            network = prepare_model_for_kbit_training(network, use_gradient_checkpointing=False)
        lora = LoraConfig(task_type=TaskType.TOKEN_CLS, r=RANK, lora_alpha=2 * RANK, target_modules=LINEAR)
        return get_peft_model(network, lora)

    rows = [{name: row[name].tolist() for name in ("input_ids", "labels")} for row in data.rows("train")]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "plain"),
        max_steps=args.steps,
        per_device_train_batch_size=BATCH,
        train_sampling_strategy="group_by_length",
        learning_rate=2e-4,
        bf16=on_card,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not on_card,
    )
    collator = transformers.DataCollatorForTokenClassification(tokenizer)
    made = {"model_init": model_init} if "eval_dataset" in more else {"model": model_init()}
    return transformers.Trainer(args=arguments, train_dataset=rows, data_collator=collator, **made, **more), model_init


def search(args: argparse.Namespace, folder: Path, in_a_pass: int = 1) -> dict[str, Any]:
    """Our search, whose trials are all whole."""
    from mistral_ner.hyperopt import search as run_search

    config = settings(args, folder, "unused")
    config["search_space"] = {"learning_rate": {"type": "loguniform", "low": 5e-5, "high": 1e-3}}
    config["hyperopt"] = {
        "strategy": "random",
        "optuna_sampler": "Random",
        "num_trials": args.trials,
        "max_concurrent": in_a_pass,
        "trials_per_pass": in_a_pass,
        "final": {"enabled": False},
        "results_dir": str(folder),
        "study_name": "s",
    }
    begun = time.perf_counter()
    run_search(config)
    return {"trials_an_hour": round(3600 * args.trials / (time.perf_counter() - begun), 1)}


def search_together(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Our search with several trials in a pass."""
    return search(args, folder, args.together)


def peer_search(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Hugging Face's search, one trial after the other."""
    begun = time.perf_counter()
    trainer, _ = plain_trainer(args, folder, eval_dataset=[{"input_ids": [1, 2], "labels": [0, 0]}])
    trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 5e-5, 1e-3, log=True)},
        compute_objective=lambda found: found["eval_loss"],
        n_trials=args.trials,
        direction="minimize",
        backend="optuna",
    )
    return {"trials_an_hour": round(3600 * args.trials / (time.perf_counter() - begun), 1)}


SIDES: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    "plain": plain,
    "alone": alone,
    "together": together,
    "peer_search": peer_search,
    "search": search,
    "search_together": search_together,
}


if __name__ == "__main__":
    main()
