"""The private names of Ray that ``cluster/private.py`` uses are where Ray 2.60.0 has them."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import ray
from ray._private import ray_constants, services
from ray._private.authentication import authentication_token_setup as tokens
from ray._raylet import AuthenticationMode, get_authentication_mode
from ray.train._internal import storage
from ray.tune.execution.tune_controller import TrialRunnerWrapper, TuneController
from ray.tune.trainable.metadata import _TrainingRunMetadata

from mistral_ner.hyperopt.cluster import private


def test_tune_asks_for_its_folder_by_this_name(monkeypatch) -> None:
    assert "_get_ray_train_session_dir()" in inspect.getsource(storage.StorageContext)
    original = storage._get_ray_train_session_dir
    with private.lend_folder_to_tune():
        assert storage._get_ray_train_session_dir is original, "this process is no client"
    monkeypatch.setattr(ray.util.client.ray, "is_connected", lambda: True)
    with private.lend_folder_to_tune():
        assert "mistral_ner-" in storage._get_ray_train_session_dir()
    assert storage._get_ray_train_session_dir is original


def test_ray_takes_its_address_from_this_constant() -> None:
    before = ray_constants.ENABLE_RAY_CLUSTER
    with private.listen_on_loopback():
        assert services.get_node_ip_address() == "127.0.0.1"
    assert before == ray_constants.ENABLE_RAY_CLUSTER


def test_ray_reads_its_token_mode_again(monkeypatch) -> None:
    try:
        for mode in ("token", "disabled"):
            monkeypatch.setenv(tokens.AUTH_MODE_ENV_VAR, mode)
            private.take_up_token_mode()
            assert get_authentication_mode() == getattr(AuthenticationMode, mode.upper())
    finally:
        monkeypatch.undo()
        private.take_up_token_mode()  # what the variable says again, which a Ray that ran in this process may have left


def test_a_client_knows_whether_it_is_connected() -> None:
    assert ray.util.client.ray.is_connected() is False


def test_tune_maps_its_trials_to_workers_by_these_names() -> None:
    assert "self._tune_controller = tune_controller" in inspect.getsource(TrialRunnerWrapper)
    source = inspect.getsource(TuneController)
    for name in ("self._trial_to_actor[trial] = ", "self._actor_manager.is_actor_started("):
        assert name in source
    assert callable(TuneController.get_live_trials)


def test_tune_keeps_averages_of_every_metric_unless_it_is_told_not_to() -> None:
    trial = SimpleNamespace(run_metadata=_TrainingRunMetadata())
    trial.run_metadata.update_metric("before", 0.5)
    private.keep_no_averages(trial)  # type: ignore[arg-type]
    for step in (1, 2):
        trial.run_metadata.update_metric("after", 0.5, step)
    assert trial.run_metadata.metric_n_steps.keys() == {"before", "after"}
    assert {name: len(kept) for name, kept in trial.run_metadata.metric_n_steps.items()} == {"before": 2, "after": 0}
