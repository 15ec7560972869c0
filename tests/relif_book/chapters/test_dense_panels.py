"""Panels: the rule that chooses images, and a small file that comes back as it went."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relif_book.chapters.dense_panels import (
    DEPTH_STEPS,
    NORMAL_STEPS,
    PANELS,
    choose_images,
    load_models,
    make_panels,
    read_panels,
    score_distances,
    write_panels,
)
from relif_core.errors import InputError, RecordError
from relif_core.settings import dense_settings
from relif_core.studies.grid import run_study
from relif_core.tensors.dense import DenseTensors
from relif_data.synthetic_rooms import prepare

SMALL: dict[str, Any] = {"model": {"encoder": "resnet18"}, "training": {"epochs": 1, "learning_rate": 1e-3}}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("rooms") / "set"
    return prepare(None, target, frames=30, height=32, width=32, views=1, seed=4)


@pytest.fixture(scope="module")
def runs(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("runs")
    torch.set_num_threads(1)
    settings = [dense_settings(method, **SMALL) for method in ("erm", "relif")]
    assert not run_study(settings, rooms, target).failed
    return target


def test_distance_by_hand() -> None:
    scores = np.array([[0.0, 0.5, 1.0], [0.3, 0.3, 0.3], [0.0, 0.0, 0.3]])
    np.testing.assert_allclose(score_distances(scores), [2 / 3, 0, 0.2])
    assert choose_images(scores).tolist() == [1, 2, 0]


def test_panels_come_back_from_their_file(rooms: Path, runs: Path, tmp_path: Path) -> None:
    path = write_panels(rooms, runs, tmp_path)
    assert path == tmp_path / PANELS
    first = path.read_bytes()
    found = read_panels(tmp_path)
    folders = {method: next(runs.glob(f"{method}-seed0-*")) for method in ("erm", "relif")}
    panels = make_panels(*load_models(rooms, folders))
    np.testing.assert_array_equal(found.images, panels.images)
    assert list(found.maps) == ["target", "erm", "relif"]
    for name, maps in panels.maps.items():
        np.testing.assert_array_equal(found.maps[name]["labels"], maps["labels"])
        depth = maps["depth"].clip(0, 255 / DEPTH_STEPS)
        assert np.abs(found.maps[name]["depth"] - depth).max() <= 0.5001 / DEPTH_STEPS
        assert np.abs(found.maps[name]["normals"] - maps["normals"]).max() <= 0.5001 / NORMAL_STEPS
    for method in ("erm", "relif"):
        np.testing.assert_array_equal(found.scores[method], panels.scores[method])
    assert found.records == panels.records
    assert write_panels(rooms, runs, tmp_path).read_bytes() == first


def test_the_chosen_images_are_those_of_the_rule(rooms: Path, runs: Path) -> None:
    folder = next(runs.glob("erm-seed0-*"))
    problem, models, records = load_models(rooms, {"erm": folder})
    panels = make_panels(problem, models, records)
    scores = np.stack([records["erm"].scores("test")[task] for task in panels.tasks], axis=1)
    spread = score_distances(scores)
    assert panels.distances("erm")[0] == spread.min()
    assert panels.distances("erm")[2] == spread.max()
    # The model in hand is the one whose scores the record holds.
    tensors = DenseTensors.open(rooms)
    rows = np.flatnonzero(np.isin(tensors.arrays["ids"], panels.frames))
    batch = problem.batch(rows)
    with torch.no_grad():
        again = models["erm"].scores(models["erm"](batch), batch)["depth"].numpy()
    np.testing.assert_allclose(np.sort(again), np.sort(panels.scores["erm"][:, 1]), atol=1e-5)


def test_what_is_missing_is_named(rooms: Path, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="0 finished runs of pcgrad with seed 0"):
        write_panels(rooms, runs, tmp_path, methods=("erm", "pcgrad"))
    with pytest.raises(RecordError, match="is missing; write it with"):
        read_panels(tmp_path)
    (tmp_path / PANELS).write_bytes(b"no archive")
    with pytest.raises(RecordError, match=r"cannot be read .*; write it with"):
        read_panels(tmp_path)
    other = prepare(None, tmp_path / "other", frames=30, height=32, width=32, views=1, seed=5)
    with pytest.raises(InputError, match="was made on other data"):
        write_panels(other, runs, tmp_path)
