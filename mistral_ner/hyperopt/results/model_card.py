"""The final model's card: data, settings, scores, versions (https://huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import yaml

from mistral_ner.config.schema import Config, to_container

_VERSIONS = ("torch", "transformers", "peft", "optuna")


def write_card(
    config: Config, final: dict[str, Any], scored: dict[str, dict[str, float]], merged: str | None = None
) -> str:
    """Return README.md of the final model.

    Args:
        config: the config that trained it.
        final: :class:`~mistral_ner.hyperopt.results.final.Final` as a dict.
        scored: the final model's metrics by split, as :func:`~mistral_ner.metrics.entity_scores` names them.
        merged: what is to be said about the merged model, if there is one.
    """
    parts = to_container(config)
    whole = config.model.tuning == "full"
    head = {
        "library_name": "transformers" if whole else "peft",
        "pipeline_tag": "token-classification",
        "base_model": config.model.model_name,
    }
    winner = final["settings"][0]
    chosen = "the default config" if winner["trial"] is None else f"trial {winner['trial']}"
    text = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
        "# Named entity tagger\n",
        f"{'All weights of' if whole else 'A LoRA adapter on'} `{config.model.model_name}`, trained by mistral_ner "
        f"with the settings of {chosen} of the search `{config.hyperopt.study_name}`; "
        f"{_name_choice(final)}.\n",
        "## Scores\n",
        "Entity-level F1 (exact span and type). The mean is over the seeds, the 95% interval over resampled "
        "sentences. The value of the search is the best of many, and therefore too high; the mean contains it.\n",
        _format_settings(final),
        *(f"{_format_types(split, metrics)}" for split, metrics in scored.items()),
        *([] if merged is None else ["## The merged model\n", merged]),
        "## Data\n",
        _format_yaml(parts["data"]),
        "## Settings\n",
        _format_yaml({"seed": config.seed, "model": parts["model"], "training": parts["training"]}),
        "## Versions\n",
        ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in _VERSIONS)]) + "\n",
    ]
    return "\n".join(text)


def _format_settings(final: dict[str, Any]) -> str:
    rows = [
        f"| settings | search {final['metric']} | dev {final['metric']} | dev F1 | test F1 |",
        "|---|---|---|---|---|",
    ]
    for result in final["settings"]:
        search = "" if result["search_value"] is None else f"{result['search_value']:.4f}"
        own = f"{format_mean(result)}, {name_seeds(result)}"
        dev = format_interval(result["dev_f1"], result["dev_f1_interval"]) + name_new_seeds(final, result)
        test = format_interval(result["test_f1"], result["test_f1_interval"])
        rows.append(f"| {name_settings(result)} | {search} | {own} | {dev} | {test} |")
    return "\n".join(rows) + "\n"


def name_seeds(result: dict[str, Any]) -> str:
    """Return over how many seeds a mean is taken."""
    count = len(result["dev"])
    return f"mean of {count} seeds" if count > 1 else "one seed"


def name_new_seeds(final: dict[str, Any], result: dict[str, Any]) -> str:
    """Return a note of the seeds that an F1 on dev is from, if these are not all; a study of before has no such."""
    new = [seed for seed in result["dev"] if int(seed) in final.get("new_seeds", [])]
    return f" (new seed{'s' * (len(new) > 1)} {', '.join(new)})" if new else ""


def format_mean(result: dict[str, Any]) -> str:
    """Return the mean over the seeds, with its standard deviation where there are several."""
    return f"{result['dev_mean']:.4f}" + (f" ± {result['dev_std']:.4f}" if len(result["dev"]) > 1 else "")


def _name_choice(final: dict[str, Any]) -> str:
    count = len(final["seeds"])
    return f"the best of {count} seeds on dev (seed {final['seed']})" if count > 1 else f"seed {final['seed']}"


def name_settings(result: dict[str, Any]) -> str:
    """Return the name of settings that were trained again: their trial, or the default config."""
    if result["trial"] is None:
        return "default config"
    return f"trial {result['trial']}" + (" (default config)" if result["default"] else "")


def format_interval(value: float | None, bounds: Any) -> str:
    """Return a value with its interval, such as ``0.8123 [0.7990, 0.8251]``, or "" for None."""
    return "" if value is None else f"{value:.4f} [{bounds[0]:.4f}, {bounds[1]:.4f}]"


def _format_types(split: str, metrics: dict[str, float]) -> str:
    rows = [f"This model on {split}:\n", "| type | precision | recall | F1 | entities |", "|---|---|---|---|---|"]
    types = [name.removeprefix("support_") for name in metrics if name.startswith("support_")]
    for kind in types:
        scores = " | ".join(f"{metrics[f'{name}_{kind}']:.4f}" for name in ("precision", "recall", "f1"))
        rows.append(f"| {kind} | {scores} | {metrics[f'support_{kind}']:.0f} |")
    whole = " | ".join(f"{metrics[name]:.4f}" for name in ("precision", "recall", "f1"))
    rows.append(f"| all | {whole} | {sum(metrics[f'support_{kind}'] for kind in types):.0f} |")
    return "\n".join(rows) + "\n"


def _format_yaml(value: Any) -> str:
    return f"```yaml\n{yaml.safe_dump(value, sort_keys=False, allow_unicode=True)}```\n"
