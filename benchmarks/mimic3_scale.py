"""Time and memory of preparing MIMIC-III by CHARTEVENTS rows: the demo, copied with shifted ids.

    python benchmarks/mimic3_scale.py --source $RELIF_DATA/mimic3_demo --rows 4e6 15e6 30e6 60e6

Each copy of the demo gets its own subject, admission, stay and row ids, so that cohort, events and tensors
grow with the rows. Every size is prepared in a process of its own; peak memory is that process's largest
resident set. The last lines extrapolate the processor time to full MIMIC-III v1.4 by a straight line through
the measured sizes; wall time also shows what else the machine did. The replicated files (about 13 bytes a
row) lie in a temporary folder and are removed at the end.
"""

import argparse
import gzip
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from relif_core.files import atomic_file
from relif_data.mimic3.sources import TABLES, find_tables

FULL_ROWS = 330_712_483
SHIFTS = {"row_id": 10_000_000_000, "subject_id": 1_000_000, "hadm_id": 1_000_000, "icustay_id": 1_000_000}
RESULTS = Path(__file__).parent / "results" / "mimic3_scale.csv"
MEASURED = """
import json, sys, time
start = time.perf_counter()
from relif_data.mimic3 import prepare
prepare(sys.argv[1], sys.argv[2])
seconds = time.perf_counter() - start
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([seconds, time.process_time(), int(peak.split()[1]) / 1024]))
"""


def append_copy(tables: dict[str, pl.DataFrame], folder: Path, number: int) -> None:
    """Append copy ``number`` of every table, ids shifted, as one more member of its gzip file."""
    for name, frame in tables.items():
        shifted = frame.with_columns(
            (pl.col(column).cast(pl.Int64) + number * shift).alias(column)
            for column, shift in SHIFTS.items()
            if column in frame.columns and name != "d_icd_diagnoses"
        )
        if name == "d_icd_diagnoses" and number:
            continue
        text = shifted.write_csv(include_header=number == 0).encode()
        with open(folder / f"{name.upper()}.csv.gz", "ab") as stream:
            stream.write(gzip.compress(text, 1))


def main() -> None:
    """Measure the sizes asked for and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="folder of the MIMIC-III demo")
    parser.add_argument("--rows", type=float, nargs="+", default=[4e6, 15e6, 30e6, 60e6])
    parser.add_argument("--scratch", type=Path, default=None, help="where the replicated files may lie")
    arguments = parser.parse_args()
    found = find_tables(arguments.source)
    tables = {name: pl.read_csv(found[name].path, infer_schema=False).rename(str.lower) for name in TABLES}
    demo_rows = tables["chartevents"].height
    measured = []
    with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="mimic3-scale-") as scratch:
        source, made = Path(scratch) / "source", 0
        source.mkdir()
        for rows in sorted(arguments.rows):
            while made * demo_rows < rows:
                append_copy(tables, source, made)
                made += 1
            target = Path(scratch) / f"tensors-{made}"
            output = subprocess.run(
                [sys.executable, "-c", MEASURED, str(source), str(target)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            seconds, processor, memory = json.loads(output.splitlines()[-1])
            stay_hours = np.load(target / "values.npy", mmap_mode="r").shape[0]
            measured.append((made * demo_rows, stay_hours, seconds, processor, memory))
            print(
                f"{measured[-1][0]:,} rows: {seconds:.1f} s ({processor:.1f} s of processor time),"
                f" {memory:.0f} MiB",
                flush=True,
            )
    write_table(measured)


def write_table(measured: list[tuple[int, int, float, float, float]]) -> None:
    """Write the measurements, their straight line's prediction for the full data, and the machine."""
    count, hours, seconds, processor, memory = (
        np.array(column, dtype=float) for column in zip(*measured, strict=True)
    )
    slope, start = np.polyfit(count, processor, 1)
    residual = float(np.abs(start + slope * count - processor).max())
    place = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, polars {pl.__version__}, NumPy {np.__version__}"
    with atomic_file(RESULTS) as stream:
        header = "kind,chartevents_rows,stay_hours,seconds,processor_seconds,peak_memory_mib,machine,versions"
        lines = [
            header.split(","),
            *(
                ["measured", int(row), int(hour), f"{wall:.2f}", f"{cpu:.2f}", f"{peak:.0f}", place, versions]
                for row, hour, wall, cpu, peak in zip(count, hours, seconds, processor, memory, strict=True)
            ),
            ["largest residual of the straight line", "", "", "", f"{residual:.2f}", "", place, versions],
            ["extrapolated", FULL_ROWS, "", "", f"{start + slope * FULL_ROWS:.0f}", "", place, versions],
        ]
        text = "\n".join(
            ",".join(f'"{field}"' if "," in str(field) else str(field) for field in line) for line in lines
        )
        stream.write(text.encode() + b"\n")


if __name__ == "__main__":
    main()
