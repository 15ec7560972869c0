"""PhysioNet 2012: tensors equal a slow parse, inputs end before their label, bad data has a name."""

import csv
import dataclasses
import io
import json
import statistics
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from relif_core.errors import DataError, InputError
from relif_core.tensors.clinical import ClinicalTensors, check_tensors
from relif_data.physionet2012 import HOURS, VARIABLES, prepare

OUTCOME_HEADER = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"
COLUMN = {variable.name: code for code, variable in enumerate(VARIABLES)}


# --- an independent, slow reading of the files --------------------------------------------------------------


def parse_slowly(text: str) -> tuple[dict[tuple[int, str], float], dict[str, float]]:
    """Return {(hour, variable): last reading} and the general descriptors of one record."""
    ranges = {variable.name: (variable.low, variable.high) for variable in VARIABLES}
    timed = []
    descriptors = {}
    for line in csv.DictReader(io.StringIO(text)):
        minute = 60 * int(line["Time"][:2]) + int(line["Time"][3:])
        value = float(line["Value"])
        if line["Parameter"] in ranges:
            timed.append((minute, line["Parameter"], value))
        else:
            descriptors[line["Parameter"]] = value
    readings = {}
    for minute, name, value in sorted(timed, key=lambda item: item[0]):
        low, high = ranges[name]
        if minute < 48 * 60 and value != -1 and low <= value <= high:
            readings[minute // 60, name] = value
    return readings, descriptors


def grid_slowly(
    readings: dict[tuple[int, str], float], normal: dict[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return filled values and observation marks [48, 37] of one record."""
    values = np.empty((HOURS, len(VARIABLES)), dtype=np.float32)
    observed = np.zeros((HOURS, len(VARIABLES)), dtype=np.uint8)
    for column, variable in enumerate(VARIABLES):
        current = normal[variable.name]
        for hour in range(HOURS):
            if (hour, variable.name) in readings:
                current = readings[hour, variable.name]
                observed[hour, column] = 1
            values[hour, column] = current
    return values, observed


# --- a small source made up for the tests -------------------------------------------------------------------


def make_record(identity: int, rng: np.random.Generator) -> str:
    lines = [
        "Time,Parameter,Value",
        f"00:00,RecordID,{identity}",
        f"00:00,Age,{rng.integers(16, 91)}",
        f"00:00,Gender,{rng.integers(0, 2)}",
        "00:00,Height,-1",
        f"00:00,ICUType,{rng.integers(1, 5)}",
        f"00:00,Weight,{rng.choice([-1, 80.5])}",
    ]
    for minute in sorted(rng.integers(0, 2881, 60)):
        variable = VARIABLES[rng.integers(0, len(VARIABLES))]
        value = round(float(rng.uniform(variable.low, min(variable.high, 200))), 2)
        lines.append(f"{minute // 60:02d}:{minute % 60:02d},{variable.name},{value}")
    return "\n".join(lines) + "\n"


def make_set(first: int, stays: int, seed: int) -> tuple[dict[int, str], list[str]]:
    """Return records and outcome lines of a made-up set."""
    rng = np.random.default_rng(seed)
    records = {first + k: make_record(first + k, rng) for k in range(stays)}
    outcomes = [
        f"{identity},{rng.integers(-1, 30)},{rng.integers(-1, 20)},"
        f"{rng.choice([-1, 1, 2, 7, 8, 13, 14, 60])},-1,{k % 2}"
        for k, identity in enumerate(records)
    ]
    return records, outcomes


def as_files(records: dict[int, str], name: str) -> dict[str, bytes]:
    return {f"set-{name}/{identity}.txt": text.encode() for identity, text in records.items()}


@dataclasses.dataclass
class Small:
    """A made-up source folder that tests may spoil before writing it."""

    records: dict[str, dict[int, str]]
    outcomes: dict[str, list[str]]

    def write(self, folder: Path, pack, suffix: str = ".tar.gz") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, records in self.records.items():
            files = as_files(records, name)
            if suffix:
                pack(folder / f"set-{name}{suffix}", files)
            else:
                pack(folder, files)
        for name, lines in self.outcomes.items():
            (folder / f"Outcomes-{name}.txt").write_text("\n".join([OUTCOME_HEADER, *lines]) + "\n")
        return folder


@pytest.fixture
def small() -> Small:
    made = {"a": make_set(1001, 20, 1), "b": make_set(2001, 6, 2)}
    return Small(
        {name: item[0] for name, item in made.items()}, {name: item[1] for name, item in made.items()}
    )


def test_a_small_source_gives_what_a_slow_parse_gives(small, tmp_path, pack):
    tensors = check_tensors(prepare(small.write(tmp_path / "source", pack), tmp_path / "out"))
    normal = {channel.name: channel.normal for channel in tensors.channels}
    texts = small.records["a"] | small.records["b"]
    assert tensors.arrays["stays"].tolist() == sorted(texts)
    for stay, (identity, text) in enumerate(sorted(texts.items())):
        values, observed = grid_slowly(parse_slowly(text)[0], normal)
        rows = slice(HOURS * stay, HOURS * (stay + 1))
        np.testing.assert_array_equal(tensors.arrays["values"][rows], values, err_msg=str(identity))
        np.testing.assert_array_equal(tensors.arrays["observed"][rows], observed, err_msg=str(identity))


def test_normal_values_and_statistics_come_from_the_training_part(small, tmp_path, pack):
    tensors = ClinicalTensors.open(prepare(small.write(tmp_path / "source", pack), tmp_path / "out"))
    training = set(tensors.arrays["stays"][tensors.stays_of("train")].tolist())
    assert len(training) == 16
    collected: dict[str, list[float]] = {variable.name: [] for variable in VARIABLES}
    for identity, text in small.records["a"].items():
        if identity in training:
            for (_, name), value in parse_slowly(text)[0].items():
                collected[name].append(value)
    for channel in tensors.channels:
        if channel.name != "MechVent" and collected[channel.name]:
            assert channel.normal == pytest.approx(statistics.median(collected[channel.name]), rel=1e-5)
    rows = tensors.arrays["values"][np.repeat(tensors.arrays["split"] == 0, HOURS)].astype(float)
    np.testing.assert_allclose(tensors.manifest["statistics"]["mean"], rows.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(
        tensors.manifest["statistics"]["standard_deviation"], rows.std(axis=0), rtol=1e-4, atol=1e-6
    )


def test_splits_and_labels_by_hand(small, tmp_path, pack):
    small.outcomes["a"][0] = "1001,10,2,-1,-1,0"
    small.outcomes["a"][1] = "1002,11,3,2,-1,1"
    small.outcomes["a"][2] = "1003,-1,-1,14,5,1"
    small.outcomes["a"][3] = "1004,19,10,13,-23,0"
    small.records["a"][1001] = (
        "Time,Parameter,Value\n00:00,RecordID,1001\n00:00,Age,-1\n00:00,Gender,-1\n00:00,Height,170\n00:00,ICUType,4\n"
        "00:00,Weight,-1\n00:10,HR,80\n00:59,HR,90\n01:00,HR,100\n01:00,HR,101\n02:05,pH,735\n47:59,HR,60\n48:00,HR,61\n"
    )
    tensors = ClinicalTensors.open(prepare(small.write(tmp_path / "source", pack), tmp_path / "out"))
    arrays = tensors.arrays
    split = dict(zip(arrays["stays"].tolist(), arrays["split"].tolist(), strict=True))
    assert {split[identity] for identity in small.records["b"]} == {2}
    assert sorted(split[identity] for identity in small.records["a"]) == [0] * 16 + [1] * 4
    assert arrays["labels/mortality"][:4].tolist() == [0, 1, 1, 0]
    assert arrays["masks/los"][:4].tolist() == [0, 1, 1, 1]
    assert arrays["labels/los"][1:4].tolist() == [2, 9, 8]
    assert arrays["labels/saps"][[0, 1, 3]].tolist() == [0, 1, 3]
    assert arrays["labels/sofa"][[0, 1, 3]].tolist() == [0, 1, 3]
    assert arrays["masks/saps"][2] == arrays["masks/sofa"][2] == 0
    assert (arrays["groups/sex"][0], arrays["groups/age_band"][0], arrays["groups/icu_type"][0]) == (2, 4, 3)
    heart = arrays["values"][:HOURS, COLUMN["HR"]]
    assert heart.tolist() == [90, 101] + [101] * 45 + [60]
    assert arrays["observed"][:HOURS, COLUMN["HR"]].tolist() == [1, 1] + [0] * 45 + [1]
    assert arrays["observed"][:HOURS, COLUMN["pH"]].sum() == 0
    notes = " ".join(tensors.manifest["notes"])
    assert "pH 1" in notes
    assert "Set c was absent" in notes
    assert all(task.horizon_hours == HOURS for task in tensors.tasks)


def test_nothing_at_or_after_an_hour_changes_the_rows_before_it(small, tmp_path, pack):
    before = ClinicalTensors.open(prepare(small.write(tmp_path / "one", pack), tmp_path / "out1"))
    rng = np.random.default_rng(5)
    for identity, text in small.records["b"].items():
        lines = text.splitlines()
        for index, line in enumerate(lines[7:], start=7):
            moment, name, _ = line.split(",")
            if int(moment[:2]) >= 24:
                lines[index] = (
                    f"{rng.integers(24, 48)}:{rng.integers(10, 60)},{name},{VARIABLES[COLUMN[name]].high}"
                )
        small.records["b"][identity] = "\n".join(lines) + "\n"
    small.outcomes["b"] = [
        f"{line.split(',')[0]},1,1,3,-1,{1 - int(line[-1])}" for line in small.outcomes["b"]
    ]
    after = ClinicalTensors.open(prepare(small.write(tmp_path / "two", pack), tmp_path / "out2"))
    for name in ("values", "observed"):
        one, two = (item.arrays[name].reshape(-1, HOURS, len(VARIABLES)) for item in (before, after))
        np.testing.assert_array_equal(one[:20], two[:20])
        np.testing.assert_array_equal(one[20:, :24], two[20:, :24])
        assert (one[20:, 24:] != two[20:, 24:]).any()


def test_readings_at_the_end_of_the_window_are_no_input(small, tmp_path, pack):
    before = ClinicalTensors.open(prepare(small.write(tmp_path / "one", pack), tmp_path / "out1"))
    for records in small.records.values():
        for identity, text in records.items():
            records[identity] = text + "".join(f"48:00,{item.name},{item.high}\n" for item in VARIABLES)
    after = ClinicalTensors.open(prepare(small.write(tmp_path / "two", pack), tmp_path / "out2"))
    assert before.fingerprint == after.fingerprint


@pytest.mark.parametrize("suffix", [".tar.xz", ".zip", ""])
def test_every_packing_gives_the_same_data(small, tmp_path, pack, suffix):
    one = prepare(small.write(tmp_path / "one", pack), tmp_path / "out1")
    two = prepare(small.write(tmp_path / "two", pack, suffix), tmp_path / "out2")
    assert ClinicalTensors.open(one).fingerprint == ClinicalTensors.open(two).fingerprint


def test_line_ends_and_order_of_files_and_lines_do_not_matter(small, tmp_path, pack):
    one = prepare(small.write(tmp_path / "one", pack), tmp_path / "out1")
    for name, records in small.records.items():
        turned = {}
        for identity, text in reversed(records.items()):
            header, *lines = text.splitlines()
            # Lines of one minute keep their order; minutes may come in any.
            minutes = sorted({line[:5] for line in lines}, reverse=True)
            shuffled = [line for minute in minutes for line in lines if line[:5] == minute]
            turned[identity] = "\r\n".join([header, *shuffled])
        small.records[name] = turned
        small.outcomes[name].reverse()
    two = prepare(small.write(tmp_path / "two", pack), tmp_path / "out2")
    assert ClinicalTensors.open(one).fingerprint == ClinicalTensors.open(two).fingerprint


def test_the_same_options_give_the_same_bytes_and_another_seed_another_split(small, tmp_path, pack):
    source = small.write(tmp_path / "source", pack)
    one, two = prepare(source, tmp_path / "one"), prepare(source, tmp_path / "two")
    other = ClinicalTensors.open(prepare(source, tmp_path / "other", seed=1))
    for path in one.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (two / path.relative_to(one)).read_bytes(), path.name
    assert (other.arrays["split"] != ClinicalTensors.open(one).arrays["split"]).any()


def test_set_c_alone_may_be_the_test_set_and_lines_without_a_name_are_counted(small, tmp_path, pack):
    small.records["c"], small.outcomes["c"] = small.records.pop("b"), small.outcomes.pop("b")
    small.records["c"][2001] += "03:00,,-1\n04:00,,\n"
    tensors = ClinicalTensors.open(prepare(small.write(tmp_path / "source", pack), tmp_path / "out"))
    notes = " ".join(tensors.manifest["notes"])
    assert "test: set c. Set b was absent." in notes
    assert "Lines without a parameter name, passed over: 2." in notes


# --- faults -------------------------------------------------------------------------------------------------


def spoil_line(line: str):
    def spoil(small: Small) -> None:
        small.records["b"][2003] += f"{line}\n"

    return spoil


def spoil_descriptor(old: str, new: str):
    def spoil(small: Small) -> None:
        text = small.records["b"][2003]
        assert old in text
        small.records["b"][2003] = text.replace(old, new)

    return spoil


def spoil_outcome(line: str | None, extra: str | None = None):
    def spoil(small: Small) -> None:
        small.outcomes["b"] = [
            *(line if item.startswith("2003,") else item for item in small.outcomes["b"]),
            extra,
        ]
        small.outcomes["b"] = [item for item in small.outcomes["b"] if item]

    return spoil


FAULTS = {
    "no number": (spoil_line("01:00,HR,abc"), r"record 2003, line \d+: its value of HR is no number"),
    "empty value": (spoil_line("01:00,HR,"), "its value of HR is no number"),
    "nan": (spoil_line("01:00,HR,nan"), "is no number"),
    "infinite": (spoil_line("01:00,HR,1e999"), "is no number"),
    "unknown parameter": (spoil_line("01:00,Sodium,140"), "record 2003, line .*its parameter is unknown"),
    "late time": (spoil_line("48:01,HR,80"), "its time is not between"),
    "impossible minute": (spoil_line("01:60,HR,80"), "its time is not between"),
    "negative time": (spoil_line("-1:00,HR,80"), "its time is not between"),
    "endless time": (spoil_line(f"{'9' * 5000}:00,HR,80"), "its time is not between"),
    "no time": (spoil_line(",HR,80"), "its time is not between"),
    "too few fields": (spoil_line("01:00,HR"), "record 2003, line .*is not of the form"),
    "too many fields": (spoil_line("01:00,HR,80,1"), "record 2003, line .*is not of the form"),
    "empty line": (spoil_line(""), "record 2003, line .*not of the form"),
    "not ASCII": (spoil_line("01:00,HR,8\u00e9"), "is no number|not of the form"),
    "descriptor twice": (spoil_line("05:00,Age,50"), "record 2003 has 2 lines 'Age'"),
    "descriptor absent": (spoil_descriptor("00:00,Height,-1\n", ""), "record 2003 has 0 lines 'Height'"),
    "other record id": (
        spoil_descriptor("RecordID,2003", "RecordID,2004"),
        "record 2003: its RecordID is not possible",
    ),
    "impossible sex": (spoil_descriptor("Gender,", "Gender,7"), "record 2003: its Gender is not possible"),
    "header": (spoil_descriptor("Time,Parameter,Value", "time;parameter"), "2003.txt' does not start with"),
    "missing outcome": (spoil_outcome(None), "Outcomes-b.txt: no outcome for 1 stay.* 2003"),
    "outcome without record": (
        spoil_outcome("2003,1,1,3,-1,0", "2999,1,1,3,-1,0"),
        "no record for 1 stay.* 2999",
    ),
    "duplicate outcome": (
        spoil_outcome("2003,1,1,3,-1,0", "2003,1,1,3,-1,1"),
        "record 2003 has more than one outcome",
    ),
    "death not known": (spoil_outcome("2003,1,1,3,-1,-1"), "line 4: In-hospital_death is not an integer"),
    "outcome no number": (spoil_outcome("2003,x,1,3,-1,0"), "line 4: SAPS-I is not an integer"),
    "outcome empty": (spoil_outcome("2003,1,,3,-1,0"), "line 4: SOFA is not an integer"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_data_has_a_named_error_and_leaves_nothing(small, tmp_path, pack, fault):
    spoil, message = FAULTS[fault]
    spoil(small)
    with pytest.raises(DataError, match=message):
        prepare(small.write(tmp_path / "source", pack), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_record_in_two_sets_or_twice_in_one_is_refused(small, tmp_path, pack):
    small.records["b"][1005] = small.records["a"][1005]
    small.outcomes["b"].append("1005,1,1,3,-1,0")
    with pytest.raises(DataError, match="record 1005 is in more than one set"):
        prepare(small.write(tmp_path / "source", pack), tmp_path / "out")
    files = as_files(small.records["b"], "b")
    pack(tmp_path / "source/set-b.tar.gz", files | {"again/2001.txt": files["set-b/2001.txt"]})
    with pytest.raises(DataError, match="record 2001 is there twice"):
        prepare(tmp_path / "source", tmp_path / "out")


@pytest.mark.parametrize("name", ["9" * 25, "9" * 19, "²³", "x"])
def test_a_file_that_is_no_record_is_named(small, tmp_path, pack, name):
    source = small.write(tmp_path / "source", pack)
    pack(source / "set-b.tar.gz", as_files(small.records["b"], "b") | {f"set-b/{name}.txt": b"Time\n"})
    with pytest.raises(DataError, match=rf"{name}\.txt' is no record; expected files named"):
        prepare(source, tmp_path / "out")


def test_missing_files_are_named(small, tmp_path, pack):
    with pytest.raises(DataError, match="not a folder"):
        prepare(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found no set"):
        prepare(tmp_path / "empty", tmp_path / "out")
    source = small.write(tmp_path / "source", pack)
    (source / "Outcomes-b.txt").rename(tmp_path / "kept.txt")
    with pytest.raises(DataError, match=r"Outcomes-b.txt is missing"):
        prepare(source, tmp_path / "out")
    (source / "set-b.tar.gz").unlink()
    (tmp_path / "kept.txt").rename(source / "Outcomes-b.txt")
    with pytest.raises(DataError, match="no archive or folder set-b"):
        prepare(source, tmp_path / "out")


def test_broken_and_unsafe_archives_are_refused(small, tmp_path, pack):
    source = small.write(tmp_path / "source", pack, ".tar.xz")
    archive = source / "set-b.tar.xz"
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"set-b.tar.xz: broken or incomplete"):
        prepare(source, tmp_path / "out")
    pack(archive, {"../2001.txt": b""})
    with pytest.raises(DataError, match="climbs out"):
        prepare(source, tmp_path / "out")
    pack(archive, {"set-b/readme.md": b""})
    with pytest.raises(DataError, match=r"'set-b/readme\.md' is no record"):
        prepare(source, tmp_path / "out")
    pack(archive, {})
    with pytest.raises(DataError, match="holds no record files"):
        prepare(source, tmp_path / "out")


def test_an_outcome_column_that_is_missing_is_named(small, tmp_path, pack):
    source = small.write(tmp_path / "source", pack)
    path = source / "Outcomes-a.txt"
    path.write_text(path.read_text().replace("SOFA", "score"))
    with pytest.raises(DataError, match="column SOFA missing"):
        prepare(source, tmp_path / "out")


def test_options_out_of_range_are_refused(small, tmp_path, pack):
    with pytest.raises(InputError, match="validation=1"):
        prepare(small.write(tmp_path / "source", pack), tmp_path / "out", validation=1.0)
    with pytest.raises(InputError, match=r"seed=0\.5"):
        prepare(tmp_path / "source", tmp_path / "out", seed=0.5)


# --- the published data -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(data_folder, tmp_path_factory) -> tuple[Path, ClinicalTensors, float]:
    source = data_folder / "physionet2012"
    if not source.is_dir():
        pytest.skip("RELIF_DATA holds no physionet2012")
    start = time.process_time()
    folder = prepare(source, tmp_path_factory.mktemp("physionet") / "tensors")
    return source, ClinicalTensors.open(folder), time.process_time() - start


def test_real_sets_are_complete_and_read_in_time(real):
    _, tensors, seconds = real
    arrays = tensors.arrays
    assert seconds < 20, "processor time for 8,000 stays; the bar is 10 s on two cores for 4,000"
    assert np.bincount(arrays["split"]).tolist() == [3200, 800, 4000]
    test = arrays["split"] == 2
    assert arrays["labels/mortality"][~test].sum() == 554
    assert arrays["labels/mortality"][test].sum() == 568
    assert tensors.inputs == 2 * 37
    notes = json.dumps(tensors.manifest["notes"])
    assert "Stays without any time series, kept with filled rows: 10." in notes
    assert "Readings at 48:00, after the last row: 928." in notes
    check_tensors(tensors.folder)


def test_real_stays_equal_a_slow_parse(real):
    source, tensors, _ = real
    normal = {channel.name: channel.normal for channel in tensors.channels}
    position = {int(stay): index for index, stay in enumerate(tensors.arrays["stays"])}
    compared = 0
    for name in ("a", "b"):
        with tarfile.open(source / f"set-{name}.tar.xz") as archive:
            for index, member in enumerate(archive):
                stream = archive.extractfile(member) if member.isfile() and index % 16 == 3 else None
                if stream is None:
                    continue
                stay = position[int(Path(member.name).stem)]
                readings, descriptors = parse_slowly(stream.read().decode())
                values, observed = grid_slowly(readings, normal)
                rows = slice(HOURS * stay, HOURS * (stay + 1))
                np.testing.assert_array_equal(tensors.arrays["values"][rows], values, err_msg=member.name)
                np.testing.assert_array_equal(tensors.arrays["observed"][rows], observed, err_msg=member.name)
                assert tensors.arrays["groups/icu_type"][stay] == descriptors["ICUType"] - 1
                compared += 1
    assert compared >= 480


def test_real_labels_equal_the_outcome_files(real):
    source, tensors, _ = real
    position = {int(stay): index for index, stay in enumerate(tensors.arrays["stays"])}
    arrays = tensors.arrays
    for name in ("a", "b"):
        with open(source / f"Outcomes-{name}.txt", newline="") as stream:
            for line in csv.DictReader(stream):
                stay = position[int(line["RecordID"])]
                days, saps, sofa = (int(line[key]) for key in ("Length_of_stay", "SAPS-I", "SOFA"))
                assert arrays["labels/mortality"][stay] == int(line["In-hospital_death"])
                for task, known in (("los", days >= 0), ("saps", saps >= 0), ("sofa", sofa >= 0)):
                    assert arrays[f"masks/{task}"][stay] == known
                if days >= 0:
                    expected = min(days, 8) if days < 14 else 9
                    assert arrays["labels/los"][stay] == expected
                if saps >= 0:
                    assert arrays["labels/saps"][stay] == (saps > 10) + (saps > 14) + (saps > 18)
                if sofa >= 0:
                    assert arrays["labels/sofa"][stay] == (sofa > 2) + (sofa > 6) + (sofa > 9)


def test_real_score_classes_are_near_quarters_of_set_a(real):
    _, tensors, _ = real
    arrays = tensors.arrays
    for task in ("saps", "sofa"):
        used = (arrays["split"] < 2) & (arrays[f"masks/{task}"] == 1)
        share = np.bincount(arrays[f"labels/{task}"][used]) / used.sum()
        assert share.min() > 0.18
        assert share.max() < 0.31


def test_set_a_alone_is_split_in_three(small, tmp_path, pack):
    source = small.write(tmp_path / "source", pack)
    for path in ("set-b.tar.gz", "Outcomes-b.txt"):
        (source / path).unlink()
    tensors = check_tensors(prepare(source, tmp_path / "out"))
    stays = len(small.records["a"])
    share = round(0.2 * stays)
    assert np.bincount(tensors.arrays["split"]).tolist() == [stays - 2 * share, share, share]
    assert "test: as many stays of set a." in tensors.manifest["notes"][0]
    with pytest.raises(InputError, match=r"less than 0\.5"):
        prepare(source, tmp_path / "half", validation=0.5)


def test_lines_without_a_parameter_have_a_ceiling(small, tmp_path, pack):
    stay = next(iter(small.records["a"]))
    small.records["a"][stay] += "00:30,,5\n" * 500
    with pytest.raises(DataError, match=rf"record {stay}, line \d+: no parameter name, as on 500 of"):
        prepare(small.write(tmp_path / "source", pack), tmp_path / "out")


def test_a_variable_in_another_unit_is_refused(small, tmp_path, pack):
    """Most of a variable's readings out of range are an error, not 4,000 stays without it."""
    for records in small.records.values():
        for identity in records:
            records[identity] += "".join(f"{hour:02d}:00,Temp,98.6\n" for hour in range(3))
    with pytest.raises(DataError, match=r"set-a\.tar\.gz: \d+ of \d+ readings of Temp lie outside 25 to 45"):
        prepare(small.write(tmp_path / "source", pack), tmp_path / "out")


def test_two_columns_of_one_name_and_a_target_within_a_set_are_refused(small, tmp_path, pack):
    """Neither is the first of two outcomes taken nor anything written beside records."""
    source = small.write(tmp_path / "source", pack, "")
    with pytest.raises(InputError, match="lies inside the data folder"):
        prepare(source, source / "set-b" / "tensors")
    path = source / "Outcomes-b.txt"
    path.write_text(path.read_text().replace("Survival", "SOFA"))
    with pytest.raises(DataError, match=r"Outcomes-b\.txt: column SOFA stands there twice"):
        prepare(source, tmp_path / "out")
