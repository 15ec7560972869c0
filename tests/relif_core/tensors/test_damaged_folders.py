"""A tensor folder in which anything was changed is opened, or refused by a named error; never a raw one."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relif_core.errors import ReliFError
from relif_core.problems import check_folder, open_problem
from relif_core.settings import RunSettings
from relif_core.tensors.folder import MANIFEST
from relif_data import prepare

#: What stands in a manifest instead of what was there; "…" removes it.
OTHERS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 2**65), st.floats(), st.text(max_size=20),
    st.sampled_from(["…", "../../etc/passwd", "/", "relif-dense-1", [], {}, [[]], {"name": 1}]),
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(
        "synthetic_icu", None, tmp_path_factory.mktemp("whole") / "set", stays=30, hours=48, seed=3
    )


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON document with every key in it."""
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from places(node[key])


def damaged(whole: Path, folder: Path, draw: st.DataObject) -> None:
    """Copy a folder (its arrays by link), with one place of the manifest or some bytes of a file changed."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder, copy_function=os.link)
    if draw.draw(st.integers(0, 3)):
        manifest = json.loads((whole / MANIFEST).read_text())
        every = list(places(manifest))
        container, key = every[draw.draw(st.integers(0, len(every) - 1))]
        container[key] = draw.draw(OTHERS)
        if container[key] == "…":
            del container[key]
        changed, content = folder / MANIFEST, json.dumps(manifest).encode()
    else:
        changed = draw.draw(st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file())))
        content = changed.read_bytes()
        at = draw.draw(st.integers(0, len(content) - 1))
        content = (
            content[:at] + draw.draw(st.binary(max_size=8)) + content[at + draw.draw(st.integers(0, 99)) :]
        )
    changed.unlink()
    changed.write_bytes(content)


def opened_or_refused_by_name(whole: Path, folder: Path, draw: st.DataObject) -> None:
    damaged(whole, folder, draw)
    for door in (check_folder, lambda place: open_problem(place, "cpu", RunSettings())):
        message = ""
        try:
            door(folder)
        except ReliFError as error:
            message = str(error)
        assert len(message) < 1500


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_changed_folders_are_opened_or_refused_by_name(
    whole: Path, tmp_path: Path, data: st.DataObject
) -> None:
    opened_or_refused_by_name(whole, tmp_path / "set", data)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_many_changed_folders_are_opened_or_refused_by_name(
    whole: Path, tmp_path: Path, data: st.DataObject
) -> None:
    opened_or_refused_by_name(whole, tmp_path / "set", data)
