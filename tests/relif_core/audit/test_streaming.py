"""Files and folders give their scores' histogram, whatever reads them: one pass, a CSV, or a cluster."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.audit import HistogramSketch
from relif_core.audit.streaming import sketch_file, sketch_folder
from relif_core.errors import DataError, InputError
from tests.relif_core.audit.brute_force import pools


def written(folder: Path, name: str, columns: dict[str, Any]) -> Path:
    path = folder / name
    frame = polars.DataFrame(columns, strict=False)
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
    return path


@settings(max_examples=25, deadline=None)
@given(
    values=pools(least=20),
    name=st.sampled_from(["x.parquet", "x.csv", "odd[1-3]*.parquet"]),
    seed=st.integers(0, 99),
)
def test_a_file_gives_the_histogram_of_its_scores(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, name: str, seed: int
) -> None:
    second = np.random.default_rng(seed).permutation(values)
    missing = np.arange(len(values)) % 3 == 0
    cells = [None if gone else float(value) for gone, value in zip(missing, second, strict=True)]
    table = written(
        tmp_path_factory.mktemp("file"), name, {"id": range(len(values)), "a": values, "b": cells}
    )
    expected = HistogramSketch.of({"a": np.abs(values), "b": np.abs(second[~missing])}, 64)
    assert sketch_file(table, ["a", "b"], 64).to_json() == expected.to_json()


def test_softmax_a_hair_over_one_counts_as_one(tmp_path: Path) -> None:
    hair = polars.Series([0.5, 1 + 1.2e-7], dtype=polars.Float32)
    assert sketch_file(written(tmp_path, "x.parquet", {"a": hair, "b": hair}), ["a", "b"], 4).counts[
        "a"
    ].tolist() == [0, 0, 1, 1]
    with pytest.raises(DataError, match="1 of 2 scores of 'a' are outside"):
        sketch_file(written(tmp_path, "y.parquet", {"a": [0.5, 1 + 1.2e-7], "b": hair}), ["a", "b"], 4)


def test_labels_of_0_and_1_are_scores(tmp_path: Path) -> None:
    table = written(tmp_path, "x.parquet", {"a": [0, 1, 1], "b": [0.5, 0.25, 1.0]})
    assert sketch_file(table, ["a", "b"], 4).counts["a"].tolist() == [1, 0, 0, 2]


@pytest.mark.parametrize(
    ("column", "kind", "message"),
    [
        ([0.1, float("nan"), 0.2], DataError, r"1 of 3 scores of 'b' are NaN"),
        ([0.1, 1.5, -0.2], DataError, r"2 of 3 scores of 'b' are outside \[0, 1\]"),
        ([None, None, None], InputError, "column 'b' is Null, not a score"),
        (["x", "y", "z"], InputError, "column 'b' is String, not a score"),
    ],
)
def test_what_is_no_score_is_refused(tmp_path: Path, column: list[Any], kind: type, message: str) -> None:
    table = written(tmp_path, "x.parquet", {"a": [0.1, 0.2, 0.3], "b": column})
    with pytest.raises(kind, match=message):
        sketch_file(table, ["a", "b"], 16)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    table = written(tmp_path, "x.parquet", {"a": [0.1], "b": polars.Series([None], dtype=polars.Float64)})
    with pytest.raises(DataError, match="column 'b' is empty"):
        sketch_file(table, ["a", "b"], 16)
    with pytest.raises(InputError, match="has no column 'c'; it has a, b"):
        sketch_file(table, ["a", "c"], 16)
    with pytest.raises(InputError, match="needs at least two"):
        sketch_file(table, ["a"], 16)
    with pytest.raises(InputError, match="the tasks a, b, a name one twice"):
        sketch_file(table, ["a", "b", "a"], 16)
    (tmp_path / "twice.csv").write_text("a,b,a\n0.1,0.2,0.3\n")
    with pytest.raises(InputError, match="has two columns 'a'; rename one"):
        sketch_file(tmp_path / "twice.csv", ["a", "b"], 16)
    (tmp_path / "x.jsonl").write_text('{"a":0.1,"b":0.2,"id":"Zoe-7391"}\n')
    with pytest.raises(InputError, match=r"this kind is not read; use \.parquet, \.csv") as refused:
        sketch_file(tmp_path / "x.jsonl", ["a", "b"], 16)
    assert "Zoe" not in str(refused.value)
    with pytest.raises(InputError, match="is no file"):
        sketch_file(tmp_path / "absent.csv", ["a", "b"], 16)
    (tmp_path / "broken.parquet").write_text("no table")
    with pytest.raises(InputError, match="cannot be read as a table of scores"):
        sketch_file(tmp_path / "broken.parquet", ["a", "b"], 16)
    with pytest.raises(InputError, match=r"holds no \.parquet file"):
        sketch_folder(tmp_path / "absent", ["a", "b"])


# Ray leaves sockets and processes to be collected when a node is taken away.
ray_leftovers = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster whose head computes nothing and whose two nodes hold one core each."""
    ray = pytest.importorskip("ray", reason="the package ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("POLARS_MAX_THREADS", "1")
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        yield cluster, nodes
        ray.shutdown()
        cluster.shutdown()


@ray_leftovers
def test_a_folder_on_two_nodes_gives_the_histogram_of_all_files_though_one_node_dies(
    cluster: Any, tmp_path: Path
) -> None:
    ring, nodes = cluster
    generator = np.random.default_rng(5)
    scores = {"a": generator.random(6000), "b": generator.beta(2, 5, 6000).astype(np.float32)}
    weights = generator.integers(0, 9, 6000)
    for k, rows in enumerate(np.array_split(np.arange(6000), 12)):
        columns = {**scores, "w": weights}
        part = written(tmp_path, f"part{k}.parquet", {name: own[rows] for name, own in columns.items()})
    part.rename(part.with_suffix(".PARQUET"))
    expected = HistogramSketch.of(scores, 256, score_definition="ruler 1").to_json()
    loss = threading.Timer(2, ring.remove_node, (nodes[0],), {"allow_graceful": False})
    loss.start()
    found = sketch_folder(tmp_path, ["a", "b"], 256, score_definition="ruler 1", address=ring.address)
    loss.join()
    assert found.to_json() == expected
    weighted = sketch_folder(tmp_path, ["a", "b"], 256, address=ring.address, weight="w")
    expected = HistogramSketch.of(scores, 256, weights=dict.fromkeys("ab", weights)).to_json()
    assert weighted.to_json() == expected
    written(tmp_path, "part5.parquet", {"a": [0.5, 2.0], "b": [0.1, 0.2]})
    with pytest.raises(DataError, match=r"part5.parquet: 1 of 2 scores of 'a' are outside \[0, 1\]"):
        sketch_folder(tmp_path, ["a", "b"], 256, address=ring.address)


def test_a_file_without_header_is_refused_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("Zoe-7391,0.25,0.5\np2,0.75,0.5\n")
    with pytest.raises(InputError, match="2 of the 3 names in its first line") as refused:
        sketch_file(tmp_path / "scores.csv", ["a", "b"])
    assert "Zoe" not in str(refused.value)


def test_a_row_of_more_cells_than_names_is_refused(tmp_path: Path) -> None:
    """Its scores would be another column's cells."""
    (tmp_path / "shifted.csv").write_text("ward,a,b,note\n1,0.25,0.5,x\n3,1,0.3,0.4,x\n")
    with pytest.raises(InputError, match="cannot be read as a table of scores: is it whole"):
        sketch_file(tmp_path / "shifted.csv", ["a", "b"], 4)


def test_other_columns_may_hold_anything(tmp_path: Path) -> None:
    rows = "".join(f"{k},0.25,0.5\n" for k in range(200)).encode()
    (tmp_path / "names.csv").write_bytes(b"name,a,b\n" + rows + "Zo\xeb,0.5,0.75\n".encode("latin-1"))
    assert sketch_file(tmp_path / "names.csv", ["a", "b"], 4).samples == {"a": 201, "b": 201}


def test_a_weight_is_no_score(tmp_path: Path) -> None:
    table = written(tmp_path, "x.parquet", {"a": [0.1], "b": [0.2]})
    with pytest.raises(InputError, match="the tasks a, b, a name one twice"):
        sketch_file(table, ["a", "b"], 16, weight="a")
