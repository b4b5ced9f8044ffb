"""Machines, links, drivers and the head go and come in mid-search, on hosts that share nothing."""

from __future__ import annotations

import os
import random
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from arithmetic import STRATEGIES
from hosts import (
    Cluster,
    counted,
    ended_well,
    exact_calls,
    kill_workers,
    needs_hosts,
    nothing_seen,
    until,
    wait_for_reports,
    works,
)

from mistral_ner.hyperopt.study.opening import read_study
from tests.namespaces import Host, Network

pytestmark = needs_hosts
KILLS = int(os.environ.get("KILLS", "3"))  # of the campaign; 40 take half an hour: KILLS=40 and --timeout=3600


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_machine_comes_and_another_dies(cluster: Cluster, strategy: str) -> None:

    def others() -> list[Host]:
        return [host for host in cluster.at_work() if host is not new]

    config = counted(cluster, strategy, max_concurrent=None, asha_type="promotion", asha_grace_period=3)
    driver = cluster.search(config, "arithmetic(seconds=0.4)")
    until(lambda: cluster.study.exists() or driver.poll() is not None, 400, "no study", cluster.log("driver"))
    new = cluster.add_worker()  # it starts while the search does
    until(lambda: "Ray runtime started" in cluster.log(new.name).read_text(), 60, "no Ray", cluster.log(new.name))
    # the search itself has begun: before that it has work for nobody
    until(lambda: cluster.reports() or works(new), 100, "no reports", cluster.log("driver"))
    began = time.monotonic()
    until(lambda: works(new), 60, "the new machine gets nothing to do", cluster.log("driver"))
    took = time.monotonic() - began
    until(lambda: cluster.reports() >= 6 and others(), 60, "the others do nothing", cluster.log("driver"))
    cluster.kill(others()[0])
    ended_well(cluster, driver)
    exact_calls(cluster, 8)
    nothing_seen(cluster)
    assert took < 10, f"the new machine got its first trial after {took:.1f} s"


@pytest.mark.parametrize("strategy", ["combined", "optuna"])  # Ray Tune's workers, and ours
def test_a_machine_with_other_versions_gets_no_trials(cluster: Cluster, strategy: str) -> None:
    """It joins when the others have been compared; what lands there begins elsewhere, and that is no failure of it."""
    config = counted(cluster, strategy, max_concurrent=None, max_failures=0, asha_grace_period=3)
    go = f"/tmp/go-{strategy}"
    driver = cluster.search(config, f'arithmetic(waits_for="{go}")')
    compared = "what trials need and make there travels through Ray"
    until(lambda: compared in cluster.said() or driver.poll() is not None, 400, "no search", cluster.log("driver"))
    stranger = cluster.add_worker(torch="0.1")
    try:
        said = f"{stranger.address} has joined and gets no trials: "
        until(lambda: said in cluster.said() or driver.poll() is not None, 120, "not noticed", cluster.log("driver"))
        for host in cluster.workers:
            host.see(go).touch()
        ended_well(cluster, driver)
    finally:
        cluster.kill(stranger)  # the next search would be refused for it
    assert cluster.said().count("gets no trials") == 1
    assert f"torch is {version('torch').partition('+')[0]} here, 0.1 on {stranger.address}\n" in cluster.said()
    exact_calls(cluster, 8)
    nothing_seen(cluster)
    assert not any("failures" in trial.user_attrs for trial in read_study(cluster.study).trials)


def test_a_campaign_against_machines_links_and_drivers(cluster: Cluster) -> None:
    """At seeded moments something is killed or cut; KILLS in the environment says how often."""
    rng, done = random.Random(19), []
    trials = 8 + 4 * KILLS
    config = counted(cluster, "combined", num_trials=trials, max_concurrent=2, max_failures=KILLS, asha_grace_period=3)
    driver = cluster.search(config, "arithmetic(seconds=0.2)")
    while len(done) < KILLS and driver.poll() is None:
        wait_for_reports(cluster, driver, rng.randint(2, 9))
        time.sleep(rng.random())
        what = rng.choice(["machine", "worker", "driver", "link"])
        done.append(what)
        if what == "driver":
            cluster.kill_driver(driver)
            config["hyperopt"]["resume"] = True
            driver = cluster.search(config, "arithmetic(seconds=0.2)")
            continue
        host = rng.choice(cluster.workers)
        if what == "machine":
            cluster.kill(host)
            cluster.add_worker()
        elif what == "worker":
            kill_workers(host)
        else:
            host.cut()
            time.sleep(rng.choice([0.5, 2.0, 8.0]))
            host.mend()
    ended_well(cluster, driver, 900)
    print(f"killed: {done}")
    assert len(done) == KILLS, "the search has ended before"
    exact_calls(cluster, trials)


def test_a_head_goes_and_the_search_goes_on_with_another(tmp_path: Path) -> None:
    with Network() as network:
        cluster = Cluster(network, tmp_path)
        cluster.add_worker()
        config = counted(cluster, "combined", num_trials=4, max_concurrent=1, asha_grace_period=3)
        driver = cluster.search(config, "arithmetic(seconds=0.4)")
        wait_for_reports(cluster, driver, 5)
        cluster.head.kill()
        cluster.kill(cluster.workers[0])
        assert driver.wait(200) == 1
        said = f"the Ray at hyperopt.ray_address={config['hyperopt']['ray_address']} is gone; the study is kept"
        assert said in cluster.said()
        cluster.add_head()
        cluster.add_worker()
        config["hyperopt"] |= {"resume": True, "ray_address": f"ray://{cluster.head.address}:10001"}
        ended_well(cluster, cluster.search(config, "arithmetic(seconds=0.4)"))
        exact_calls(cluster, 4)
        nothing_seen(cluster)
