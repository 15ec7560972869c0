"""Time and memory of preparing MIMIC-III by CHARTEVENTS rows: the demo, copied with shifted ids.

    python benchmarks/mimic3_scale.py --source $RELIF_DATA/mimic3_demo --rows 4e6 15e6 30e6 60e6

Each copy of the demo gets its own subject, admission, stay and row ids, so that cohort, events and tensors
grow with the rows. Every size is prepared in a process of its own; peak memory is that process's largest
resident set, and beside it the greatest anonymous part and the greatest part mapped from files, which the
system may take back. The last line extrapolates to full MIMIC-III v1.4 by straight lines through the
measured sizes: processor time to its rows, memory, which grows with stay-hours, to its stay-hours. Those
are the benchmark's 3.45 million hours with a remaining length of stay (Harutyunyan et al. 2019) and at
most five hours before them in each of its 42,276 stays. Wall time also shows what else the machine did.
The replicated files (about 13 bytes a row) lie in a temporary folder and are removed at the end.
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
from relif_data.mimic3.cohort import TABLES, find_tables

FULL_ROWS = 330_712_483
FULL_STAY_HOURS = 3_450_000 + 5 * 42_276
SHIFTS = {"row_id": 10_000_000_000, "subject_id": 1_000_000, "hadm_id": 1_000_000, "icustay_id": 1_000_000}
RESULTS = Path(__file__).parent / "results" / "mimic3_scale.csv"
MEASURED = """
import json, sys, threading, time
start = time.perf_counter()
peaks = {"RssAnon": 0, "RssFile": 0, "VmHWM": 0}
def look():
    for line in open("/proc/self/status"):
        name, _, size = line.partition(":")
        if name in peaks:
            peaks[name] = max(peaks[name], int(size.split()[0]) / 1024)
def watch():
    while True:
        look()
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
from relif_data.mimic3 import prepare
prepare(sys.argv[1], sys.argv[2])
seconds = time.perf_counter() - start
look()
print(json.dumps([seconds, time.process_time(), peaks["VmHWM"], peaks["RssAnon"], peaks["RssFile"]]))
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
    found = find_tables(arguments.source, frozenset())
    tables = {
        name: pl.read_csv(found[name].path, infer_schema=False).rename(str.lower)
        for name in map(str.lower, TABLES)
    }
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
            numbers = json.loads(output.splitlines()[-1])
            stay_hours = np.load(target / "values.npy", mmap_mode="r").shape[0]
            measured.append((made * demo_rows, stay_hours, *numbers))
            print(
                "{:,} rows, {:,} stay-hours: {:.1f} s ({:.1f} s of processor time), {:.0f} MiB: at most"
                " {:.0f} anonymous, {:.0f} of files".format(*measured[-1]),
                flush=True,
            )
    write_table(measured)


def write_table(measured: list[tuple[float, ...]]) -> None:
    """Write the measurements, their straight lines' values for the full data, and where they were taken."""
    columns = np.array(measured).T
    lines = [np.polyfit(columns[0], column, 1) for column in columns]
    residual = float(np.abs(np.polyval(lines[3], columns[0]) - columns[3]).max())
    place = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, polars {pl.__version__}, NumPy {np.__version__}"
    memory = [np.polyfit(columns[1], column, 1) for column in columns[4:]]
    full = [f"{np.polyval(line, FULL_STAY_HOURS):.0f}" for line in memory]
    rows = [
        *(["measured", *(f"{number:.2f}".removesuffix(".00") for number in row)] for row in measured),
        ["largest residual of the straight line", "", "", "", f"{residual:.2f}", "", "", ""],
        ["extrapolated", FULL_ROWS, FULL_STAY_HOURS, "", f"{np.polyval(lines[3], FULL_ROWS):.0f}", *full],
    ]
    header = (
        "kind,chartevents_rows,stay_hours,seconds,processor_seconds,peak_memory_mib,anonymous_mib,file_mib"
    )
    text = "".join(
        ",".join(map(str, row)) + f',"{place}","{versions}"\n' if row[0] != "kind" else ",".join(row) + "\n"
        for row in [f"{header},machine,versions".split(","), *rows]
    )
    with atomic_file(RESULTS) as stream:
        stream.write(text.encode())


if __name__ == "__main__":
    main()
