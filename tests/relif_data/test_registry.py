"""The registry: every source says what it is and under which terms, and importing it costs nothing."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from relif_core.errors import InputError
from relif_core.tensors.clinical import ClinicalTensors
from relif_data import REGISTRY, prepare, source

NAMES = {"physionet2012", "synthetic_icu", "mimic3", "eicu", "nyuv2", "synthetic_rooms"}


def test_all_sources_are_registered_under_their_name():
    assert set(REGISTRY) == NAMES
    for name, entry in REGISTRY.items():
        assert entry.name == name


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_entry_is_complete(name):
    entry = source(name)
    assert entry.title
    assert entry.short
    assert entry.synthetic == name.startswith("synthetic")
    assert entry.licence
    assert entry.access
    assert entry.expected
    assert entry.output_policy in ("person", "aggregate")
    if entry.synthetic:
        assert not entry.official_page
    else:
        assert entry.official_page.startswith("https://")
        assert entry.citation


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_module_exists(name):
    assert importlib.util.find_spec(source(name).module) is not None


def test_credentialed_patients_leave_the_machine_as_aggregates_only():
    assert {name for name, entry in REGISTRY.items() if entry.output_policy == "aggregate"} == {
        "mimic3",
        "eicu",
    }
    assert all(entry.guarded == (entry.output_policy == "aggregate") for entry in REGISTRY.values())


def test_importing_the_registry_loads_no_heavy_library():
    code = (
        "import sys, relif_data;heavy = {'polars', 'torch', 'pandas', 'pyarrow', 'numpy', 'matplotlib'} &"
        " set(sys.modules);readers = [m for m in sys.modules if m.startswith('relif_data.') and not"
        " m.endswith(('.sources', '.options'))];sys.exit(f'{heavy} {readers}' if heavy or readers else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_prepare_finds_the_source_by_name(tmp_path):
    folder = prepare("synthetic_icu", None, tmp_path / "out", stays=30, seed=4)
    assert folder == tmp_path / "out"
    assert ClinicalTensors.open(folder).dataset == "synthetic_icu"


def test_prepare_names_what_it_does_not_know(tmp_path):
    with pytest.raises(InputError, match=r"no data source is called 'mimic4'; known are eicu, mimic3"):
        prepare("mimic4", tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match=r"unknown option colour; known are hours, seed, stays"):
        prepare("synthetic_icu", None, tmp_path / "out", colour="blue")
    with pytest.raises(
        InputError, match=r"mimic3: unknown option colour; known are compatibility, output_policy"
    ):
        prepare("mimic3", tmp_path, tmp_path / "out", colour="blue")
    with pytest.raises(InputError, match=r"physionet2012: name the folder .*physionet\.org"):
        prepare("physionet2012", None, tmp_path / "out")
    assert list(Path(tmp_path).iterdir()) == []
