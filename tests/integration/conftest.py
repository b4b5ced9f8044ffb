"""What the tests of hosts that share nothing have in common."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hosts import Cluster


@pytest.fixture(scope="session", autouse=True)
def _workers(forked_workers: None) -> None:
    """All tests of this tier use them."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    from hosts import Cluster  # late: it finds out whether hosts can be made

    from tests.namespaces import Network

    with Network() as network:
        yield Cluster(network, tmp_path_factory.mktemp("cluster"))


@pytest.fixture
def cluster(network: Cluster) -> Cluster:
    """Two workers, and a driver that knows no study."""
    network.replace_ended()
    while len(network.workers) < 2:
        network.add_worker()
    shutil.rmtree(network.driver.see("/tmp/results"), ignore_errors=True)
    network.log("driver").unlink(missing_ok=True)
    return network
