"""A study on two local nodes loses a worker process, then a node, and the records are the same."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relif_core.errors import InputError
from relif_core.studies.grid import run_study
from tests.relif_core.studies.conftest import digests, small_grid

pytest.importorskip("ray", reason="the package ray is not installed")
# Ray leaves sockets and processes to be collected when a node is taken away.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster whose head computes nothing and whose two nodes hold one core each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
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


def study_with_a_loss(ring: Any, data: Path, target: Path, lose: Callable[[], object]) -> None:
    """Lose something of the cluster at the study's first report of an epoch. All runs must finish."""
    lost: list[object] = []

    def lose_once(name: str, report: object) -> None:
        if not lost and report is not None:
            lost.append(lose())

    summary = run_study(
        small_grid(), data, target, workers=2, watch=lose_once, engine="ray", address=ring.address
    )
    assert lost
    assert (summary.made, summary.failed) == (4, {})


def parent(process: int) -> int:
    """The parent's id; 0 where the process is gone."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def below(process: int, ancestor: int) -> bool:
    while process > 1:
        process = parent(process)
        if process == ancestor:
            return True
    return False


def working_processes() -> list[int]:
    """Worker processes below this one that have a task of the study under way; Ray names them after it."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            busy = place.name.isdigit() and (place / "cmdline").read_bytes().startswith(b"ray::_work")
        except OSError:
            continue
        if busy and below(int(place.name), os.getpid()):
            found.append(int(place.name))
    return found


def test_a_killed_worker_process_changes_nothing(
    cluster: Any, icu_folder: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    ring, _ = cluster

    def kill() -> None:
        os.kill(working_processes()[0], signal.SIGKILL)

    study_with_a_loss(ring, icu_folder, tmp_path, kill)
    assert digests(tmp_path) == reference


def test_a_killed_node_changes_nothing(
    cluster: Any, icu_folder: Path, tmp_path: Path, reference: dict[str, str]
) -> None:
    ring, nodes = cluster
    study_with_a_loss(ring, icu_folder, tmp_path, lambda: ring.remove_node(nodes[0], allow_graceful=False))
    assert digests(tmp_path) == reference


def test_unknown_engines_are_refused(icu_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no engine is called 'abacus'"):
        run_study(small_grid(), icu_folder, tmp_path, engine="abacus")


def test_an_address_where_nothing_answers_is_named_at_once(icu_folder: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port", "no.such.host.invalid:6379"):
        with pytest.raises(InputError, match=f"no Ray cluster answers at '{address}'"):
            run_study(small_grid(), icu_folder, tmp_path, engine="ray", address=address)
    assert time.monotonic() - began < 30


def test_a_run_that_no_machine_can_hold_is_named(cluster: Any, icu_folder: Path, tmp_path: Path) -> None:
    ring, _ = cluster
    with pytest.raises(InputError, match=r"needs 64 CPU on one machine, .*at most 1 CPU"):
        run_study(small_grid(), icu_folder, tmp_path, engine="ray", address=ring.address, threads=64)
