"""The end of a search: the best settings trained again, the winner, the folder of the final model."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from mistral_ner.config.check import check
from mistral_ner.hyperopt.cluster.workers import Here
from mistral_ner.hyperopt.dispatch import run_search
from mistral_ner.hyperopt.report import write_report
from mistral_ner.hyperopt.results.final import finalise
from mistral_ner.hyperopt.results.summary import summarise
from mistral_ner.hyperopt.results.trainings import Candidate, choose_candidates
from mistral_ner.hyperopt.spec.plan import Plan
from mistral_ner.hyperopt.study.event_log import format_duration
from mistral_ner.hyperopt.study.live_view import FinalView
from mistral_ner.hyperopt.study.opening import read_study
from mistral_ner.predict import Tagger
from mistral_ner.train import fit
from mistral_ner.training.checkpoint import reports_on_disk
from mistral_ner.training.evaluate import score
from tests import warm

ROOT = Path(__file__).parents[2]
TEXT = "Ada Li saw Oslo ."


def plan(folder: Path, model: dict[str, Any], data: dict[str, str], **hyperopt: Any) -> Plan:
    return Plan.of(
        {
            "output_dir": str(folder),
            "model": {**model, "lora_r": 4},
            "data": {"source": "files", **data, "cache_dir": str(folder / "cache")},
            "training": {"num_epochs": 2, "reports": 3, "learning_rate": 1e-2, "threads": 1},
            "search_space": {
                "learning_rate": {"type": "loguniform", "low": 1e-5, "high": 3e-2},
                "lora_alpha": {"type": "choice", "choices": [8, 16]},
            },
            "hyperopt": {
                "strategy": "random",
                "optuna_sampler": "Random",
                "num_trials": 3,
                "max_concurrent": 1,
                "enqueue_default": False,
                "results_dir": str(folder),
                "study_name": "s",
                "final": {"top_k": 2, "seeds": 2, "share": None},
                "merge": True,
                "save_best_config": str(folder / "copy.yaml"),
                **hyperopt,
            },
        }
    )


@pytest.fixture(scope="module")
def ended(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: dict[str, Any], toy_files: dict[str, str]
) -> tuple[Plan, dict[str, Any]]:
    """One search with its final model, that the tests below look at from several sides."""
    made = plan(tmp_path_factory.mktemp("final"), tiny_model, toy_files)
    logging.getLogger("mistral_ner").setLevel(logging.INFO)  # as launch.py does
    assert run_search(made).final is not None
    logging.getLogger("mistral_ner").setLevel(logging.NOTSET)
    return made, json.loads((made.folder / "final/final.json").read_text())


def test_the_best_mean_on_dev_wins(ended: tuple[Plan, dict[str, Any]]) -> None:
    _, final = ended
    means = [result["dev_mean"] for result in final["settings"]]
    assert means == sorted(means, reverse=True)
    assert len(final["settings"]) == 3, "two trials and the default config"
    assert sum(result["default"] for result in final["settings"]) == 1
    for result in final["settings"]:
        assert list(result["dev"]) == ["42", "43"]
        assert result["dev_mean"] == pytest.approx(np.mean(list(result["dev"].values())))
        assert result["dev_f1"] == pytest.approx(result["dev"]["43"], abs=1e-6), "of the seed that chose nothing"
        assert result["dev_f1_interval"][0] <= result["dev_f1"] <= result["dev_f1_interval"][1]
    assert not final["failures"]


def test_the_test_split_is_scored_for_the_winner_and_the_default_alone(ended: tuple[Plan, dict[str, Any]]) -> None:
    _, final = ended
    for index, result in enumerate(final["settings"]):
        assert (result["test_f1"] is not None) == (index == 0 or result["default"])


def test_the_folder_holds_the_winner_with_every_searched_key(ended: tuple[Plan, dict[str, Any]]) -> None:
    made, final = ended
    folder = made.folder / "final"
    config, winner = yaml.safe_load((folder / "config.yaml").read_text()), final["settings"][0]
    assert config["training"]["learning_rate"] == winner["params"]["learning_rate"]
    assert config["model"]["lora_alpha"] == winner["params"]["lora_alpha"]
    assert config["seed"] == final["seed"]
    assert winner["dev"][str(final["seed"])] == max(winner["dev"].values())
    metrics = json.loads((folder / "metrics.json").read_text())
    found = score(check(config), folder, "test")
    assert found is not None
    assert metrics["test"] == found.metrics
    card = (folder / "README.md").read_text()
    assert f"| PER | {metrics['test']['precision_PER']:.4f}" in card
    assert str(winner["params"]["learning_rate"]) in card
    page = (made.folder / "report.html").read_text()
    assert f"{winner['dev_f1']:.4f} ({winner['dev_f1_interval'][0]:.4f} to {winner['dev_f1_interval'][1]:.4f})" in page
    errors = (made.folder / "errors.html").read_text()
    assert 'href="errors.html"' in page
    assert f"F1 {metrics['test']['f1']:.4f}." in errors
    assert f"F1 {metrics['test']['f1']:.4f}." in page
    written = json.loads((made.folder / "summary.json").read_text())
    assert f'<b>{format_duration(written["wall_s"])}</b><span class="soft">wall time, the final model included' in page
    assert written["final"] == json.loads((folder / "final.json").read_text())


def test_the_wall_time_includes_the_final_trainings_whoever_reads_it(ended: tuple[Plan, dict[str, Any]]) -> None:
    made, _ = ended
    written = json.loads((made.folder / "summary.json").read_text())
    study = read_study(made.folder)
    until_the_end = (made.folder / "final/final.json").stat().st_mtime - study.optuna.user_attrs["started"]
    assert until_the_end <= written["wall_s"] < until_the_end + 1
    assert summarise(study).wall_s == summarise(study).wall_s == written["wall_s"]
    page = (made.folder / "report.html").read_text()
    assert write_report([made.folder], None).read_text() == page


def test_the_best_config_is_the_winners_and_trains_to_the_final_models_number(
    ended: tuple[Plan, dict[str, Any]], tmp_path: Path
) -> None:
    made, final = ended
    text = (made.folder / "best_config.yaml").read_text()
    winner, value = final["settings"][0], final["settings"][0]["dev"][str(final["seed"])]
    what = text.splitlines()[1].removeprefix("# ")
    assert what.startswith("the winner of the final trainings, ")
    assert what.endswith(f", with seed {final['seed']}: eval_f1 {value:.4f} at its best report")
    assert json.loads((made.folder / "summary.json").read_text())["best_config"] == what
    assert f"Train {what}:".replace("'", "&#x27;") in (made.folder / "report.html").read_text()
    assert (made.folder.parent / "copy.yaml").read_text() == text
    config = yaml.safe_load(text)
    assert config["output_dir"] == "${hydra:runtime.output_dir}"
    assert config["training"]["learning_rate"] == winner["params"]["learning_rate"]
    assert fit({**config, "output_dir": str(tmp_path / "again")}) == value
    weights = "adapter_model.safetensors"
    assert (tmp_path / "again/adapter" / weights).read_bytes() == (made.folder / "final" / weights).read_bytes()


def test_merged_tags_as_the_adapter_does_and_plain_transformers_reads_it(ended: tuple[Plan, dict[str, Any]]) -> None:
    from transformers import pipeline

    made, _ = ended
    (ours,), (merged,) = (Tagger.load(made.folder / part).tag([TEXT]) for part in ("final", "final/merged"))
    assert ours, "the tiny model has learnt something"
    assert [(e.type, e.start, e.end) for e in ours] == [(e.type, e.start, e.end) for e in merged]
    np.testing.assert_allclose([e.score for e in ours], [e.score for e in merged], atol=2e-4)
    assert pipeline("token-classification", model=str(made.folder / "final/merged"))(TEXT)
    f1 = json.loads((made.folder / "final/merged/metrics.json").read_text())["test"]["f1"]
    assert f"test F1 {f1:.4f}." in (made.folder / "final/README.md").read_text().partition("## The merged model")[2]


def test_cut_off_it_goes_on_and_ends_the_same(ended: tuple[Plan, dict[str, Any]]) -> None:
    made, final = ended
    folder = made.folder / "final"
    before = (folder / "adapter_model.safetensors").read_bytes()
    for name in ("final.json", "README.md", "adapter_model.safetensors"):
        (folder / name).unlink()
    complete = [
        Candidate(r["trial"], r["params"], r["search_value"]) for r in final["settings"] if r["trial"] is not None
    ]
    finalise(made, complete, Here())
    assert json.loads((folder / "final.json").read_text()) == final
    assert (folder / "adapter_model.safetensors").read_bytes() == before


class Terminal(io.StringIO):
    """What the live view takes for a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_final_trainings_are_shown_and_logged_as_the_trials_are(
    ended: tuple[Plan, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, final = ended
    folders = sorted((made.folder / "final/candidates").iterdir())
    screen = Console(file=Terminal(), width=100, color_system=None)
    view = FinalView(made, screen, folders=folders, at_once=2)
    view.end_training(0, failed=True)
    screen.print(view.render())
    said = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "final trainings of s" in said
    assert "1 of 4, 1 failed" in said
    running = {line.split()[1]: line for line in said.splitlines() if "seed_" in line}
    assert list(running) == [folder.name for folder in folders[1:3]], "two at once, in their order"
    for folder in folders[1:3]:
        assert f"3/3     {reports_on_disk(folder)[-1]['eval_f1']:.4f}" in running[folder.name]

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Terminal())
    complete = [
        Candidate(r["trial"], r["params"], r["search_value"]) for r in final["settings"] if r["trial"] is not None
    ]
    finalise(made, complete, Here())
    assert "1 of 1" in sys.stdout.getvalue(), "the default config with the seed of the search"
    assert "3 of 3" in sys.stdout.getvalue()
    assert re.search(r"final training default_seed_43  eval_f1 [01]\.\d{4}", (made.folder / "hyperopt.log").read_text())


DYING = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from pathlib import Path
from campaign_life import die_in_a_write
from test_final import plan
from mistral_ner.hyperopt.dispatch import run_search
folder, model, data, order, hyperopt = json.loads(sys.argv[2])
die_in_a_write(Path(folder), "driver", **order)
run_search(plan(Path(folder), model, data, **hyperopt))
"""
PATHS = [str(ROOT / "bench"), str(Path(__file__).parent)]


def test_killed_in_the_final_trainings_and_after_them_it_ends_the_same(
    ended: tuple[Plan, dict[str, Any]], tmp_path: Path, tiny_model: dict[str, Any], toy_files: dict[str, str]
) -> None:
    """By SIGKILL: in the second training, before final.json, and between that and the summary."""
    _, unbroken = ended
    folder, before = tmp_path / "s", list[dict[str, Any]]()

    def counted() -> list[dict[str, Any]]:
        return [row for path in sorted(folder.glob("final/candidates/*")) for row in reports_on_disk(path)]

    for of, nth, resume in (
        ("seed_43/.checkpoint.json", 2, False),
        ("/.final.json", 1, True),
        ("/.summary.json", 2, True),
    ):
        told = [str(tmp_path), tiny_model, toy_files, {"of": of, "nth": nth, "cut": 0.5}, {"resume": resume}]
        command = ["-c", DYING, json.dumps(PATHS), json.dumps(told)]
        died = warm.run_text(command, tmp_path, {**os.environ, "PYTHONPATH": str(ROOT)})
        assert died.returncode == -9, died.stdout + died.stderr
        assert of in (tmp_path / "deaths.txt").read_text().splitlines()[-1]
        now = counted()
        assert all(row in now for row in before), "with their times: no report was made twice"
        before = now
    assert len(before) >= 4 * 3
    assert json.loads((folder / "summary.json").read_text())["final"] is None
    run_search(plan(tmp_path, tiny_model, toy_files, resume=True))
    assert json.loads((folder / "summary.json").read_text())["final"] == unbroken
    for name in ("adapter_model.safetensors", "merged/model.safetensors"):
        assert (folder / "final" / name).read_bytes() == (ended[0].folder / "final" / name).read_bytes()
    assert counted() == before


def test_equal_settings_are_trained_once_and_the_default_is_no_second_candidate(
    tmp_path: Path, tiny_model: dict[str, Any], toy_files: dict[str, str]
) -> None:
    made = plan(tmp_path, tiny_model, toy_files)
    default = {"learning_rate": 1e-2, "lora_alpha": made.config.model.lora_alpha}
    other = {"learning_rate": 1e-3, "lora_alpha": 8}
    trials = [Candidate(0, other, 0.5), Candidate(1, default, 0.4), Candidate(2, other, 0.6), Candidate(3, other, 0.6)]
    assert [one.trial for one in choose_candidates(made, trials)] == [2, 1]
    assert [one.trial for one in choose_candidates(made, [trials[0]])] == [0, None]


def test_what_the_search_has_trained_is_not_trained_again(
    tmp_path: Path, tiny_model: dict[str, Any], toy_files: dict[str, str]
) -> None:
    """With one seed, that of the search, everything is there: the default config's trial, and the best."""
    made = plan(tmp_path, tiny_model, toy_files, num_trials=2, enqueue_default=True, final={"seeds": 1, "share": 0.1})
    made.config.model.lora_alpha = 16  # lies in the space
    summary = run_search(made)
    folder = made.folder / "final"
    assert not (folder / "candidates").exists()
    assert summary.final is not None
    assert summary.final["cut"] is None
    assert {result["trial"] for result in summary.final["settings"]} == {0, 1}
    assert summary.final["settings"][0]["dev"] == {"42": summary.best_value}
    weights = "adapter_model.safetensors"
    best = made.folder / f"trial_{summary.best_trial:04d}/adapter"
    assert (folder / weights).read_bytes() == (best / weights).read_bytes()


def test_off_by_one_key(tmp_path: Path, tiny_model: dict[str, Any], toy_files: dict[str, str]) -> None:
    """The best single trial is the final model, bit for bit, and nothing is trained again."""
    made = plan(tmp_path, tiny_model, toy_files, num_trials=2, final={"enabled": False})
    summary = run_search(made)
    assert summary.final is not None
    folder, best = made.folder / "final", made.folder / f"trial_{summary.best_trial:04d}/adapter"
    assert not (folder / "candidates").exists()
    weights = "adapter_model.safetensors"
    assert (folder / weights).read_bytes() == (best / weights).read_bytes()
    final = json.loads((folder / "final.json").read_text())
    assert [result["trial"] for result in final["settings"]] == [summary.best_trial]
    assert final["settings"][0]["dev"] == {"42": summary.best_value}
    assert final["settings"][0]["test_f1"] is not None
    assert (folder / "merged/model.safetensors").is_file()
    head = (made.folder / "best_config.yaml").read_text().splitlines()[1]
    assert head == (
        f"# trial {summary.best_trial}, the best single trial: eval_f1 {summary.best_value:.4f} at its best report"
    )
    card = (folder / "README.md").read_text()
    assert "## Scores" in card
    assert f"of the search `s`; seed {final['seed']}." in card
    page = (made.folder / "report.html").read_text()
    assert "of the winner on dev, one seed; best single trial" in page
    assert "±" not in card + page.partition("<script>")[0]
