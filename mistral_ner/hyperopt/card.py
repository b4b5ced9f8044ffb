"""The final model's card: data, settings, scores, versions (https://huggingface.co/docs/hub/model-cards)."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import yaml

from mistral_ner.config import Config, to_container

_VERSIONS = ("torch", "transformers", "peft", "optuna")


def card(config: Config, final: dict[str, Any], scored: dict[str, dict[str, float]]) -> str:
    """Return README.md of the final model.

    Args:
        config: that trained it.
        final: :class:`~mistral_ner.hyperopt.final.Final` as a dict.
        scored: the final model's metrics by split, as :func:`~mistral_ner.metrics.entity_scores` names them.
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
        f"the best of {len(final['seeds'])} seeds on dev (seed {final['seed']}).\n",
        "## Scores\n",
        "Entity-level F1 (exact span and type). The mean is over the seeds, the 95% interval over sentences drawn "
        "again; the search's own figure is the best of many and too good.\n",
        _settings(final),
        *(f"{_types(split, metrics)}" for split, metrics in scored.items()),
        "## Data\n",
        _block(parts["data"]),
        "## Settings\n",
        _block({"seed": config.seed, "model": parts["model"], "training": parts["training"]}),
        "## Versions\n",
        ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in _VERSIONS)]) + "\n",
    ]
    return "\n".join(text)


def _settings(final: dict[str, Any]) -> str:
    rows = [
        f"| settings | search {final['metric']} | dev {final['metric']} | dev F1 | test F1 |",
        "|---|---|---|---|---|",
    ]
    for result in final["settings"]:
        search = "" if result["search_value"] is None else f"{result['search_value']:.4f}"
        own = f"{result['dev_mean']:.4f} ± {result['dev_std']:.4f}"
        dev = with_interval(result["dev_f1"], result["dev_f1_interval"])
        test = with_interval(result["test_f1"], result["test_f1_interval"])
        rows.append(f"| {settings_name(result)} | {search} | {own} | {dev} | {test} |")
    return "\n".join(rows) + "\n"


def settings_name(result: dict[str, Any]) -> str:
    """Return what settings that were trained again are called: by their trial, or as the default config."""
    if result["trial"] is None:
        return "default config"
    return f"trial {result['trial']}" + (" (default config)" if result["default"] else "")


def with_interval(value: float | None, bounds: Any) -> str:
    """Return ``0.8123 [0.7990, 0.8251]``, nothing for None."""
    return "" if value is None else f"{value:.4f} [{bounds[0]:.4f}, {bounds[1]:.4f}]"


def _types(split: str, metrics: dict[str, float]) -> str:
    rows = [f"This model on {split}:\n", "| type | precision | recall | F1 | entities |", "|---|---|---|---|---|"]
    types = [name.removeprefix("support_") for name in metrics if name.startswith("support_")]
    for kind in types:
        scores = " | ".join(f"{metrics[f'{name}_{kind}']:.4f}" for name in ("precision", "recall", "f1"))
        rows.append(f"| {kind} | {scores} | {metrics[f'support_{kind}']:.0f} |")
    whole = " | ".join(f"{metrics[name]:.4f}" for name in ("precision", "recall", "f1"))
    rows.append(f"| all | {whole} | {sum(metrics[f'support_{kind}'] for kind in types):.0f} |")
    return "\n".join(rows) + "\n"


def _block(value: Any) -> str:
    return f"```yaml\n{yaml.safe_dump(value, sort_keys=False, allow_unicode=True)}```\n"
