"""The same sweep on a real Ray cluster: a head without CPUs and two workers, one of which is killed in mid-sweep."""

from __future__ import annotations

import importlib
import importlib.util
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from autoscaler import whatif
from autoscaler.errors import BadSettings
from autoscaler.whatif.sweep import text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from autoscaler.whatif.run import Run

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (tidegate[ray])"),
    pytest.mark.timeout(240),
    # Ray leaves sockets and processes of its own to the interpreter's end, and warns of its own future.
    pytest.mark.filterwarnings("ignore"),
]
MEMORY = 100 * 2**20
"""Bytes of a node's object store: Ray's least is 75 MiB."""


STARTS = 3
"""Ray gives a node 30 s to come up, which a busy machine of two cores may need more of."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that runs nothing, and two workers of one core."""
    utils = importlib.import_module("ray.cluster_utils")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_enable_metrics_collection", "0")
        found = _started(utils, STARTS)
        try:
            found.workers = [found.add_node(num_cpus=1, object_store_memory=MEMORY) for _ in range(2)]
            yield found
        finally:
            found.shutdown()


def _started(utils: Any, tries: int) -> Any:
    try:
        return utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": MEMORY})
    except Exception:  # Ray raises nothing narrower
        if tries <= 1:
            raise
        return _started(utils, tries - 1)


def test_no_cluster_at_the_address_is_said(loads: whatif.Loads) -> None:
    """First, for the other tests' cluster would be found."""
    with pytest.raises(BadSettings, match="no Ray cluster could be joined"):
        whatif.swept([whatif.Scenario()], loads, backend=whatif.run_on_ray("auto"))


def test_a_killed_worker_loses_nothing_and_runs_nothing_twice_in_the_result(
    cluster: Any, loads: whatif.Loads, tmp_path: Path
) -> None:
    asked = whatif.grid(whatif.Scenario(maximum=12), {"growth": [1.0 + 0.1 * step for step in range(12)]})
    told: Counter[str] = Counter()

    def done(run: Run, _already: bool) -> None:
        told[run.scenario.name] += 1
        if sum(told.values()) == 3:
            cluster.remove_node(cluster.workers[0], allow_graceful=False)

    there = whatif.swept(
        asked, loads, backend=whatif.run_on_ray(cluster.address), kept=whatif.Kept(tmp_path), done=done
    )
    here = whatif.swept(asked, loads, backend=whatif.run_in_processes(1))
    assert [text(one) for one in there] == [text(one) for one in here]
    assert told == Counter({one.name: 1 for one in asked})
    assert len(list(tmp_path.rglob("*.json"))) == len(asked)


def test_a_problem_in_a_run_comes_back_in_words(cluster: Any, loads: whatif.Loads) -> None:
    bad = whatif.Scenario.model_validate({"name": "odd", "policy": {"name": "nobody"}})
    with pytest.raises(BadSettings, match="scenario 'odd'"):
        whatif.swept([bad], loads, backend=whatif.run_on_ray(cluster.address))
