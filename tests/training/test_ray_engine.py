"""A study on several machines: a cluster of two local nodes loses one midway and the records are the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relif_core.errors import InputError
from relif_core.record import load_records
from relif_core.settings import RunSettings
from relif_core.study import grid, run_study

pytest.importorskip("ray", reason="the package ray is not installed")
# Ray leaves sockets and processes to be collected when a node is taken away.
pytestmark = pytest.mark.filterwarnings("default")


def small_grid() -> list[RunSettings]:
    return grid(
        ["erm", "relif"], [0, 1], model={"hidden": 12, "head_width": 8},
        training={"epochs": 3, "batch_size": 32, "learning_rate": 3e-3},
    )  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    return {record.key: record.digest() for record in load_records(folder)}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster whose head computes nothing and whose two nodes hold one core each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import ray
    from ray.cluster_utils import Cluster

    # A node is given up after five seconds of silence, not half a minute.
    system = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 10,
    }
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": system},
    )  # fmt: skip
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def test_a_killed_node_changes_nothing(cluster: Any, icu_folder: Path, tmp_path: Path) -> None:
    ring, nodes = cluster
    run_study(small_grid(), icu_folder, tmp_path / "alone")
    killed: list[str] = []

    def kill_once(name: str, report: object) -> None:
        if not killed and report is not None:
            killed.append(name)
            ring.remove_node(nodes[0], allow_graceful=False)

    summary = run_study(
        small_grid(),
        icu_folder,
        tmp_path / "cluster",
        workers=2,
        watch=kill_once,
        engine="ray",
        address=ring.address,
    )
    assert killed
    assert (summary.made, summary.failed) == (4, {})
    assert digests(tmp_path / "cluster") == digests(tmp_path / "alone")


def test_unknown_engines_are_refused(icu_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no engine is called 'abacus'"):
        run_study(small_grid(), icu_folder, tmp_path, engine="abacus")
