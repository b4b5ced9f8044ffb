"""What all tiers share: no network, the project's root, the real data beside it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as mistral_ner sets them, which may be imported after torch here
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "offline")
for number in (signal.SIGINT, signal.SIGHUP):  # ignored under nohup or a shell's &, also in processes started from here
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
needs_real_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason="CrossNER and WNUT-17 are not beside the project, in ../shared/data"
)

CASES = ROOT.parent / "shared" / "cases"
needs_cases = pytest.mark.skipif(
    not CASES.is_dir(), reason="the small inputs that go wrong are not beside the project, in ../shared/cases"
)

# The files whose tests take longest: they begin first, so that no worker is left alone with one in the end. The two
# that make clusters of hosts are far apart, because two such clusters at once are too much for two cores.
LONGEST = [
    "test_machines_come_and_go",
    "test_signals",
    "test_contract",
    "test_cluster",
    "test_storages",
    "test_bad_input",
    "test_readme",
]
LONGEST += ["test_resume", "test_ended_from_outside", "test_ray_tune", "test_campaign", "test_choices_are_data"]
LONGEST += ["test_smoke", "test_workers", "test_old_studies", "test_nothing_shared"]
# seconds for a test that starts processes, unless --timeout says so: a busy machine needs ten times as many
_LIMIT = 900
# In CI, which lends two cores that others use, too, a test that starts processes gets a second try; `-rR` in the
# Makefile lists each that needed one, to be mended like a failure. At a developer's desk there is none.
_TRIES_MORE = 1 if os.environ.get("CI") else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    limit = config.getoption("timeout") or _LIMIT  # KILLS=40 needs more
    items.sort(key=lambda item: _order(item.path))
    for item in items:
        if item.path.parent.name != "unit":
            item.add_marker(pytest.mark.timeout(limit))
            item.add_marker(pytest.mark.flaky(reruns=_TRIES_MORE))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Choose how tests go to workers."""
    from tests.survivor import Survivor

    return Survivor(config, log)


def _order(path: Path) -> int:
    """The files that take longest, then those that start processes, then unit tests, which fill what is left."""
    if path.stem in LONGEST:
        return LONGEST.index(path.stem)
    return len(LONGEST) + (path.parent.name == "unit")


@pytest.fixture(autouse=True)
def nothing_left_in_the_environment() -> Iterator[None]:
    """No variable of a launcher or a tracker is left for the next test's commands, which would warn of it."""
    yield
    from mistral_ner.environment import forget_other_launchers

    assert forget_other_launchers() == []


@pytest.fixture(scope="session")
def forked_workers() -> None:
    """Ray's workers are forked, which saves their imports (see :mod:`tests.warm`)."""
    from tests import warm, warm_server

    os.environ[warm_server.WORKERS] = warm.serve_workers()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (warm_server.SITE, os.environ.get("PYTHONPATH"))))


@pytest.fixture
def new_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers of a Ray that this test starts are new processes."""
    from tests import warm_server

    monkeypatch.delenv(warm_server.WORKERS, raising=False)


@pytest.fixture
def compose() -> Any:
    """Compose the real ``conf/`` with overrides, as ``launch.py`` would; returns a DictConfig without ``hydra``."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    import mistral_ner.hyperopt.sweepers  # noqa: F401

    def make(*overrides: str, name: str = "config") -> Any:
        with initialize_config_dir(str(ROOT / "conf")):
            return hydra_compose(name, overrides=list(overrides))

    return make


@pytest.fixture(scope="session")
def tiny_model() -> dict[str, Any]:
    """The smallest network that learns: two layers of Mistral with random weights."""
    return {
        "model_name": "tiny",
        "random_init": {
            "model_type": "mistral",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
        },
    }


@pytest.fixture
def cold() -> Iterator[None]:
    """No base model kept from another test, none left for the next; one thread."""
    import torch

    from mistral_ner.model import forget_base

    torch.set_num_threads(1)
    forget_base()
    yield
    forget_base()


@pytest.fixture
def tiny(tmp_path: Path, tiny_model: dict[str, Any], toy_files: dict[str, str]) -> dict[str, Any]:
    """The smallest real training that learns: two-layer Mistral, 64 short sentences, three reports; about a second."""
    return {
        "output_dir": str(tmp_path / "run"),
        "model": {**tiny_model, "lora_r": 4, "lora_dropout": 0.1},
        "data": {"source": "files", **toy_files, "cache_dir": str(tmp_path / "cache")},
        "training": {
            "num_epochs": 2,
            "per_device_train_batch_size": 8,
            "reports": 3,
            "learning_rate": 1e-2,
            "threads": 1,
        },
    }


@pytest.fixture(scope="session")
def toy_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """CoNLL files whose tags follow from the words, so that even a tiny random model learns them in seconds."""
    import random

    folder = tmp_path_factory.mktemp("toy")
    people, places, verbs = ["Ada", "Bo", "Cy", "Di", "Ed"], ["Oslo", "Rome", "Lima", "Bonn"], ["saw", "left", "knows"]
    rng = random.Random(0)
    paths = {}
    for split, count in (("train", 64), ("dev", 32), ("test", 32)):
        blocks = []
        for _ in range(count):
            who, where = rng.choice(people), rng.choice(places)
            words = [(who, "B-PER"), ("Li", "I-PER"), (rng.choice(verbs), "O"), (where, "B-LOC"), (".", "O")]
            if rng.random() < 0.3:
                words = [("we", "O"), *words[2:]]
            blocks.append("".join(f"{word}\t{tag}\n" for word, tag in words))
        paths[f"{split}_file"] = str(folder / f"{split}.txt")
        Path(paths[f"{split}_file"]).write_text("\n".join(blocks), encoding="utf-8")
    return paths


@pytest.fixture(scope="module")
def ray_gpus() -> int | None:
    """How many GPUs :func:`ray_for_all` has: those of the machine, unless a module says otherwise."""
    return None


@pytest.fixture(scope="module")
def ray_for_all(ray_gpus: int | None) -> Iterator[None]:
    """One Ray for a module's searches in this process; those in processes of their own start theirs."""
    import ray

    from mistral_ner.hyperopt.cluster.connect import ENVIRONMENT

    environment = {"env_vars": ENVIRONMENT}
    ray.init(
        "local",
        num_cpus=2,
        num_gpus=ray_gpus,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env=environment,
    )
    yield
    ray.shutdown()
