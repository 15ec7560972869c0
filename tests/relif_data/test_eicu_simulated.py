"""From the simulator through raw eICU tables to tensors: what was simulated is what is read."""

from pathlib import Path

import numpy as np
import pytest

from relif_core.errors import DataError
from relif_core.tensors.clinical import ClinicalTensors, check_tensors
from relif_data.eicu import prepare
from relif_data.simulated_tables import MARKS, write_raw
from relif_data.synthetic_icu import CHANNELS, simulate


@pytest.mark.parametrize("compressed", [True, False])
def test_simulated_readings_and_labels_survive_the_raw_tables(tmp_path: Path, compressed: bool) -> None:
    cohort = simulate(60, hours=None, seed=4)
    source = write_raw(cohort, tmp_path / "raw", "eicu", compress=compressed)
    tensors = check_tensors(prepare(source, tmp_path / "out", decompensation=True, diagnosis_groups=True))
    arrays = tensors.arrays
    assert tensors.manifest["synthetic"] is True
    assert tensors.manifest["output_policy"] == "person"
    assert len(tensors.channels) == 17
    kept = np.isin(cohort.stays, arrays["stays"])
    assert (np.ceil(cohort.length_hours[~kept] * 60) < 300).all(), "only stays without any label are left out"
    rows = np.repeat(kept, cohort.rows_per_stay)
    counts = np.diff(arrays["offsets"])
    assert counts.tolist() == np.ceil(cohort.length_hours[kept]).astype(int).tolist()
    # The simulator records whole hours; the tensors add the incomplete last one, without measurements.
    recorded = np.arange(counts.sum()) - np.repeat(arrays["offsets"][:-1], counts) < np.repeat(
        cohort.rows_per_stay[kept], counts
    )
    assert not arrays["observed"][~recorded].any()
    names = [channel.name for channel in tensors.channels]
    for index, channel in enumerate(CHANNELS):
        column = names.index(channel.name.replace("Glasgow", "Glascow"))
        readings = cohort.readings[rows, index]
        seen = arrays["observed"][recorded, column] == 1
        np.testing.assert_array_equal(seen, ~np.isnan(readings), err_msg=channel.name)
        np.testing.assert_allclose(
            arrays["values"][recorded, column][seen], readings[seen], atol=0.04, rtol=0, err_msg=channel.name
        )
    mortality = arrays["masks/mortality"] == 1
    np.testing.assert_array_equal(arrays["labels/mortality"][mortality], cohort.died[kept][mortality])
    hour = cohort.hour[rows]
    remaining = np.repeat(cohort.length_hours[kept], cohort.rows_per_stay[kept]) - hour
    died = np.repeat(cohort.died[kept], cohort.rows_per_stay[kept])
    np.testing.assert_array_equal(arrays["masks/decompensation"][recorded], hour >= 5)
    # Raw tables know the minute of death only, so labels within a minute of the limit may differ.
    sure = (hour >= 5) & (np.abs(remaining - 24) > 0.02)
    np.testing.assert_array_equal(
        arrays["labels/decompensation"][recorded][sure], (died & (remaining < 24))[sure].astype(np.int16)
    )
    np.testing.assert_array_equal(arrays["masks/los"][recorded], hour >= 5)
    whole = (
        np.ceil(cohort.length_hours[kept] * 60) % 60 == 0
    )  # charted as ending on the hour: a last label of 0 minutes
    np.testing.assert_array_equal(arrays["masks/los"][~recorded], np.repeat(whole, counts)[~recorded])
    assert arrays["labels/diagnosis_groups"].sum(axis=1).tolist() == [1] * int(kept.sum())


def test_the_same_cohort_writes_the_same_files(tmp_path: Path) -> None:
    first = write_raw(simulate(12, hours=None, seed=1), tmp_path / "first", "eicu")
    second = write_raw(simulate(12, hours=None, seed=1), tmp_path / "second", "eicu")
    files = sorted(path.name for path in first.iterdir())
    assert files == sorted(path.name for path in second.iterdir())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)


def test_only_simulated_tables_are_replaced(tmp_path: Path) -> None:
    cohort = simulate(12, hours=None, seed=1)
    write_raw(cohort, write_raw(cohort, tmp_path / "raw", "eicu"), "eicu")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    for place in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex"):
        with pytest.raises(DataError, match="name a new folder"):
            write_raw(cohort, place, "mimic3")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


def test_simulated_tables_below_the_named_folder_stay_simulated(tmp_path: Path) -> None:
    source = write_raw(simulate(12, hours=None, seed=1), tmp_path / "above" / "raw", "eicu")
    near, far = (prepare(place, tmp_path / place.name / "out") for place in (source, source.parent))
    manifests = [ClinicalTensors.open(folder).manifest for folder in (near, far)]
    assert all(manifest["synthetic"] for manifest in manifests)
    assert manifests[0]["fingerprint"] == manifests[1]["fingerprint"]


def test_a_damaged_mark_is_named(tmp_path: Path) -> None:
    source = write_raw(simulate(12, hours=None, seed=1), tmp_path / "raw", "eicu")
    (source / MARKS["eicu"]).write_text("{")
    with pytest.raises(DataError, match="write the simulated tables again"):
        prepare(source, tmp_path / "out")
