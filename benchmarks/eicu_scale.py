"""Time and memory of reading eICU-like raw tables against their number of rows, at the full number of stays.

Usage: python benchmarks/eicu_scale.py FOLDER [--copies 1 2 4]

Writes made-up tables (no patient data) of 200,859 unit stays to FOLDER, `vitalPeriodic` and `nurseCharting`
in as many copies of 2.5 million rows each as stated, prepares them in a fresh process each time, and prints a
table with rows, seconds and peak memory (processor seconds too, since other work may share the machine), and
the line through the points extrapolated to the rows of eICU 2.0.
"""

import argparse
import gzip
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl

STAYS = 200_859
COPY_ROWS = 2_500_000
FULL_ROWS = 146_671_642 + 151_604_232 + 39_132_531
BLOCK_ROWS = 250_000
PROGRAM = """
import json, resource, sys, time
start = time.perf_counter()
from relif_data.eicu import prepare
prepare(sys.argv[1], sys.argv[2])
use = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([time.perf_counter() - start, use.ru_utime + use.ru_stime, use.ru_maxrss / 2**20]))
"""


def write_small_tables(folder: Path, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Write `patient` with eICU's lengths (median 1.6, mean 2.7 days); return stay ids and minutes."""
    stays = np.sort(rng.choice(np.arange(141_000, 3_354_000), STAYS, replace=False))
    minutes = np.minimum(rng.lognormal(np.log(2300), 1.0, STAYS), 60_000).astype(np.int64)
    died = np.where(rng.random(STAYS) < 0.09, "Expired", "Alive")
    number = np.arange(STAYS)
    pl.DataFrame(
        {
            "patientunitstayid": stays,
            "patienthealthsystemstayid": number // 1.2,
            "uniquepid": [f"{index % 99:03d}-{index // 2}" for index in number],
            "gender": np.where(number % 2, "Female", "Male"),
            "age": rng.integers(18, 89, STAYS).astype(str),
            "ethnicity": "Caucasian",
            "hospitalid": number % 208,
            "unittype": "MICU",
            "unitvisitnumber": number % 3 + 1,
            "unitstaytype": "admit",
            "unitdischargeoffset": minutes,
            "unitdischargestatus": died,
            "hospitaldischargeoffset": minutes + 3000,
            "hospitaldischargestatus": died,
            "admissionheight": 170,
            "admissionweight": 80,
        }
    ).write_csv(folder / "patient.csv")
    return stays, minutes


def write_blocks(folder: Path, stays: np.ndarray, minutes: np.ndarray, rng: np.random.Generator) -> None:
    """Write one copy of each large table, as a compressed member with and one without the header."""
    labels = [
        ("Heart Rate", "Heart Rate"),
        ("Respiratory Rate", "Respiratory Rate"),
        ("O2 Saturation", "O2 Saturation"),
        ("Non-Invasive BP", "Non-Invasive BP Systolic"),
        ("Pain Score/Goal", "Pain Score"),
        ("Sedation Scale/Score/Goal", "Sedation Score"),
    ]
    members: dict[str, list[bytes]] = {"vitalPeriodic": [], "nurseCharting": []}
    for block in range(COPY_ROWS // BLOCK_ROWS):
        place = np.sort(rng.integers(0, STAYS, BLOCK_ROWS))
        minute = (rng.random(BLOCK_ROWS) * minutes[place]).astype(np.int64)
        number = rng.integers(60, 120, (4, BLOCK_ROWS))
        chosen = rng.integers(0, len(labels), BLOCK_ROWS)
        frames = {
            "vitalPeriodic": {
                "vitalperiodicid": np.arange(BLOCK_ROWS) + 10**8,
                "patientunitstayid": stays[place],
                "observationoffset": minute,
                "temperature": "",
                "sao2": number[0] % 20 + 80,
                "heartrate": number[1],
                "respiration": number[2] % 30 + 5,
                "cvp": "",
                "etco2": "",
                "systemicsystolic": number[3],
                "systemicdiastolic": number[0] // 2 + 20,
                "systemicmean": number[2],
                **dict.fromkeys(("pasystolic", "padiastolic", "pamean", "st1", "st2", "st3", "icp"), ""),
            },
            "nurseCharting": {
                "nursingchartid": np.arange(BLOCK_ROWS) + 10**8,
                "patientunitstayid": stays[place],
                "nursingchartoffset": minute,
                "nursingchartentryoffset": minute + 5,
                "nursingchartcelltypecat": "Vital Signs",
                "nursingchartcelltypevallabel": np.array([label for label, _ in labels])[chosen],
                "nursingchartcelltypevalname": np.array([name for _, name in labels])[chosen],
                "nursingchartvalue": number[1],
            },
        }
        for table, content in frames.items():
            text = io.BytesIO()
            pl.DataFrame(content).write_csv(text, include_header=block == 0)
            members[table].append(text.getvalue())
    for table, parts in members.items():
        first = b"".join(parts)
        (folder / f"{table}.first").write_bytes(gzip.compress(first, 1))
        (folder / f"{table}.more").write_bytes(gzip.compress(first.partition(b"\n")[2], 1))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    (folder / "source").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    write_blocks(folder, *write_small_tables(folder / "source", rng), rng)
    rows, seconds = [], []
    print("| rows | seconds | processor seconds | peak GiB |\n|---:|---:|---:|---:|")
    for copies in arguments.copies:
        for table in ("vitalPeriodic", "nurseCharting"):
            with open(folder / "source" / f"{table}.csv.gz", "wb") as stream:
                for copy in range(copies):
                    stream.write((folder / f"{table}.{'more' if copy else 'first'}").read_bytes())
        shutil.rmtree(folder / "target", ignore_errors=True)
        output = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(folder / "source"), str(folder / "target")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        taken, processor, memory = json.loads(output)
        rows.append(2 * copies * COPY_ROWS)
        seconds.append(processor)
        print(f"| {rows[-1]:,} | {taken:.1f} | {processor:.1f} | {memory:.2f} |", flush=True)
    if len(rows) > 1:
        slope, start = np.polyfit(rows, seconds, 1)
        print(f"\n{slope * 1e6:.2f} processor seconds per million rows + {start:.1f}")
        print(
            f"extrapolated to the {FULL_ROWS:,} rows of eICU 2.0: {(start + slope * FULL_ROWS) / 60:.1f}"
            " minutes"
        )


if __name__ == "__main__":
    main()
