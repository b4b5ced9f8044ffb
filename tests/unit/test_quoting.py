"""Text that looks like Hydra's or OmegaConf's own syntax comes back as it was."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from mistral_ner.config.check import check
from mistral_ner.hyperopt.results.best_config import escape_interpolations
from mistral_ner.hyperopt.spec.plan import Plan

TEXTS = [
    *("8 model=x", "${oc.env:HOME}", r"\${oc.env:HOME}", r"\\${x}", "$${x}", "${", "${x", "}", "$", "a,b", "{a: b}"),
    *("[1,2]", "it's", '"q"', r"\'", r"a\b", "a\\", r"a\\", r"${x} \${y} c:\new", "null", "true", "1e5", "~x", "+a=b"),
    *("#x", " lead", "tail ", "ä\n\tb", "choice(1,2)", "interval(0,1)", "@x", "a b/c"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_config_file_gives_back_its_text(text: str) -> None:
    written = OmegaConf.to_yaml(OmegaConf.create(escape_interpolations({"a": {"b": [text]}, "c": text})))
    assert OmegaConf.to_container(OmegaConf.create(written), resolve=True) == {"a": {"b": [text]}, "c": text}


def test_a_search_space_is_not_resolved(compose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the choices nor the settings to try first; the rest of the config is."""
    monkeypatch.setenv("SECRET", "secret")
    choices = ["${oc.env:SECRET}", "${nope}", "8 model=x"]
    composed = compose("hyperopt=combined", "hyperopt.optuna_n_startup_trials=3")
    composed.output_dir = "x"
    OmegaConf.set_struct(composed, False)
    composed.model.revision = "${oc.env:SECRET}"
    composed.search_space = {"cache_dir": {"type": "choice", "choices": choices}}
    composed.hyperopt.enqueue = [{"cache_dir": choices[0]}]
    plan = Plan.of(composed)
    assert plan.config.model.revision == "secret"
    assert plan.space.parameters[0].choices == tuple(choices)
    assert plan.enqueued == [{"cache_dir": choices[0]}]
    assert check(plan.trial_config(0, plan.enqueued[0])).data.cache_dir.endswith("/${oc.env:SECRET}")
    assert composed.search_space.cache_dir.type == "choice", "the composed config is left as it was"
