"""Every repair finds exactly what was planted for it."""

from pathlib import Path

import pytest

from relif_core.errors import DataError, InputError
from relif_data.mimic3.cleaning import REPAIRS
from relif_data.mimic3.effects import TOGETHER, repair_effects
from relif_data.simulated_tables import plant_quirks, write_raw
from relif_data.synthetic_icu import simulate


def test_every_repair_finds_what_was_planted(tmp_path: Path) -> None:
    """Untouched simulated tables give no repair anything to do; planted quirks are counted one by one."""
    folder = write_raw(simulate(40, 48, seed=2), tmp_path / "raw", "mimic3", upper_case=True, compress=False)
    clean = {row["repair"]: row for row in repair_effects(folder).to_dicts()}
    assert all(row["events"] == row["value_cells"] == row["phenotypes_labels"] == 0 for row in clean.values())
    planted = plant_quirks(folder, each=6, seed=1)
    found = {row["repair"]: row for row in repair_effects(folder).to_dicts()}
    assert set(planted) == set(REPAIRS)
    for name, count in planted.items():
        assert count > 0
        if name == "all_diagnosis_codes":
            assert found[name]["phenotypes_labels"] > 0
        elif name == "los_after_death":
            # Two hours of each death, less those before the fifth hour, where no label stands.
            assert count <= found[name]["los_labels"] <= 3 * count
        elif name == "hospital_death":
            assert 0 < found[name]["mortality_labels"] <= count
        elif name == "impossible_values":
            # Values that another unrepaired quirk makes impossible are found too.
            assert found[name]["events"] >= count
        else:
            assert found[name]["events"] == count
            assert found[name]["value_cells"] > 0
    assert found[TOGETHER]["value_cells"] > 0


def test_only_simulated_tables_are_changed(tmp_path: Path) -> None:
    """A folder without the simulator's mark is left alone, compressed tables are named."""
    with pytest.raises(DataError, match="simulated tables only"):
        plant_quirks(tmp_path)
    folder = write_raw(simulate(10, 48, seed=2), tmp_path / "raw", "mimic3")
    with pytest.raises(InputError, match="at least one"):
        plant_quirks(folder, each=0)
    with pytest.raises(DataError, match="without compression"):
        plant_quirks(folder)
